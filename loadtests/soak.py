"""Watches a fleet for days from one host: `python -m loadtests.soak`, a unit of its own beside the stack's.

Every second it looks every name up as an agent would; in turn it calls each agent. What it sees goes to
`<soak's id>.jsonl` in its data folder (`loadtests.soak_lines`), which outlives the program, the host and the
harness. The host's supervisor starts it again with the host; what is between is a gap.
`python -m loadtests.soak --read ID` prints what was written on this host.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import re
import signal
import sys
import time
from collections.abc import Mapping
from pathlib import Path

import msgspec

from loadtests.record import now_ns
from loadtests.soak_lines import LOOK_S, SCHEMA, Life, Line, Look, Stretches, encode
from services.agent.client import Client
from services.agent.errors import CallError, Code

CALL_LIMIT_S = 5.0
"""What an agent's own caller waits if it does not say otherwise."""
SYNC_S = 60.0
KEPT_LINES = 2000
"""Lines kept while the disk refuses them."""
RECALL, RECALL_BODY, PING = "recall", {"key": "probe"}, "_ping"
"""A read that only an owner with its state answers, where there is one; else what every agent answers."""
ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


class Watched(msgspec.Struct, frozen=True, kw_only=True):
    """An agent that has to be served, and how often this host calls it."""

    name: str
    every_s: float


class Config(msgspec.Struct, frozen=True, kw_only=True):
    """`THREENINES_CONFIG` of the unit."""

    soak: str
    agents: tuple[Watched, ...]
    schema: str = SCHEMA


def main() -> None:
    """Watches until SIGTERM, or prints what was written."""
    if len(sys.argv) == 3 and sys.argv[1] == "--read" and ID.fullmatch(sys.argv[2]):
        _print(_path(sys.argv[2]))
        return
    if len(sys.argv) != 1:
        sys.stderr.write("threenines: loadtests.soak: wrong arguments; use none, or `--read ID`\n")
        raise SystemExit(64)
    import uvloop

    config = msgspec.json.decode(Path(os.environ["THREENINES_CONFIG"]).read_bytes(), type=Config)
    gc.freeze()
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(watch(config, _path(config.soak)))


