"""What a run writes down: clients' operations, and one line per trial in `peers.jsonl`."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from pathlib import Path

import msgspec


class Kind(StrEnum):
    """What is done to the host that serves.

    `host`: it is cut off and everything on it is killed, as by a power cut. `process`: the serving process
    alone is killed. `cut`: the host lives on, and nobody reaches it nor it anybody.
    """

    HOST = "host"
    PROCESS = "process"
    CUT = "cut"


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One write of a client: number `n` of its set. Instants in ns of CLOCK_BOOTTIME.

    `ok` is None when nobody knows whether it was performed. `server` is the host that acknowledged it.
    """

    client: str
    n: int
    invoked_ns: int
    ended_ns: int
    ok: bool | None
    server: str | None = None
    error: str = ""


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """One fault and what clients saw of it.

    `serve_ms`: from the fault to the first acknowledged write of the slowest client outside of the faulty
    host, None: not within the limit. `split_writes`: writes acknowledged while another host acknowledged
    others. `acknowledged`, `lost`: writes of all clients, and those of them that were gone after the repair
    (None: the system could not be asked). `load`: the machine's load average of a minute at the fault.
    `void`: why the trial says nothing.
    """

    run: str
    system: str
    kind: Kind
    number: int
    primary: str
    serve_ms: float | None
    acknowledged: int
    split_writes: int
    lost: int | None
    load: float | None = None
    void: str = ""


def read_operations(path: Path) -> list[Operation]:
    """The complete lines of a client's file; a client that was killed may have left a torn last one."""
    if not path.exists():
        return []
    raw = path.read_bytes()
    whole = raw[: raw.rfind(b"\n") + 1]
    return [msgspec.json.decode(line, type=Operation) for line in whole.splitlines()]


def read_trials(path: Path, run: str | None = None) -> list[Trial]:
    """The trials in a file, of one run or of all."""
    if not path.exists():
        return []
    every = [msgspec.json.decode(line, type=Trial) for line in path.read_bytes().splitlines() if line.strip()]
    return [one for one in every if run is None or one.run == run]


def append_trials(path: Path, trials: Iterable[Trial]) -> None:
    """Adds lines to the file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        for one in trials:
            file.write(msgspec.json.encode(one) + b"\n")
