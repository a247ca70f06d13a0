"""Histories that once broke a promise, with the bug that each of them found: `regressions.json`.

They are kept as explicit schedules of faults, not as seeds: a seed means another history once the mix of
faults changes. Each of them has to pass with the protocol as it is, and to break the
same promise again with its bug planted.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from verification.simulation.faults import Fault, Kind
from verification.simulation.history import Parameters

FILE = Path(__file__).with_name("regressions.json")


class Blow(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """One fault of a schedule, as it stands in the file."""

    at_ms: int
    kind: Kind
    host: str
    other: str
    for_ms: int
    amount: int = 0


class Regression(msgspec.Struct, frozen=True, omit_defaults=True, forbid_unknown_fields=True):
    """`bug`: what was wrong. `mutant`: the planted bug that is the same one. `check`: what caught it."""

    bug: str
    mutant: str
    check: str
    seed: int
    seconds: int
    ppm: tuple[int, ...]
    faults: tuple[Blow, ...]
    workers: int = 2

    def parameters(self) -> Parameters:
        faults = tuple(Fault(b.at_ms, b.kind, b.host, b.other, b.for_ms, b.amount) for b in self.faults)
        return Parameters(self.seed, self.seconds, faults=faults, ppm=self.ppm, workers=self.workers)


def regression(bug: str, mutant: str, check: str, parameters: Parameters) -> Regression:
    """An entry for the file."""
    faults = tuple(
        Blow(f.at_ms, f.kind, f.host, f.other, f.for_ms, f.amount) for f in parameters.faults or ()
    )
    workers = parameters.workers or 2
    ppm = parameters.ppm or (0,) * workers
    return Regression(bug, mutant, check, parameters.seed, parameters.seconds, ppm, faults, workers)


def load() -> tuple[Regression, ...]:
    """Raises msgspec.ValidationError, naming the place, when the file is wrong."""
    return msgspec.json.decode(FILE.read_bytes(), type=tuple[Regression, ...])


def save(entries: tuple[Regression, ...]) -> None:
    FILE.write_bytes(msgspec.json.format(msgspec.json.encode(entries), indent=1) + b"\n")


def add(entry: Regression) -> None:
    """Into the file, in place of an earlier one of the same bug."""
    kept = [one for one in load() if (one.bug, one.mutant) != (entry.bug, entry.mutant)]
    save(tuple(sorted((*kept, entry), key=lambda one: (one.mutant, one.bug))))
