"""The journal of many histories: one line per batch, so that a run that was killed goes on where it was."""

from __future__ import annotations

import hashlib
import os
from collections import Counter
from pathlib import Path
from types import TracebackType

import msgspec

from verification.simulation.checkers import Violation

SCHEMA = "threenines.simulation/1"
ROOT = Path(__file__).resolve().parents[2]
SIMULATED = ("services/control", "verification/simulation")


class JournalError(Exception):
    """The journal cannot be used: `what` is wrong with it, and how to `mend` it."""

    def __init__(self, path: Path, what: str, mend: str) -> None:
        super().__init__(f"{path}: {what}; {mend}")
        self.path = path
        self.what = what
        self.mend = mend


class Header(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag=SCHEMA, tag_field="schema"):
    """What a journal is about. Only a run of the very same goes on with it."""

    first: int
    seeds: int
    seconds: int
    faults: int
    variant: str
    code: str


class Finding(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A broken promise, and the seed of its history."""

    seed: int
    check: str
    at_ns: int
    detail: str

    @property
    def violation(self) -> Violation:
        return Violation(self.check, self.at_ns, self.detail)


class Batch(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What came of some histories. `wall_s`: since the batch before, as the run saw it."""

    seeds: tuple[int, ...]
    counts: dict[str, int]
    simulated_s: float
    findings: tuple[Finding, ...] = ()
    wall_s: float = 0.0

    def tally(self) -> Counter[str]:
        return Counter(self.counts)


def code_digest() -> str:
    """Of everything that decides what a history is."""
    digest = hashlib.sha256()
    for folder in SIMULATED:
        for path in sorted((ROOT / folder).glob("*.py")):
            digest.update(path.name.encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class Journal:
    """Open for the time of a run. Raises JournalError when the file belongs to something else."""

    def __init__(self, path: Path, header: Header) -> None:
        self.path = path
        self.batches: list[Batch] = []
        path.parent.mkdir(parents=True, exist_ok=True)
        content = path.read_bytes() if path.exists() else b""
        whole = content[: content.rfind(b"\n") + 1]  # what a kill cut short is done again
        if whole:
            self._read(whole.splitlines(), header)
        self._file = path.open("r+b" if path.exists() else "xb")
        self._file.truncate(len(whole))
        self._file.seek(len(whole))
        if not whole:
            self._write(msgspec.json.encode(header))

    def _read(self, lines: list[bytes], header: Header) -> None:
        mend = "remove it, or name another one with --journal"
        try:
            found = msgspec.json.decode(lines[0], type=Header)
            self.batches = [msgspec.json.decode(line, type=Batch) for line in lines[1:]]
        except msgspec.MsgspecError as error:
            raise JournalError(self.path, f"is no journal of a simulation ({error})", mend) from None
        for name in Header.__struct_fields__:
            if getattr(found, name) != getattr(header, name):
                what = f"is of another run: {name} {getattr(found, name)}, now {getattr(header, name)}"
                raise JournalError(self.path, what, mend)

    @property
    def done(self) -> frozenset[int]:
        """Seeds that need not be run again."""
        return frozenset(seed for batch in self.batches for seed in batch.seeds)

    def add(self, batch: Batch) -> None:
        """On the disk when this returns."""
        self._write(msgspec.json.encode(batch))

    def _write(self, line: bytes) -> None:
        self._file.write(line + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def __enter__(self) -> Journal:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
