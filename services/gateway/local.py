"""The way to this host's own agents: one channel to each agent's socket, dialled when first needed."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Final

import msgspec

from services.agent.channel import Channel, open_unix
from services.agent.connection import Scratch
from services.agent.errors import CallError, Code

MAX_CHANNELS: Final = 512


class LocalAgents:
    """Calls the agents of this host."""

    def __init__(self, run: Path, scratch: Scratch) -> None:
        self._agents = run / "agents"
        self._scratch = scratch
        self._channels: dict[str, Channel] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    def exists(self, agent: str) -> bool:
        """True when there is a socket of that name, whether or not somebody listens."""
        return (self._agents / f"{agent}.sock").exists()

    async def request(self, agent: str, method: str, body: msgspec.Raw, *, timeout_s: float) -> msgspec.Raw:
        """The reply's body. Raises `CallError`."""
        due = asyncio.get_running_loop().time() + timeout_s
        channel = self._channels.get(agent)
        if channel is None or not channel.usable:
            channel = await self._dial(agent, timeout_s)
        left_s = due - asyncio.get_running_loop().time()
        if left_s <= 0:
            raise CallError(Code.UNAVAILABLE, f"no time was left to send the call to {agent}")
        try:
            return await channel.request(agent, method, body, timeout_s=left_s)
        except CallError as error:
            if error.code == Code.DRAINING and self._channels.get(agent) is channel:
                # Its successor listens under the same name.
                del self._channels[agent]
                channel.close_when_idle()
            raise

    def close(self) -> None:
        """Closes every channel; calls in flight end `indeterminate`."""
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    async def _dial(self, agent: str, timeout_s: float) -> Channel:
        async with self._locks.setdefault(agent, asyncio.Lock()):
            channel = self._channels.get(agent)
            if channel is None or not channel.usable:
                self._make_room()
                channel = await open_unix(self._agents / f"{agent}.sock", self._scratch, timeout_s=timeout_s)
                self._channels[agent] = channel
            return channel

    def _make_room(self) -> None:
        if len(self._channels) < MAX_CHANNELS:
            return
        for name, channel in self._channels.items():
            if channel.in_flight == 0:
                channel.close()
                del self._channels[name]
                self._locks.pop(name, None)
                return
