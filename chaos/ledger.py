"""Faults and their undos on disk: a line for each fault, synced before it begins, and one when it is healed.

A line counts when it is whole: a torn last line is of a fault that never began. Any number of programs may
read and append at once.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from chaos.errors import ChaosError
from chaos.files import take
from chaos.undo import AnyUndo

_PATIENCE_S = 0.5


class Opened(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="opened"):
    """A fault that is about to begin."""

    id: str
    fault: str
    """As a person would write it."""
    targets: tuple[str, ...]
    undo: tuple[AnyUndo, ...]
    time_ns: int


class Healed(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", tag="healed"):
    """A fault that is undone; `by` harness, guard, sweep or panic."""

    id: str
    by: str
    time_ns: int


class Contents(msgspec.Struct, frozen=True):
    """A ledger as it was read: the faults that are open, how many lines are damaged, and what was healed."""

    open: tuple[Opened, ...]
    damaged: int
    healed: tuple[Healed, ...] = ()
    opened: tuple[Opened, ...] = ()


class Ledger:
    """The ledger of one stack. Raises ChaosError when the disk refuses it: then nothing may begin."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def open_fault(self, id: str, fault: str, targets: Sequence[str], undo: tuple[AnyUndo, ...]) -> None:
        """Writes the undo down; when this returns, it outlives us."""
        entry = Opened(id=id, fault=fault, targets=tuple(sorted(targets)), undo=undo, time_ns=boottime_ns())
        self._append(msgspec.json.encode(entry))

    def heal(self, id: str, by: str) -> None:
        """Writes down that a fault is undone."""
        self._append(msgspec.json.encode(Healed(id=id, by=by, time_ns=boottime_ns())))

    def read(self) -> Contents:
        """What is open. A damaged line is counted, and its fault lost to us."""
        try:
            raw = self.path.read_bytes()
        except FileNotFoundError:
            return Contents((), 0)
        except OSError as error:
            raise _unusable(self.path, error) from error
        opened: dict[str, Opened] = {}
        ever: list[Opened] = []
        healed: list[Healed] = []
        damaged = 0
        lines = raw.split(b"\n")
        for number, line in enumerate(lines):
            if not line.strip(b"\0 "):
                continue
            try:
                entry = msgspec.json.decode(line, type=Opened | Healed)
            except (msgspec.MsgspecError, UnicodeDecodeError):
                damaged += number < len(lines) - 1  # the last one was never whole: nothing began
                continue
            if isinstance(entry, Opened):
                opened[entry.id] = entry
                ever.append(entry)
            else:
                opened.pop(entry.id, None)
                healed.append(entry)
        return Contents(tuple(opened.values()), damaged, tuple(healed), tuple(ever))

    def clear(self) -> None:
        """Begins anew; only when nothing is open."""
        with self._locked() as handle:
            if not self.read().open:
                os.ftruncate(handle, 0)
                os.fsync(handle)

    def _append(self, line: bytes) -> None:
        with self._locked() as handle:
            size = os.fstat(handle).st_size
            whole = size == 0 or os.pread(handle, 1, size - 1) == b"\n"
            data = (b"" if whole else b"\n") + line + b"\n"
            written = os.write(handle, data)
            os.fsync(handle)
            if written != len(data):
                raise OSError("the line was written by half")

    @contextlib.contextmanager
    def _locked(self) -> Iterator[int]:
        try:
            new = not self.path.exists()
            handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
            try:
                take(
                    handle, _PATIENCE_S
                )  # else without: a line is one write, and a lost end of line is mended
                yield handle
                if new:
                    _sync_folder(self.path.parent)
            finally:
                os.close(handle)
        except OSError as error:
            raise _unusable(self.path, error) from error


def boottime_ns() -> int:
    """Nanoseconds since the machine started, its sleep included."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _unusable(path: Path, error: OSError) -> ChaosError:
    reason = (error.strerror or str(error)).lower()
    return ChaosError(str(path), f"the undo of a fault cannot be kept there: {reason}", "make room there")
