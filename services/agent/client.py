"""The asynchronous client: a name and a method in, a reply out."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from services.agent.channel import Channel, open_unix
from services.agent.connection import Scratch
from services.agent.directory import (
    Directory,
    NoView,
    OpenView,
    Target,
    open_snapshot,
    run_folder,
)
from services.agent.errors import CallError, Code
from services.agent.hostd_ask import ask_hostd
from services.agent.wire import pack, unpack
from services.registry.model import Resolution

MAX_CHANNELS: Final = 256
_NONE: Final[dict[str, int]] = {}


class _Link:
    """The way to one socket: at most one channel, dialled by the first who needs it."""

    __slots__ = ("channel", "incarnation", "lock")

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self.incarnation = 0
        self.lock = asyncio.Lock()

    def leads_to(self, target: Target) -> bool:
        """True when a channel stands and no newer incarnation has taken the socket over."""
        return self.channel is not None and self.channel.usable and target.incarnation <= self.incarnation


class Client:
    """Calls agents by name from a program on a host (asyncio).

    `run` and `host` come from `THREENINES_RUN` and `THREENINES_HOST` unless given. Errors: `CallError`.
    A call is repeated once, at once, when it was not delivered, or when its method is idempotent and the
    connection was lost on the way; and where it was held back or its agent is overloaded, as
    `services.agent.repeats` has it.
    """

    def __init__(
        self,
        run: Path | None = None,
        host: str | None = None,
        *,
        open_view: OpenView = open_snapshot,
    ) -> None:
        host = host if host is not None else os.environ.get("THREENINES_HOST")
        self._directory = Directory(run_folder(run), host, open_view)
        self._scratch = Scratch()
        self._links: dict[str, _Link] = {}
        self._inflight: dict[str, dict[str, int]] = {}
        self._closed = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def call(self, agent: str, method: str, body: object = None, *, timeout_s: float = 5.0) -> Any:
        """The reply of `method`, as builtins. Raises `CallError`."""
        loop = asyncio.get_running_loop()
        due = loop.time() + timeout_s
        packed = pack(body)
        target: Target | None = None
        try:
            try:
                target = self._directory.target(agent, self._inflight.get(agent, _NONE))
            except NoView:
                target = await self._confirmed(agent, due)
            link = self._links.get(target.key)
            if link is None or not target.alone or not link.leads_to(target):
                reply = await self._send(target, agent, method, packed, due)
            else:
                # The beaten track, without another layer: one instance, and a channel to it stands.
                assert link.channel is not None
                reply = await link.channel.request(agent, method, packed, timeout_s=timeout_s)
        except CallError as error:
            if error.code == Code.DRAINING and target is not None:
                self._forget(target.key)
            idempotent = target is not None and method in target.idempotent
            reply = await self._repeat(error, agent, method, packed, due, idempotent)
        if self._directory.budget.spent:
            self._directory.budget.earn(agent)
        return unpack(reply)

    async def _repeat(
        self, error: CallError, agent: str, method: str, body: msgspec.Raw, due: float, idempotent: bool
    ) -> msgspec.Raw:
        """The reply after all, or the last error when the call is to be repeated no more."""
        loop = asyncio.get_running_loop()
        repeats = self._directory.repeats(agent)
        while True:
            pause_s = repeats.pause_s(error, idempotent=idempotent)
            if pause_s is None or loop.time() + pause_s >= due:
                raise error
            if error.code != Code.OVERLOADED:
                self._directory.doubt(agent)
            if pause_s > 0:
                await asyncio.sleep(pause_s)
            try:
                return await self._once_more(agent, method, body, due)
            except CallError as failed:
                error = failed

    async def _once_more(self, agent: str, method: str, body: msgspec.Raw, due: float) -> msgspec.Raw:
        try:
            target = self._directory.target(agent, self._inflight.get(agent, _NONE))
        except NoView:
            target = await self._confirmed(agent, due)
        try:
            return await self._send(target, agent, method, body, due)
        except CallError as error:
            if error.code == Code.DRAINING:
                self._forget(target.key)
            raise

    def resolve(self, agent: str) -> Resolution:
        """Where `agent` serves now: a read of the discovery snapshot. Raises `CallError`."""
        try:
            return self._directory.resolve(agent)
        except NoView as error:
            raise CallError(Code.UNAVAILABLE, str(error)) from None

    async def close(self) -> None:
        """Closes the connections; calls in flight end `indeterminate`."""
        self._closed = True
        channels = [link.channel for link in self._links.values() if link.channel is not None]
        for channel in channels:
            channel.close()
        self._links.clear()
        self._directory.close()
        if channels:
            await asyncio.wait([channel.closed for channel in channels], timeout=1)

    async def _confirmed(self, agent: str, due: float) -> Target:
        """By hostd's word, or by the last good answer when hostd is away too."""
        try:
            left_s = max(0.001, due - asyncio.get_running_loop().time())
            answer = await ask_hostd(self._directory.run, agent, self._scratch, timeout_s=left_s)
            self._directory.remember(answer)
        except CallError as error:
            last = self._directory.last_good(agent)
            if last is None or error.code == Code.NOT_FOUND:
                raise
            answer = last
        return self._directory.target(agent, self._inflight.get(agent, _NONE), answer)

    async def _send(
        self, target: Target, agent: str, method: str, body: msgspec.Raw, due: float
    ) -> msgspec.Raw:
        link = self._links.get(target.key)
        if link is not None and link.leads_to(target):
            assert link.channel is not None
            channel = link.channel
        else:
            channel = await self._dial(target, due)
        timeout_s = due - asyncio.get_running_loop().time()
        if timeout_s <= 0:
            raise CallError(Code.UNAVAILABLE, f"no time was left to send the call to {agent}")
        by_host = self._inflight.setdefault(agent, {})
        by_host[target.host] = by_host.get(target.host, 0) + 1
        try:
            return await channel.request(agent, method, body, timeout_s=timeout_s)
        finally:
            by_host[target.host] -= 1

    async def _dial(self, target: Target, due: float) -> Channel:
        if self._closed:
            raise CallError(Code.UNAVAILABLE, "this client is closed")
        link = self._links.get(target.key)
        if link is None:
            self._make_room()
            link = self._links[target.key] = _Link()
        async with link.lock:
            channel = link.channel
            if channel is not None and link.leads_to(target):
                return channel
            timeout_s = max(0.001, due - asyncio.get_running_loop().time())
            fresh = await open_unix(target.socket, self._scratch, timeout_s=timeout_s)
            if channel is not None:
                # The old incarnation still owes answers: it goes when they are in, or with its process.
                channel.close_when_idle()
            link.channel, link.incarnation = fresh, target.incarnation
            return fresh

    def _forget(self, key: str) -> None:
        link = self._links.get(key)
        if link is not None and link.channel is not None:
            link.channel.close_when_idle()
            link.channel = None

    def _make_room(self) -> None:
        if len(self._links) < MAX_CHANNELS:
            return
        for key, link in self._links.items():
            if not link.lock.locked() and (link.channel is None or link.channel.in_flight == 0):
                if link.channel is not None:
                    link.channel.close()
                del self._links[key]
                return
