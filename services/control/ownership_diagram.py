"""The pictures of ownership, drawn from the tables that decide it.

`python -m services.control.ownership_diagram` prints the part of `docs/failover.md` between its two marks;
`… --write` puts it there.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from services.control import failback, recovery
from services.control.stances import TABLE, VOICES, Stance, Voice

PAGE = Path(__file__).parents[2] / "docs" / "failover.md"
BEGIN = "<!-- drawn by services.control.ownership_diagram -->"
END = "<!-- end of what is drawn -->"


def _diagram(start: str, names: Mapping[str, str], arrows: Iterable[tuple[str, str, str]]) -> str:
    """A mermaid state diagram; `names` says what each state is called, arrows with the same ends are one."""
    keys = {name: f"s{place}" for place, name in enumerate(names)}
    joined: dict[tuple[str, str], list[str]] = {}
    for source, target, word in arrows:
        joined.setdefault((source, target), []).append(word)
    lines = ["```mermaid", "stateDiagram-v2"]
    lines += [f'    state "{names[name]}" as {key}' for name, key in keys.items()]
    lines.append(f"    [*] --> {keys[start]}")
    lines += [f"    {keys[a]} --> {keys[b]}: {' / '.join(words)}" for (a, b), words in joined.items()]
    return "\n".join((*lines, "```"))


def drawn() -> str:
    """All pictures, with their headings."""
    stances = _diagram(
        Stance.ELSEWHERE,
        {stance: stance.value for stance in Stance},
        (
            (start, rule.to, symbol + (f" [{', '.join(rule.do)}]" if rule.do else ""))
            for (start, symbol), rule in TABLE.items()
        ),
    )
    voices = _diagram(
        Voice.SILENT,
        {voice: voice.value for voice in Voice},
        ((start, to, symbol) for (start, symbol), to in VOICES.items()),
    )
    home = _diagram(
        failback.Away.HOME,
        {away: away.value for away in failback.Away},
        ((start, to, sign) for (start, sign), to in failback.TABLE.items()),
    )
    recovering = _diagram(
        recovery.Stage.WAITING,
        {stage: stage.value for stage in recovery.Stage},
        (
            (start, rule.to, report + (f" [{', '.join(rule.do)}]" if rule.do else ""))
            for (start, report), rule in recovery.TABLE.items()
        ),
    )
    parts = (
        ("How a host stands to a unit (`stances.py`; in brackets: what its agents are told)", stances),
        ("Whether a host may act at all (`stances.py`)", voices),
        ("When a unit goes home (`failback.py`)", home),
        ("Whether a promoted agent serves again (`recovery.py`)", recovering),
    )
    return "\n\n".join(f"**{title}**\n\n{picture}" for title, picture in parts)


def placed(page: str) -> str:
    """The page with its pictures drawn anew. Raises ValueError where a mark is missing."""
    head, _, rest = page.partition(BEGIN)
    _, mark, tail = rest.partition(END)
    if not mark:
        raise ValueError(f"{PAGE.name}: the marks {BEGIN} and {END} are missing; put them back")
    return f"{head}{BEGIN}\n\n{drawn()}\n\n{END}{tail}"


if __name__ == "__main__":
    if sys.argv[1:] == ["--write"]:
        PAGE.write_text(placed(PAGE.read_text()))
    else:
        print(drawn())
