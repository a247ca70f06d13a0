"""Asks agents whether they are well, at an even beat, over connections that stay open.

A check reports to its `Watcher`: `pong` for each answer in time, `miss` for each that did not come. After a
miss it asks again at once, so that the second miss of a hang is known one timeout later, not one interval.
What the watcher makes of it is decided in services.control.agent.
"""

from __future__ import annotations

import asyncio
import itertools
import math
from pathlib import Path
from typing import Protocol

import aiohttp
import msgspec

from infra.topology import HealthCheck, HealthKind
from services.agent.channel import Channel
from services.agent.connection import Scratch
from services.agent.errors import CallError, Code
from services.agent.server import Description, Pong
from services.agent.wire import NIL, Message, Reply, Request, encode, unpack_as

PING_ID_BASE = 1 << 40
OWN_STALL_S = 0.1
SLOTS = 20
GOLDEN = 0.6180339887498949
START_POLL_S = 0.02
START_SHARE = 0.1
"""A program that starts is asked again after this share of the time that it has taken so far."""
_pong_decoder = msgspec.msgpack.Decoder(Pong)
_places = itertools.count()


class Watcher(Protocol):
    """Who wants to know. Called from the event loop; must not block."""

    def pong(self, incarnation: int, state: str, late: bool) -> None:
        """An answer: whose, and what state it claims. `late`: to a question already counted as missed."""

    def miss(self) -> None:
        """No answer in time, or no connection."""


class Check(Protocol):
    """A running check."""

    def start(self) -> None:
        """Begins to ask."""

    def stop(self) -> None:
        """Ends it; the watcher hears nothing more."""


class AgentLink(Channel):
    """hostd's connection to one agent: pings without a task each, other requests as any channel."""

    def __init__(self, scratch: Scratch, loop: asyncio.AbstractEventLoop, *, peer: str) -> None:
        super().__init__(scratch, loop, peer=peer)
        self.on_pong: SdkCheck | None = None

    def received(self, message: Message) -> None:
        if message.id < PING_ID_BASE:
            super().received(message)
        elif self.on_pong is not None:
            self.on_pong.answered(message)