async def watch(config: Config, path: Path) -> None:
    """Looks once a second until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    start_ns = now_ns()
    stretches = Stretches(_boot_id(), f"{os.getpid()}-{start_ns}", start_ns)
    log = Log(path)
    log.add(
        Life(
            soak=config.soak,
            host=os.environ["THREENINES_HOST"],
            boot=stretches.boot,
            life=stretches.life,
            at_ns=start_ns,
            wall_ns=time.time_ns(),
            agents=len(config.agents),
        )
    )
    async with Client() as client:
        calls = Calls(client, config.agents, stretches)
        eyes = Eyes(client, tuple(one.name for one in config.agents))
        due_ns = synced_ns = start_ns
        while not stop.is_set():
            look = eyes.look()
            at_ns = now_ns()
            ended = stretches.look(look, at_ns, time.time_ns(), time.process_time_ns() / 1e6)
            if ended is not None:
                log.add(ended)
            if at_ns - synced_ns > SYNC_S * 1e9:
                synced_ns = at_ns
                await asyncio.to_thread(log.sync)
            calls.begin(at_ns)
            due_ns = max(due_ns + int(LOOK_S * 1e9), at_ns)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), max(0.0, (due_ns - now_ns()) / 1e9))
        await calls.close()
    ended = stretches.end()
    if ended is not None:
        log.add(ended)
    log.sync()


class Eyes:
    """Looks all names up, and notices who serves elsewhere or anew."""

    def __init__(self, client: Client, names: tuple[str, ...]) -> None:
        self._client = client
        self._names = names
        self._served_by: dict[str, tuple[str, int]] = {}

    def look(self) -> Look:
        """One look-up a name."""
        missing: list[str] = []
        serving: dict[str, int] = {}
        failed = moved = 0
        why = ""
        for name in self._names:
            try:
                instances = self._client.resolve(name).instances
            except CallError as error:
                failed += 1
                why = why or f"{name}: {error.message}"
                instances = ()
            if not instances:
                missing.append(name)
                continue
            best = instances[0]
            serving[best.host] = serving.get(best.host, 0) + 1
            by = (best.host, best.incarnation)
            moved += self._served_by.get(name, by) != by
            self._served_by[name] = by
        return Look(tuple(missing), serving, len(self._names), failed, moved, why)


class Calls:
    """Calls every agent in turn, one call to each at a time; one that failed again at the next second."""

    def __init__(self, client: Client, agents: tuple[Watched, ...], stretches: Stretches) -> None:
        self._client = client
        self._stretches = stretches
        self._every_ns = {one.name: int(one.every_s * 1e9) for one in agents}
        begin_ns = now_ns()
        self._due_ns = {
            one.name: begin_ns + int(one.every_s * 1e9 * number / len(agents))
            for number, one in enumerate(agents)
        }
        self._running: dict[str, asyncio.Task[None]] = {}

    def begin(self, at_ns: int) -> None:
        """Begins the calls that are due."""
        for name, due_ns in self._due_ns.items():
            if (due_ns <= at_ns or self._stretches.failing(name)) and name not in self._running:
                self._due_ns[name] = max(due_ns + self._every_ns[name], at_ns)
                self._running[name] = asyncio.create_task(self._call(name))

    async def close(self) -> None:
        """Drops those in flight: nobody knows how they would have ended."""
        for task in self._running.values():
            task.cancel()
        await asyncio.gather(*self._running.values(), return_exceptions=True)

    async def _call(self, name: str) -> None:
        try:
            asked = self._method(name)
            if asked is not None:
                await self._client.call(name, *asked, timeout_s=CALL_LIMIT_S)
                self._stretches.called(name, now_ns(), None)
        except CallError as error:
            answered = error.code == Code.NO_METHOD  # by somebody who lives
            self._stretches.called(name, now_ns(), None if answered else f"{name}: {error}")
        finally:
            del self._running[name]

    def _method(self, name: str) -> tuple[str, Mapping[str, str]] | None:
        """What to call; None for one that is any program: only its own health check knows what to ask it."""
        instances = self._client.resolve(name).instances
        if instances and all(one.transport != "unix" for one in instances):
            return None
        known = {method for one in instances for method in one.methods}
        return (RECALL, RECALL_BODY) if RECALL in known else (PING, {})


class Log:
    """Appends whole lines. What the disk refuses waits for the next line; the oldest go first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._waiting: list[bytes] = []
        self._told = False
        self._handle = -1

    def add(self, line: Line) -> None:
        """Writes a line, and those that wait."""
        self._waiting.append(encode(line))
        del self._waiting[:-KEPT_LINES]
        try:
            self._open()
            while self._waiting:
                data = self._waiting[0]
                if os.write(self._handle, data) != len(data):
                    self._close()  # cut in the middle: opened again, it goes on with a line of its own
                    self._open()
                    continue
                del self._waiting[0]
        except OSError as error:
            self._close()
            if not self._told:
                sys.stderr.write(f"threenines: {self._path}: cannot be written ({error.strerror})\n")
            self._told = True
        else:
            self._told = False

    def sync(self) -> None:
        """Waits until what was written is on disk."""
        with contextlib.suppress(OSError):
            if self._handle >= 0:
                os.fdatasync(self._handle)

    def _open(self) -> None:
        if self._handle >= 0:
            return
        flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self._handle = os.open(self._path, flags, 0o644)
        size = os.fstat(self._handle).st_size
        if size and os.pread(self._handle, 1, size - 1) != b"\n":
            os.write(self._handle, b"\n")

    def _close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
        self._handle = -1


def _path(soak: str) -> Path:
    """The file of a soak: in the unit's data folder, whichever program of the host asks."""
    return Path(os.environ["THREENINES_DATA"]).parent / "soak" / f"{soak}.jsonl"


def _print(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        while chunk := file.read(1 << 20):
            sys.stdout.buffer.write(chunk)


def _boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


if __name__ == "__main__":
    main()
