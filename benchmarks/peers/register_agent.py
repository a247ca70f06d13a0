"""The agent that ours is measured with: sets of numbers, kept in the state that survives its host."""

from __future__ import annotations

import asyncio
import os

import msgspec

from infra.topology import AgentSpec
from services.agent.sdk import Agent, Caller, method
from services.agent.state import State

CHUNK = 32
"""Numbers per value: an acknowledged number is one write of a few bytes."""


class Mark(msgspec.Struct, frozen=True):
    """A number for a client's set."""

    client: str
    n: int


class Whose(msgspec.Struct, frozen=True):
    """Whose set is asked for."""

    client: str


class RegisterAgent(Agent):
    """Keeps every number that it has acknowledged."""

    def __init__(
        self,
        spec: AgentSpec,
        *,
        incarnation: int = 0,
        caller: Caller | None = None,
        state: State | None = None,
    ) -> None:
        super().__init__(spec, incarnation=incarnation, caller=caller, state=state)
        self._locks: dict[str, asyncio.Lock] = {}

    @method()
    async def add(self, mark: Mark) -> str:
        """Puts a number into a set; the host that did it."""
        key = f"{mark.client}/{mark.n // CHUNK}"
        async with self._locks.setdefault(mark.client, asyncio.Lock()):
            held = await self.state.get(key)
            await self.state.put(key, (held if isinstance(held, int) else 0) | 1 << mark.n % CHUNK)
        return os.environ["THREENINES_HOST"]

    @method(idempotent=True)
    async def kept(self, whose: Whose) -> list[int]:
        """A client's set."""
        found = []
        for key in await self.state.keys(f"{whose.client}/"):
            client, _, chunk = key.rpartition("/")
            if client != whose.client:
                continue  # another client's, whose name begins like this one's
            bits, first = await self.state.get(key), int(chunk) * CHUNK
            assert isinstance(bits, int)
            found += [first + bit for bit in range(CHUNK) if bits >> bit & 1]
        return sorted(found)
