"""How many agents of this host start at once: a start costs CPU time that those who serve would lack.

Those that are to serve here go first, critical ones before the others; those that will stand by wait until
none of the first kind waits, and are few at a time.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final, NamedTuple

STARTS_PER_CPU: Final = 2


class Rank(NamedTuple):
    """Who goes first: the lower one. `urgency`: 0 is the most urgent."""

    standby: bool
    urgency: int


class StartGate:
    """Turns are given by rank, then by arrival. A rank is asked for again whenever a turn is given."""

    def __init__(self, serving_at_once: int = 0, standby_at_once: int = 0) -> None:
        """0: by the number of CPUs."""
        cpus = os.cpu_count() or 1
        self._limits = {
            False: serving_at_once or STARTS_PER_CPU * cpus,
            True: standby_at_once or max(1, cpus // 2),
        }
        self._starting = {False: 0, True: 0}
        self._waiting: dict[asyncio.Future[bool], Callable[[], Rank]] = {}

    @asynccontextmanager
    async def turn(self, rank: Callable[[], Rank]) -> AsyncIterator[None]:
        """Held while one agent starts."""
        granted: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._waiting[granted] = rank
        self.look()
        try:
            standby = await granted
        except asyncio.CancelledError:
            self._waiting.pop(granted, None)
            if granted.done() and not granted.cancelled():
                self._leave(granted.result())
            raise
        try:
            yield
        finally:
            self._leave(standby)

    def look(self) -> None:
        """Ranks may have changed: who is first goes as soon as its kind has room; nobody overtakes it."""
        while self._waiting:
            ranks = {granted: rank() for granted, rank in self._waiting.items() if not granted.done()}
            if not ranks:
                return  # what is left was cancelled, and leaves by itself
            first = min(ranks, key=ranks.__getitem__)
            standby = ranks[first].standby
            if self._starting[standby] >= self._limits[standby]:
                return
            del self._waiting[first]
            self._starting[standby] += 1
            first.set_result(standby)

    def _leave(self, standby: bool) -> None:
        self._starting[standby] -= 1
        self.look()
