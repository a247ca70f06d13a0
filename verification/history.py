"""Raw history on disk: written so that a crash loses no more than the last line, read with suspicion."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from loadtests.record import Kind, Record, encode_line

T = TypeVar("T")

__all__ = ["Completed", "History", "HistoryError", "Journal", "Kind", "Note", "Operation", "Record"]


class HistoryError(Exception):
    """A history that cannot be judged: where (file and line), what is wrong, what to do."""

    def __init__(self, where: str, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}; {mend}")
        self.where = where
        self.what = what
        self.mend = mend


@dataclass(frozen=True)
class Note:
    """Something odd in a history that does not stop it from being judged."""

    where: str
    what: str


@dataclass(frozen=True, slots=True)
class Operation:
    """An invocation with its completion, or without one when the history ends before it."""

    invoke: Record
    completion: Record | None

    @property
    def f(self) -> str:
        """What was done."""
        return self.invoke.f

    @property
    def key(self) -> str | None:
        """To what."""
        return self.invoke.key

    @property
    def kind(self) -> Kind:
        """How it ended; an operation without a completion is `info`: nobody knows."""
        return Kind.INFO if self.completion is None else self.completion.type

    def completed(self) -> Completed | None:
        """The operation as one that has ended; None when it has not."""
        return None if self.completion is None else Completed(self.invoke, self.completion)


@dataclass(frozen=True, slots=True)
class Completed:
    """An invocation and its completion."""

    invoke: Record
    end: Record

    @property
    def duration_ms(self) -> float:
        """Milliseconds between the two."""
        return (self.end.time_ns - self.invoke.time_ns) / 1e6

    def value(self, kind: type[T]) -> T:
        """The completion's value. Raises HistoryError when it has another shape."""
        return value_of(self.end, kind)


def value_of(record: Record, kind: type[T]) -> T:
    """The record's value as `kind`. Raises HistoryError when it has another shape."""
    try:
        return msgspec.json.decode(record.value, type=kind)
    except msgspec.MsgspecError as error:
        raise HistoryError(
            f"{record.process} {record.f} at {record.time_ns}",
            f"its value does not fit ({error})",
            "judge the run with the version that wrote it",
        ) from error


@dataclass(frozen=True)
class History:
    """The operations of one or several history files, each file in its own order."""

    operations: tuple[Operation, ...]
    notes: tuple[Note, ...] = ()
    sources: tuple[str, ...] = ()
    _by_f: dict[str, list[Operation]] = field(default_factory=dict, repr=False, compare=False)

    def of(self, *names: str) -> Iterator[Operation]:
        """Operations whose `f` is one of `names`."""
        if not self._by_f:
            for operation in self.operations:
                self._by_f.setdefault(operation.f, []).append(operation)
        for name in names:
            yield from self._by_f.get(name, ())

    @classmethod
    def of_records(cls, records: Iterable[Record], source: str = "memory") -> History:
        """A history from records that are at hand. Raises HistoryError."""
        operations, notes = _pair(((f"{source}:{n}", r) for n, r in enumerate(records, 1)))
        return cls(operations=operations, notes=notes, sources=(source,))

    @classmethod
    def read(cls, run_folder: Path) -> History:
        """All of `history/*.jsonl` of a run. Raises HistoryError when corrupt; a cut last line is a note."""
        operations: list[Operation] = []
        notes: list[Note] = []
        sources: list[str] = []
        for path in sorted((run_folder / "history").glob("*.jsonl")):
            source = f"history/{path.name}"
            lines, cut = _decode(path, source)
            paired, odd = _pair(lines)
            operations.extend(paired)
            notes.extend(cut)
            notes.extend(odd)
            sources.append(source)
        return cls(operations=tuple(operations), notes=tuple(notes), sources=tuple(sources))


_DECODER = msgspec.json.Decoder(Record)


def _decode(path: Path, source: str) -> tuple[list[tuple[str, Record]], list[Note]]:
    data = path.read_bytes()
    notes: list[Note] = []
    whole, newline, rest = data.rpartition(b"\n")
    if rest:
        notes.append(Note(source, f"the last line is cut short ({len(rest)} bytes) and was left out"))
    records: list[tuple[str, Record]] = []
    for number, line in enumerate(whole.split(b"\n") if newline else (), 1):
        where = f"{source}:{number}"
        try:
            records.append((where, _DECODER.decode(line)))
        except msgspec.MsgspecError as error:
            raise HistoryError(
                where, f"not a record of history ({error})", "restore the file or repeat the run"
            ) from error
    return records, notes


def _pair(records: Iterable[tuple[str, Record]]) -> tuple[tuple[Operation, ...], tuple[Note, ...]]:
    """Puts completions to their invocations: by process, because a process has one operation in flight."""
    notes: list[Note] = []
    done: list[Operation | None] = []
    open_at: dict[str, int] = {}
    invoked: list[Record] = []
    last: dict[str, Record] = {}
    for where, record in records:
        if last.get(record.process) == record:
            notes.append(Note(where, "the same record stands twice; it counts once"))
            continue
        last[record.process] = record
        if record.type is Kind.INVOKE:
            if record.process in open_at:
                raise HistoryError(
                    where,
                    f"process {record.process} begins {record.f} while its last operation is in flight",
                    "restore the file or repeat the run",
                )
            open_at[record.process] = len(done)
            done.append(None)
            invoked.append(record)
            continue
        index = open_at.pop(record.process, None)
        if index is None:
            raise HistoryError(
                where,
                f"process {record.process} completes {record.f} that it never began",
                "restore the file or repeat the run",
            )
        begun = invoked[index]
        if (begun.f, begun.key) != (record.f, record.key):
            raise HistoryError(
                where,
                f"process {record.process} began {begun.f} {begun.key} and completes {record.f} {record.key}",
                "restore the file or repeat the run",
            )
        if record.time_ns < begun.time_ns:
            raise HistoryError(
                where,
                f"{record.f} of {record.process} ends before it begins",
                "repeat the run; its clock went back",
            )
        done[index] = Operation(begun, record)
    for index in open_at.values():
        done[index] = Operation(invoked[index], None)
    return tuple(operation for operation in done if operation is not None), tuple(notes)


class Journal:
    """Appends lines to a file; `sync` makes what was written survive a crash of the machine."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        self._dirty = False

    def write(self, line: bytes) -> None:
        """Appends one line or several; each ends with a newline."""
        view = memoryview(line)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self._dirty = True

    def record(self, record: Record) -> None:
        """Appends a record."""
        self.write(encode_line(record))

    def sync(self) -> None:
        """Waits until all that was written is on disk."""
        if self._dirty:
            os.fdatasync(self._descriptor)
            self._dirty = False

    def close(self) -> None:
        """Syncs and closes."""
        self.sync()
        os.close(self._descriptor)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
