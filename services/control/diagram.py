"""The picture of the agents' life cycle, drawn from the table that decides it.

`python -m services.control.diagram` prints `docs/agent-life-cycle.md`.
"""

from __future__ import annotations

from services.control.agent_table import PUBLISHED, TABLE, Phase

HEADER = """# Life cycle of an agent on its host

Drawn from the table in `services/control/agent_table.py` by `python -m services.control.diagram`; a test
compares. In brackets: what hostd does. A pair of phase and event that is not drawn changes nothing.
"""


def mermaid() -> str:
    """A state diagram: one arrow for each pair of phases, with all events that lead along it."""
    arrows: dict[tuple[Phase, Phase], list[str]] = {}
    for (phase, symbol), rule in TABLE.items():
        if phase is not rule.to or rule.do:
            done = f" [{', '.join(rule.do)}]" if rule.do else ""
            arrows.setdefault((phase, rule.to), []).append(f"{symbol}{done}")
    lines = ["stateDiagram-v2", f"    [*] --> {Phase.DOWN}"]
    lines += [f"    {start} --> {end}: {' / '.join(events)}" for (start, end), events in arrows.items()]
    return "\n".join(lines)


def page() -> str:
    """The whole page."""
    rows = [f"| {phase} | {PUBLISHED[phase]} |" for phase in Phase]
    table = "\n".join(["| phase | what the world is told |", "|---|---|", *rows])
    return f"{HEADER}\n```mermaid\n{mermaid()}\n```\n\n{table}\n"


if __name__ == "__main__":
    print(page(), end="")
