"""A recorded history of calls as a workload: `python -m loadtests.replay HISTORY... --out FILE.jsonl`.

Any history of this form will do (`docs/load.md`): the load's own, a probe's, or another system's, as long as
invocations name what was asked. Each operation comes again at its recorded distance from the first, from the
host that it came from, to the same agent and method, with its body where the history has what it takes to
make it. `locust -f loadtests/locustfile.py --workload FILE.jsonl` runs it, open loop, as any workload.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from loadtests.mix import Step, filled
from loadtests.protocol import LoadCall, LoadPlan
from loadtests.record import Kind, Record
from loadtests.shapes import Soak
from loadtests.workload import Task, Workload, WorkloadError

SCHEMA = "threenines.replay/1"
USERS = 50
TIMEOUT_S = 5.0
START_S = 2.0
"""Of a load's own time, for its start."""
KINDS: Mapping[str, str] = {
    "load-lookup": "load-lookup",
    "load-http-lookup": "load-http-lookup",
    "load-call": "load-call",
    "load-http-call": "load-http-call",
    "lookup": "load-lookup",
    "call": "load-call",
}
"""Operations that can come again: as they stand in a history, and as the load will call them."""


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """The first line of the file."""

    schema: str
    name: str
    operations: int
    lasts_s: float
    users: int = USERS
    timeout_s: float = TIMEOUT_S
    hosts: tuple[str, ...] = ()


class Entry(msgspec.Struct, frozen=True, array_like=True):
    """Any other line: an operation, `at_ns` after the first."""

    at_ns: int
    host: str
    f: str
    agent: str
    category: str = ""
    method: str = ""
    body: dict[str, str | int | float | bool] | None = None


class _Asked(msgspec.Struct, frozen=True):
    """What the value of an invocation may say; what else stands in it is left out."""

    intended_ns: int | None = None
    category: str = ""
    method: str = ""
    body: dict[str, str | int | float | bool] | None = None
    follows: bool = False


