"""Watching an agent's answers: a tight poll of the snapshot that records every change of who serves."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from loadtests.probe_output import Output
from loadtests.protocol import Answer, Await, Serving, Trouble, View, Watch
from loadtests.record import Kind, now_ns
from services.agent.client import Client
from services.agent.errors import CallError


@dataclass
class _Watched:
    agent: str
    interval_s: float
    seen: tuple[Serving, ...] | str | None = None
    reads: int = 0
    failures: int = 0
    last_ns: int = 0
    longest_gap_ns: int = 0
    begin_ns: int = 0
    stale: bool = False
    task: asyncio.Task[None] | None = field(default=None, repr=False)


class Watches:
    """All polls of this probe. A record's `ok` time is the end of the read that saw the change."""

    def __init__(self, output: Output, client: Client) -> None:
        self._output = output
        self._client = client
        self._watched: dict[str, _Watched] = {}
        self._awaiting: set[asyncio.Task[None]] = set()

    def watch(self, command: Watch) -> None:
        """Begins to poll; the first read is recorded."""
        if command.agent in self._watched:
            return
        watched = _Watched(command.agent, command.interval_ms / 1000.0)
        self._watched[command.agent] = watched
        watched.task = asyncio.create_task(self._poll(watched))

    def release(self, agent: str) -> None:
        """Stops polling; the last read is recorded with the counts since the last change."""
        watched = self._watched.pop(agent, None)
        if watched is not None and watched.task is not None:
            watched.task.cancel()
            self._read(watched, always=True)

    def await_name(self, command: Await) -> None:
        """Polls a name that does not stand in the answers yet."""
        task = asyncio.create_task(self._await(command))
        self._awaiting.add(task)
        task.add_done_callback(self._awaiting.discard)

    async def close(self) -> None:
        """Stops all polls."""
        for agent in tuple(self._watched):
            self.release(agent)
        for task in self._awaiting:
            task.cancel()
        await asyncio.gather(*self._awaiting, return_exceptions=True)

    async def _poll(self, watched: _Watched) -> None:
        while True:
            self._read(watched)
            await asyncio.sleep(watched.interval_s)

    def _read(self, watched: _Watched, *, always: bool = False) -> None:
        begin_ns = now_ns()
        seen: tuple[Serving, ...] | str
        try:
            found = self._client.resolve(watched.agent)
            seen = tuple(Serving(i.host, i.incarnation) for i in found.instances)
            watched.stale = found.stale
        except CallError as error:
            seen = f"{error.code}: {error.message}"
            watched.failures += 1
        end_ns = now_ns()
        watched.reads += 1
        if watched.last_ns:
            watched.longest_gap_ns = max(watched.longest_gap_ns, end_ns - watched.last_ns)
        watched.last_ns = end_ns
        if seen == watched.seen and not always:
            return
        watched.seen = seen
        process = f"watch-{self._output.host}-{watched.agent}"
        self._output.invoke(process, "watch", watched.agent, time_ns=begin_ns)
        view = View(
            serving=seen if isinstance(seen, tuple) else (),
            stale=watched.stale,
            reads=watched.reads,
            failures=watched.failures,
            longest_gap_ms=watched.longest_gap_ns / 1e6,
        )
        self._output.end(process, Kind.OK, "watch", watched.agent, view, end_ns)
        watched.reads = watched.failures = watched.longest_gap_ns = 0

    async def _await(self, command: Await) -> None:
        process = f"await-{self._output.host}-{command.name}"
        self._output.invoke(process, "await", command.name)
        try:
            async with asyncio.timeout(command.timeout_s):
                # A memory map tells nobody that it changed: its reader can only poll.
                while (answer := self._usable(command.name)) is None:  # noqa: ASYNC110
                    await asyncio.sleep(command.interval_ms / 1000.0)
        except TimeoutError:
            trouble = Trouble(error=f"no usable answer in {command.timeout_s:g} s")
            self._output.end(process, Kind.FAIL, "await", command.name, trouble)
            return
        self._output.end(process, Kind.OK, "await", command.name, answer)

    def _usable(self, name: str) -> Answer | None:
        try:
            found = self._client.resolve(name)
        except CallError:  # not known yet: that is what is waited for
            return None
        if not found.instances:
            return None
        return Answer(usable=len(found.instances), stale=found.stale, age_ms=found.age_ms)
