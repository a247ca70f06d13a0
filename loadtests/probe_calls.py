"""Calling chosen agents without pause: open-loop, each call due at its own instant."""

from __future__ import annotations

import asyncio

import msgspec

from loadtests.probe_output import Output
from loadtests.protocol import Call, Intent, Trouble
from loadtests.record import Kind, now_ns
from services.agent.client import Client
from services.agent.errors import CallError

MAX_LANES = 32
"""Calls to one agent in flight at once; further ones wait, and their lateness stands in the record."""


class _Lane:
    """A process in the history's sense: one operation in flight; renamed after one with unknown outcome."""

    __slots__ = ("_life", "_stem", "busy")

    def __init__(self, stem: str) -> None:
        self._stem = stem
        self._life = 0
        self.busy = False

    @property
    def process(self) -> str:
        return f"{self._stem}.{self._life}"

    def retire(self) -> None:
        self._life += 1


class _Calling:
    def __init__(self, output: Output, client: Client, command: Call) -> None:
        self._output = output
        self._client = client
        self._agent = command.agent
        self._bodies = command.bodies
        self._interval_ns = int(command.interval_ms * 1e6)
        self._timeout_s = command.timeout_ms / 1000.0
        self._lanes: list[_Lane] = []
        self._begun = now_ns()
        self._calls: set[asyncio.Task[None]] = set()
        self._free = asyncio.Event()
        self.task = asyncio.create_task(self._run())

    async def stop(self) -> None:
        """No new calls; waits until those in flight have their outcome."""
        self.task.cancel()
        if self._calls:
            await asyncio.wait(self._calls)

    async def _run(self) -> None:
        intended_ns = now_ns()
        while True:
            wait_ns = intended_ns - now_ns()
            if wait_ns > 0:
                await asyncio.sleep(wait_ns / 1e9)
            lane = await self._lane()
            lane.busy = True
            call = asyncio.create_task(self._call(lane, intended_ns))
            self._calls.add(call)
            call.add_done_callback(self._calls.discard)
            intended_ns += self._interval_ns

    async def _lane(self) -> _Lane:
        while True:
            for lane in self._lanes:
                if not lane.busy:
                    return lane
            if len(self._lanes) < MAX_LANES:
                stem = f"call-{self._output.host}-{self._agent}-{self._begun}-{len(self._lanes)}"
                self._lanes.append(_Lane(stem))
                return self._lanes[-1]
            self._free.clear()
            await self._free.wait()

    async def _call(self, lane: _Lane, intended_ns: int) -> None:
        method, body = self._choose()
        self._output.invoke(lane.process, "call", self._agent, Intent(method=method, intended_ns=intended_ns))
        try:
            await self._client.call(self._agent, method, msgspec.json.decode(body), timeout_s=self._timeout_s)
        except CallError as error:
            kind = Kind.FAIL if error.definite else Kind.INFO
            trouble = Trouble(error=error.message, code=error.code)
            self._output.end(lane.process, kind, "call", self._agent, trouble)
            if kind is Kind.INFO:
                lane.retire()
        else:
            self._output.end(lane.process, Kind.OK, "call", self._agent)
        finally:
            lane.busy = False
            self._free.set()

    def _choose(self) -> tuple[str, msgspec.Raw]:
        try:
            known = {method for i in self._client.resolve(self._agent).instances for method in i.methods}
        except CallError:
            known = set()
        for method, body in self._bodies.items():
            if method in known:
                return method, body
        # Nobody serves now, or serves none of these: the last one is what every agent answers.
        return list(self._bodies.items())[-1]


class Calls:
    """The callers of this probe."""

    def __init__(self, output: Output, client: Client) -> None:
        self._output = output
        self._client = client
        self._calling: dict[str, _Calling] = {}

    def call(self, command: Call) -> None:
        """Begins to call."""
        if command.agent not in self._calling:
            self._calling[command.agent] = _Calling(self._output, self._client, command)

    async def release(self, agent: str) -> None:
        """Stops calling."""
        calling = self._calling.pop(agent, None)
        if calling is not None:
            await calling.stop()

    async def close(self) -> None:
        """Stops all callers."""
        await asyncio.gather(*(self.release(agent) for agent in tuple(self._calling)))