def main(arguments: Sequence[str] | None = None) -> int:
    """Makes the file; 64 with one line on standard error when it cannot be made."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.replay", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("histories", nargs="+", metavar="HISTORY", help="history/*.jsonl of a run")
    parser.add_argument("--out", required=True, metavar="FILE.jsonl", help="the workload to write")
    parser.add_argument("--speed", type=float, default=1.0, help="2: in half of the time")
    parser.add_argument(
        "--users", type=int, default=USERS, help="operations that may be under way at once, per host"
    )
    options = parser.parse_args(arguments)
    try:
        header = write_replay(
            [Path(name) for name in options.histories], Path(options.out), options.speed, options.users
        )
    except WorkloadError as error:
        sys.stderr.write(f"threenines: {error}\n")
        return error.exit_status
    hosts = ", ".join(header.hosts)
    print(f"{options.out}: {header.operations} operations in {header.lasts_s:.1f} s from {hosts}")
    return 0


def write_replay(histories: Sequence[Path], out: Path, speed: float = 1.0, users: int = USERS) -> Header:
    """Writes the workload of these histories. Raises WorkloadError."""
    if out.suffix != ".jsonl":
        raise WorkloadError(str(out), "is no name of a replay", "end it with .jsonl")
    if not 0 < speed <= 1000 or users < 1:
        raise WorkloadError("--speed, --users", "must be above 0", "write a number")
    entries = sorted((e for path in histories for e in recorded(path)), key=lambda entry: entry.at_ns)
    if not entries:
        names = ", ".join(str(path) for path in histories)
        raise WorkloadError(names, "holds no calls or look-ups", "name the history/load-*.jsonl of a run")
    first_ns = entries[0].at_ns
    shifted = [
        msgspec.structs.replace(entry, at_ns=round((entry.at_ns - first_ns) / speed)) for entry in entries
    ]
    header = Header(
        schema=SCHEMA,
        name=out.stem,
        operations=len(shifted),
        lasts_s=shifted[-1].at_ns / 1e9,
        users=users,
        hosts=tuple(sorted({entry.host for entry in shifted})),
    )
    encode = msgspec.json.encode
    try:
        with open(out, "wb") as file:
            file.write(encode(header) + b"\n")
            file.writelines(encode(entry) + b"\n" for entry in shifted)
    except OSError as error:
        raise WorkloadError(str(out), f"cannot be written ({error.strerror})", "name another file") from error
    return header


def recorded(path: Path) -> Iterator[Entry]:
    """The operations of one history, at their intended instants. Raises WorkloadError."""
    tasks: tuple[Task, ...] = ()
    decoder = msgspec.json.Decoder(Record)
    for number, line in enumerate(_lines(path), 1):
        try:
            record = decoder.decode(line)
            if record.type is not Kind.INVOKE:
                continue
            if record.f == "load-plan":
                plan = msgspec.json.decode(record.value, type=LoadPlan)
                tasks = plan.workload.tasks if plan.workload is not None else ()
            elif record.f in KINDS and record.key:
                yield _entry(record, tasks)
        except msgspec.MsgspecError as error:
            if line.endswith(b"\n"):
                where = f"{path}:{number}"
                raise WorkloadError(where, f"is no record ({error})", "name a history of a run") from error


def replayed_workload(path: Path) -> Workload:
    """The workload of a file that `write_replay` made, looked through to its end. Raises WorkloadError."""
    header = _header(path)
    whole = sum(1 for _ in _entries(path))
    if whole != header.operations:
        raise WorkloadError(
            str(path), f"is cut short: {whole} of {header.operations} operations", "make it again"
        )
    return Workload(
        name=header.name,
        per_s=header.operations / max(header.lasts_s, 1.0) / max(1, len(header.hosts)),
        users=header.users,
        timeout_s=header.timeout_s,
        shape=Soak(for_s=header.lasts_s + header.timeout_s + START_S, warm_s=0.0),
        replay=str(path),
    )


def replayed(path: Path, host: str, place: int = 0, places: int = 1) -> Iterator[tuple[float, Step]]:
    """What is due on `host` and when, for generator `place` of `places` there. Raises WorkloadError."""
    header = _header(path)
    if host not in header.hosts:
        raise WorkloadError(str(path), f"has nothing from {host}", f"it is from {', '.join(header.hosts)}")
    turn = 0
    for entry in _entries(path):
        if entry.host != host:
            continue
        turn += 1
        if turn % places == place:
            yield (
                entry.at_ns / 1e9,
                Step(entry.f, entry.agent, entry.category, entry.method, entry.body, turn=turn),
            )


def _entries(path: Path) -> Iterator[Entry]:
    decoder = msgspec.json.Decoder(Entry)
    lines = _lines(path)
    next(lines, None)
    for number, line in enumerate(lines, 2):
        try:
            yield decoder.decode(line)
        except msgspec.MsgspecError as error:
            raise WorkloadError(f"{path}:{number}", f"cannot be read ({error})", "make it again") from error


def _entry(record: Record, tasks: Sequence[Task]) -> Entry:
    assert record.key is not None
    asked = msgspec.json.decode(record.value, type=_Asked | None) or _Asked()
    body = asked.body
    if body is None and tasks and asked.method:
        call = msgspec.json.decode(record.value, type=LoadCall)
        made = tasks[call.task].bodies.get(asked.method) if call.task < len(tasks) else None
        body = dict(filled(made, record.key, call.turn, call.size_bytes)) if made is not None else None
    f = KINDS[record.f]
    return Entry(
        at_ns=asked.intended_ns if asked.intended_ns is not None else record.time_ns,
        host=record.host or "",
        f=f,
        agent=record.key,
        category=asked.category,
        method=asked.method,
        body=body if body is not None or f.endswith("lookup") else {},
    )


def _header(path: Path) -> Header:
    try:
        header = msgspec.json.decode(next(_lines(path), b""), type=Header)
    except msgspec.MsgspecError as error:
        raise WorkloadError(
            str(path),
            f"is no replay ({error})",
            "make one: python -m loadtests.replay HISTORY --out FILE.jsonl",
        ) from error
    if header.schema != SCHEMA or header.operations < 1 or header.users < 1:
        raise WorkloadError(str(path), f"is no replay of this version ({SCHEMA})", "make it again")
    return header


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with open(path, "rb") as file:
            yield from _unbroken(file)
    except OSError as error:
        raise WorkloadError(
            str(path), f"cannot be read ({error.strerror})", "name a file that can be"
        ) from error


def _unbroken(lines: Iterable[bytes]) -> Iterator[bytes]:
    for line in lines:
        if line.strip():
            yield line


if __name__ == "__main__":
    sys.exit(main())
