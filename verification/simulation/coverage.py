"""What histories really went through: each kind of fault, each thing it does, each row of the tables.

A fault counts as *effective* when something was lost, held, stopped or refused because of it, not when it was
merely injected. The literal tables of `services.control` are read through a tally while histories run.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from services.control import failback, ownership, recovery, stances
from verification.simulation.faults import Kind

EFFECTS: Final = (
    "silent and performed",
    "silent and not performed",
    "performed after it was given up",
    "refused",
    "lost in a cut of one way",
    "lost in a cut of both ways",
    "lost on a noisy link",
    "arrived twice",
    "overtaken",
    "under way when the leader changed",
    "elections",
    "fence",
    "watchdog",
    "killed",
    "moved",
    "promoted",
    "failback",
    "named by a third host",
)
"""Things that have to happen, besides the faults; keys of a history's counts."""


class Tally(dict[Any, Any]):
    """A table that counts the rows which are looked up."""

    def __init__(self, name: str, rows: Mapping[Any, Any]) -> None:
        super().__init__(rows)
        self.name = name
        self.seen: Counter[tuple[str, str]] = Counter()

    def get(self, key: Any, default: Any = None) -> Any:
        """As in a dict."""
        row = super().get(key)
        if row is None:
            return default
        self.seen[key] += 1
        return row

    def row(self, key: tuple[str, str]) -> str:
        """How a row is called in counts."""
        return f"row {self.name}: {key[0]} + {key[1]}"


_TALLIES: Final = (
    (ownership, "TABLE", Tally("stance", stances.TABLE)),
    (ownership, "VOICES", Tally("voice", stances.VOICES)),
    (failback, "TABLE", Tally("fail-back", failback.TABLE)),
    (recovery, "TABLE", Tally("recovery", recovery.TABLE)),
)

ROWS: Final = tuple(tally.row(key) for _, _, tally in _TALLIES for key in tally)
"""Every row of the four tables."""

_DROPPED = "hostd drops the recovery of an agent that it does not serve any more, without a word to it"
_ONE_DAEMON = "a second daemon of a host finds its ports taken"

UNREACHED: Final[Mapping[str, str]] = {
    "row recovery: waiting + failed once too often": "a recovery waits only before its first attempt",
    **{f"row recovery: {stage} + unit lost": _DROPPED for stage in recovery.Stage if stage != "ended"},
    "row voice: silent + record is another daemon's": _ONE_DAEMON,
    "row voice: acting + record is another daemon's": _ONE_DAEMON,
    "row voice: fenced + record is another daemon's": _ONE_DAEMON,
}
"""Rows that no history reaches, and why."""

SELDOM: Final = frozenset(
    {
        *(
            f"row stance: {stance} + record names us at another epoch"
            for stance in ("serving", "quiescing", "drained", "yielding", "unsure")
        ),
        "row fail-back: going back + switch-over given up",
        "row recovery: checking + failed, and may be tried again",
        "row recovery: checking + failed once too often",
    }
)
"""Rows that hundreds of weeks may miss, so that nobody owes them there: a unit that goes to another host
and back while this one is stopped; an agent that stops between its promotion and its check; a return home
that meets work without end."""


def watch() -> None:
    """The tables are tallied from now on, from zero."""
    for module, name, tally in _TALLIES:
        setattr(module, name, tally)
        tally.seen.clear()


def rows_seen() -> Iterator[tuple[str, int]]:
    """Rows looked up since `watch`, and how often."""
    for _, _, tally in _TALLIES:
        for key, count in tally.seen.items():
            yield tally.row(key), count


@dataclass(frozen=True, slots=True)
class Coverage:
    """`kinds`: injected and effective; `effects`, `rows`: how often. `missing`: what never happened."""

    kinds: Mapping[str, tuple[int, int]]
    effects: Mapping[str, int]
    rows: Mapping[str, int]

    @property
    def missing(self) -> tuple[str, ...]:
        """Everything that can happen and did not."""
        never = [f"fault {kind}" for kind, (_, effective) in self.kinds.items() if not effective]
        never += [effect for effect, count in self.effects.items() if not count]
        return (*never, *(row for row, count in self.rows.items() if not count and row not in UNREACHED))

    @property
    def owing(self) -> tuple[str, ...]:
        """What is missing and that hundreds of weeks have to show."""
        return tuple(what for what in self.missing if what not in SELDOM)


def coverage(counts: Mapping[str, int]) -> Coverage:
    """From the counts of one history, or of many added up."""
    return Coverage(
        kinds={kind: (counts.get(f"fault {kind}", 0), counts.get(f"hit {kind}", 0)) for kind in Kind},
        effects={effect: counts.get(effect, 0) for effect in EFFECTS},
        rows={row: counts.get(row, 0) for row in ROWS},
    )
