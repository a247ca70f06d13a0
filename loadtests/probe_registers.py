"""Writing and reading registers of agents through faults, one operation at a time for each process.

A register `<writer>/<round>` has one writer, the probe of that host, which writes 0, 1, 2, …; the probes
of all hosts read it. A write whose outcome is unknown is never repeated: the next one has the next value,
and the process goes on under a new name.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from collections.abc import AsyncIterator, Coroutine

import msgspec

from loadtests.probe_output import Output
from loadtests.protocol import Acted, Registers, RegisterWish, Trouble
from loadtests.record import Kind
from services.agent.client import Client
from services.agent.errors import CallError


class _Stored(msgspec.Struct, frozen=True):
    """The agents' answer (services.agent.reference.Stored)."""

    value: str | None
    host: str
    epoch: int
    incarnation: int


class RegisterWork:
    """The register clients of this probe."""

    def __init__(self, output: Output, client: Client) -> None:
        self._output = output
        self._client = client
        self._lanes: list[asyncio.Task[None]] = []
        self._flying: set[asyncio.Task[bool]] = set()
        self._lives = itertools.count()

    async def work(self, command: Registers) -> None:
        """Ends what went on, with its outcomes, and begins anew; no agents: only ends."""
        await self.close()
        for place, agent in enumerate(command.agents):
            offset = (place + 0.5) / len(command.agents)
            if command.writes:
                self._lanes.append(asyncio.create_task(self._write(agent, command, offset)))
            self._lanes.append(asyncio.create_task(self._read(agent, command, 1.0 - offset)))

    async def close(self) -> None:
        """Begins nothing new, and waits for the outcomes of what is in flight."""
        for lane in self._lanes:
            lane.cancel()
        await asyncio.gather(*self._lanes, *self._flying, return_exceptions=True)
        self._lanes.clear()

    async def _write(self, agent: str, command: Registers, offset: float) -> None:
        register = f"{self._output.host}/{command.round}"
        process = self._process("write", agent)
        value = 0
        async for _ in _beats(command.interval_ms / 1000.0, offset):
            body = {"key": register, "value": str(value)}
            one = self._one(process, "write", agent, register, "store", body, value, command)
            if not await self._whole(one):
                process = self._process("write", agent)
            value += 1

    async def _read(self, agent: str, command: Registers, offset: float) -> None:
        process = self._process("read", agent)
        turns = itertools.cycle(command.hosts)
        async for _ in _beats(command.interval_ms / 1000.0, offset, catch_up=len(command.hosts)):
            register = f"{next(turns)}/{command.round}"
            one = self._one(process, "read", agent, register, "fetch", {"key": register}, None, command)
            if not await self._whole(one):
                process = self._process("read", agent)

    async def _whole(self, one: Coroutine[None, None, bool]) -> bool:
        """Whatever ends the lane, its operation gets its own outcome."""
        task = asyncio.create_task(one)
        self._flying.add(task)
        task.add_done_callback(self._flying.discard)
        return await asyncio.shield(task)

    def _process(self, kind: str, agent: str) -> str:
        return f"{kind}-{self._output.host}-{agent}.{next(self._lives)}"

    async def _one(
        self,
        process: str,
        f: str,
        agent: str,
        register: str,
        method: str,
        body: object,
        value: int | None,
        command: Registers,
    ) -> bool:
        """One operation; False when nobody knows its outcome, so that its process has to retire."""
        key = f"{agent}/{register}"
        self._output.invoke(process, f, key, RegisterWish(value=value))
        # Before it can have an effect: a probe that is killed with its host shall not have written what no
        # record shows.
        self._output.flush()
        kind, told = Kind.INFO, None
        try:
            answer = await self._client.call(agent, method, body, timeout_s=command.timeout_ms / 1000.0)
            stored = msgspec.convert(answer, _Stored)
            kind = Kind.OK
            told = Acted(
                value=None if stored.value is None else int(stored.value),
                host=stored.host,
                epoch=stored.epoch,
                incarnation=stored.incarnation,
            )
            self._output.end(process, kind, f, key, told)
        except CallError as error:
            kind = Kind.FAIL if error.definite or f == "read" else Kind.INFO
            self._output.end(process, kind, f, key, Trouble(error=error.message, code=error.code))
        return kind is not Kind.INFO


async def _beats(interval_s: float, offset: float, *, catch_up: int = 0) -> AsyncIterator[None]:
    """Even instants, as `next_beat` has them."""
    loop = asyncio.get_running_loop()
    at, owed = loop.time() + offset * interval_s, 0
    while True:
        await asyncio.sleep(max(0.0, at - loop.time()))
        yield
        at, owed = next_beat(at, loop.time(), interval_s, owed=owed, catch_up=catch_up)


def next_beat(
    last_s: float, now_s: float, interval_s: float, *, owed: int, catch_up: int
) -> tuple[float, int]:
    """When the next operation begins, and how many are owed then; instants that the last one has outlasted
    are left out.

    `catch_up`: after one that was held up so many begin without waiting, one after the other, so that a
    takeover is seen when it is over and not up to an interval later. `owed`: what is left of them.
    """
    owed = catch_up if now_s - last_s > interval_s else max(0, owed - 1)
    if owed:
        return now_s, owed
    return last_s + interval_s * max(1, math.ceil((now_s - last_s) / interval_s)), 0
