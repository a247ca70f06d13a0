"""The line before a busy agent: calls wait here for a place, bounded in number, in bytes and in time.

A burst is let in a little later instead of being refused; who is overloaded all the time says so at once. The
two are told apart by how long the line has stood (Nichols and Jacobson, *Controlling Queue Delay*, ACM Queue
2012; the two waits are those of Maurer, *Fail at Scale*, ACM Queue 2015). Pure but for the timer.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

from services.agent.connection import Deadlines

PLACES: Final = 8
"""So many times its `concurrency` may wait before an agent."""
MAX_BYTES: Final = 8 << 20
"""Bodies that wait before one agent."""

K = TypeVar("K")


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a call waits for a place, in seconds."""

    burst_s: float = 2.0
    """A line that has stood for less is a burst: a call waits so long."""
    standing_s: float = 0.05
    """In a line that has stood for longer."""
    crowd_s: float = 10.0
    """For so long after an agent was told to serve, those come who were held back until then: a call waits
    for as long as it has time."""
    share: float = 0.9
    """Of a call's time at most: it is refused while its caller still listens, and never begun for nothing."""

    def wait_s(self, stood_s: float, served_s: float, left_s: float) -> float:
        """For a call with `left_s`, in a line that has stood for `stood_s`, before an agent that was told to
        serve `served_s` ago."""
        most_s = self.share * left_s
        if served_s <= self.crowd_s:
            return most_s
        return min(most_s, self.burst_s if stood_s < self.burst_s else self.standing_s)


class Line(Generic[K]):
    """Who comes first goes first; `late` hears of each that waited for too long and is in line no more."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, places: int, patience: Patience, late: Callable[[K], None]
    ) -> None:
        self._loop = loop
        self._places = places
        self._patience = patience
        self._late = late
        self._waiting: OrderedDict[K, int] = OrderedDict()
        self._deadlines = Deadlines(loop, self._expire)
        self._bytes = 0
        self._since = 0.0

    def __len__(self) -> int:
        return len(self._waiting)

    def join(self, key: K, size: int, *, served_since: float, left_s: float) -> bool:
        """False: there is no room. Instants are the loop's, in seconds."""
        if len(self._waiting) >= self._places or self._bytes + size > MAX_BYTES:
            return False
        now = self._loop.time()
        if not self._waiting:
            self._since = now
        self._waiting[key] = size
        self._bytes += size
        wait_s = self._patience.wait_s(now - self._since, now - served_since, left_s)
        self._deadlines.add(key, now + wait_s)
        return True

    def pop(self) -> K | None:
        """The one that waits longest; None: nobody does."""
        if not self._waiting:
            return None
        key, size = self._waiting.popitem(last=False)
        self._bytes -= size
        self._deadlines.discard(key)
        return key

    def all(self) -> Iterator[K]:
        """Everybody, in order; nobody waits any more."""
        while (key := self.pop()) is not None:
            yield key

    def close(self) -> None:
        """Ends the timer."""
        self._deadlines.close()

    def _expire(self, key: K) -> None:
        size = self._waiting.pop(key, None)
        if size is not None:
            self._bytes -= size
            self._late(key)
