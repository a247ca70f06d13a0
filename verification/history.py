"""Raw history on disk: written so that a crash loses no more than the last line, read with suspicion."""

from __future__ import annotations

import contextlib
import gc
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar, TypeVarTuple

import msgspec

from loadtests.record import Kind, Record, encode_line
from verification.errors import HarnessError

T = TypeVar("T")
Facts = TypeVarTuple("Facts")

__all__ = ["Completed", "History", "HistoryError", "Journal", "Kind", "Note", "Operation", "Record"]


class HistoryError(HarnessError):
    """A history that cannot be judged: where (file and line), what is wrong, what to do."""


@dataclass(frozen=True)
class Note:
    """Something odd in a history that does not stop it from being judged."""

    where: str
    what: str


class Operation(msgspec.Struct, frozen=True, gc=False):
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


class Completed(msgspec.Struct, frozen=True, gc=False):
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
    _by_f: dict[str, list[Operation]] = field(init=False, default_factory=dict, repr=False, compare=False)
    _found: dict[Any, Any] = field(init=False, default_factory=dict, repr=False, compare=False)

    def of(self, *names: str) -> Iterator[Operation]:
        """Operations whose `f` is one of `names`."""
        if not self._by_f:
            for operation in self.operations:
                self._by_f.setdefault(operation.f, []).append(operation)
        for name in names:
            yield from self._by_f.get(name, ())

    def once(self, find: Callable[[History, *Facts], T], *facts: *Facts) -> T:
        """What `find` finds here by these facts (which can be hashed): found once, however many ask for it.

        For what several criteria have in common; nobody may change what they get.
        """
        key = (find, facts)
        if key not in self._found:
            self._found[key] = find(self, *facts)
        found: T = self._found[key]
        return found

    @classmethod
    def of_records(cls, records: Iterable[Record], source: str = "memory") -> History:
        """A history from records that are at hand. Raises HistoryError."""
        operations, notes = _pair(enumerate(records, 1), source)
        return cls(operations=tuple(operations), notes=tuple(notes), sources=(source,))

    @classmethod
    def read(cls, run_folder: Path, leave_out: str | None = None) -> History:
        """All of `history/*.jsonl` of a run, except for files whose names match the pattern `leave_out`.

        Raises HistoryError when corrupt; a cut last line is a note. A million records take some 200 MB: what
        many records say alike (names, hosts, values of a kind) is kept once, and `UNREAD` values not at all.
        """
        operations: list[Operation] = []
        notes: list[Note] = []
        sources: list[str] = []
        with _no_collection():
            for path in sorted((run_folder / "history").glob("*.jsonl")):
                if leave_out is not None and path.match(leave_out):
                    continue
                source = f"history/{path.name}"
                with open(path, "rb") as file:
                    found, odd = _pair(_decode(file, source, notes), source)
                operations += found
                notes += odd
                sources.append(source)
        return cls(operations=tuple(operations), notes=tuple(notes), sources=tuple(sources))


_DECODER = msgspec.json.Decoder(Record)
_NULL = msgspec.Raw(b"null")
UNREAD = frozenset({("call", Kind.INVOKE)})
"""Whose values no checker reads, by `f` and type, although there is one for every call: read as null."""


@contextlib.contextmanager
def _no_collection() -> Iterator[None]:
    """Without the collector of cycles: records have none, and it would walk through them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def _decode(file: Iterable[bytes], source: str, notes: list[Note]) -> Iterator[tuple[int, Record]]:
    """The records of a file with their line numbers; a cut last line goes to `notes`."""
    once: dict[str | None, str | None] = {}
    values: dict[str, dict[bytes, msgspec.Raw]] = {}
    for number, line in enumerate(file, 1):
        if not line.endswith(b"\n"):
            notes.append(Note(source, f"the last line is cut short ({len(line)} bytes) and was left out"))
            return
        try:
            record = _DECODER.decode(line)
        except msgspec.MsgspecError as error:
            raise HistoryError(
                f"{source}:{number}",
                f"not a record of history ({error})",
                "restore the file or repeat the run",
            ) from error
        value = b"null" if (record.f, record.type) in UNREAD else bytes(record.value)
        yield (
            number,
            Record(
                process=once.setdefault(record.process, record.process) or "",
                type=record.type,
                f=once.setdefault(record.f, record.f) or "",
                key=once.setdefault(record.key, record.key),
                value=_NULL if value == b"null" else _kept(values.setdefault(record.f, {}), value),
                time_ns=record.time_ns,
                clock=once.setdefault(record.clock, record.clock) or "",
                host=once.setdefault(record.host, record.host),
                epoch=record.epoch,
            ),
        )


MANY = 4096


def _kept(values: dict[bytes, msgspec.Raw], value: bytes) -> msgspec.Raw:
    """One object for all records of a kind that say the same, as long as what they say is not too much."""
    raw = values.get(value)
    if raw is None:
        raw = msgspec.Raw(value)
        if len(values) < MANY:
            values[value] = raw
    return raw


def _pair(records: Iterable[tuple[int, Record]], source: str) -> tuple[list[Operation], list[Note]]:
    """Puts completions to their invocations: by process, because a process has one operation in flight."""
    notes: list[Note] = []
    done: list[Operation | None] = []
    open_at: dict[str, tuple[int, Record]] = {}
    last: dict[str, Record] = {}

    def broken(number: int, what: str, mend: str = "restore the file or repeat the run") -> HistoryError:
        return HistoryError(f"{source}:{number}", what, mend)

    for number, record in records:
        process = record.process
        if last.get(process) == record:
            notes.append(Note(f"{source}:{number}", "the same record stands twice; it counts once"))
            continue
        last[process] = record
        if record.type is Kind.INVOKE:
            if process in open_at:
                raise broken(
                    number, f"process {process} begins {record.f} while its last operation is in flight"
                )
            open_at[process] = len(done), record
            done.append(None)
            continue
        index, begun = open_at.pop(process, (-1, record))
        if index < 0:
            raise broken(number, f"process {process} completes {record.f} that it never began")
        if begun.f != record.f or begun.key != record.key:
            raise broken(
                number, f"process {process} began {begun.f} {begun.key} and completes {record.f} {record.key}"
            )
        if record.time_ns < begun.time_ns:
            raise broken(
                number,
                f"{record.f} of {process} ends before it begins",
                "repeat the run; its clock went back",
            )
        done[index] = Operation(begun, record)
    for index, begun in open_at.values():
        done[index] = Operation(begun, None)
    return [operation for operation in done if operation is not None], notes


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