async def open_link(path: Path, scratch: Scratch, *, timeout_s: float) -> AgentLink:
    """Connects to an agent's socket. Raises CallError `unavailable`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, link = await loop.create_unix_connection(
                lambda: AgentLink(scratch, loop, peer=path.name), str(path)
            )
    except (OSError, TimeoutError) as error:
        raise CallError(Code.UNAVAILABLE, f"cannot connect to {path.name}: {error!r}") from None
    return link


async def describe(link: AgentLink, agent: str, *, timeout_s: float) -> tuple[Pong, Description]:
    """What an agent says about itself: the validation of a registration. Raises CallError."""
    pong = unpack_as(await link.request(agent, "_ping", NIL, timeout_s=timeout_s), Pong)
    answer = await link.request(agent, "_describe", NIL, timeout_s=timeout_s)
    return pong, unpack_as(answer, Description)


def next_beat(now_s: float, interval_s: float, offset: float) -> float:
    """When a check asks next, after `now_s`: in its own one of the `SLOTS` of every interval.

    `offset` (0 to 1) is the check's place. Checks that share a slot are asked in one turn of the loop, which
    costs the host far less than a turn each; the slots spread the rest evenly.
    """
    place_s = int(offset * SLOTS) / SLOTS * interval_s
    beats = math.floor((now_s - place_s) / interval_s) + 1
    return beats * interval_s + place_s


def next_offset() -> float:
    """A place for a new check, such that any number of checks is spread evenly."""
    return next(_places) * GOLDEN % 1.0


class SdkCheck:
    """Pings an agent over its own socket. `link` is taken over, and replaced when it breaks."""

    def __init__(
        self,
        agent: str,
        path: Path,
        *,
        health: HealthCheck,
        watcher: Watcher,
        scratch: Scratch,
        link: AgentLink | None,
    ) -> None:
        self._agent = agent
        self._path = path
        self._interval_s = health.interval_ms / 1000
        self._timeout_s = health.timeout_ms / 1000
        self._watcher = watcher
        self._scratch = scratch
        self._loop = asyncio.get_running_loop()
        self._asked = PING_ID_BASE
        self._open_question = False
        self._offset = next_offset()
        self._timer: asyncio.TimerHandle | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._stopped = False
        self.link: AgentLink | None = None
        if link is not None:
            self._take(link)

    def start(self) -> None:
        """Begins to ask, at this check's own place in the interval."""
        self._wait()

    def stop(self) -> None:
        """Ends the check and its connection."""
        self._stopped = True
        if self._timer is not None:
            self._timer.cancel()
        if self._connecting is not None:
            self._connecting.cancel()
        if self.link is not None:
            self.link.on_pong = None
            self.link.close()

    def answered(self, message: Message) -> None:
        """A pong arrived, in time or late."""
        if self._stopped or not isinstance(message, Reply):
            return
        try:
            pong = _pong_decoder.decode(message.body)
        except msgspec.DecodeError:
            return
        if message.id != self._asked or not self._open_question:
            self._watcher.pong(pong.incarnation, pong.state, True)
            return
        self._open_question = False
        if self._timer is not None:
            self._timer.cancel()
        self._wait()
        self._watcher.pong(pong.incarnation, pong.state, False)

    def _wait(self) -> None:
        at = next_beat(self._loop.time(), self._interval_s, self._offset)
        self._timer = self._loop.call_at(at, self._ask)

    def _ask(self) -> None:
        now = self._loop.time()
        self._asked += 1
        self._open_question = True
        self._timer = self._loop.call_at(now + self._timeout_s, self._unanswered, now + self._timeout_s)
        if self.link is None or not self.link.open:
            if self._connecting is None:
                self._connecting = self._loop.create_task(self._connect())
            return
        self._send(self.link)

    def _send(self, link: AgentLink) -> None:
        timeout_ms = int(self._timeout_s * 1000)
        link.send(encode(Request(self._asked, self._agent, "_ping", timeout_ms, NIL)))

    def _unanswered(self, due: float) -> None:
        # A host that stood still itself has no right to call others silent.
        if self._loop.time() - due < OWN_STALL_S:
            self._open_question = False
            self._watcher.miss()
        if not self._stopped:
            self._ask()

    async def _connect(self) -> None:
        try:
            link = await open_link(self._path, self._scratch, timeout_s=self._timeout_s)
        except CallError:
            return  # the timer of the open question will count it
        finally:
            self._connecting = None
        if self._stopped:
            link.close()
            return
        self._take(link)
        if self._open_question:
            self._send(link)

    def _take(self, link: AgentLink) -> None:
        self.link = link
        link.on_pong = self


class PollCheck:
    """Asks a program over HTTP or TCP. `incarnation` is reported with each answer."""

    def __init__(
        self,
        health: HealthCheck,
        *,
        address: str,
        port: int,
        incarnation: int,
        watcher: Watcher,
        http: aiohttp.ClientSession,
    ) -> None:
        self._health = health
        self._address = address
        self._port = port
        self._incarnation = incarnation
        self._watcher = watcher
        self._http = http
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begins to ask."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    def stop(self) -> None:
        """Ends it."""
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        timeout_s, interval_s = self._health.timeout_ms / 1000, self._health.interval_ms / 1000
        started: float | None = loop.time()  # None once it has answered well
        while True:
            began = loop.time()
            try:
                async with asyncio.timeout(timeout_s):
                    well = await self._probe()
            except (TimeoutError, OSError, aiohttp.ClientError):
                well = False
            late_s = loop.time() - began - timeout_s
            if well:
                started = None
                self._watcher.pong(self._incarnation, "up", False)
            elif started is None and late_s < OWN_STALL_S:
                self._watcher.miss()
            now = loop.time()
            beat_s = interval_s if started is None else min(interval_s, START_SHARE * (now - started))
            await asyncio.sleep(max(START_POLL_S, beat_s - (now - began)))

    async def _probe(self) -> bool:
        if self._health.kind is HealthKind.HTTP:
            url = f"http://{self._address}:{self._port}{self._health.path}"
            async with self._http.get(url, allow_redirects=False) as answer:
                return 200 <= answer.status < 400
        _, writer = await asyncio.open_connection(self._address, self._port)
        writer.close()
        return True
