"""Whether an agent that answers pings also does its work: no unbroken row of calls that it made go wrong.

Only what a restart may cure counts: a handler that raised, or one that did not end in time while the event
loop itself was on time. A call that was refused, that spent its time in line, that waited for another agent
or for the store, or whose caller asked for nonsense says nothing about this process. One good answer ends the
row.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

ROW: Final = 5
"""Bad calls in a row before the agent calls itself failing."""
FORGOTTEN_S: Final = 2.0
"""A row without a further bad call for so long is over: an agent that nobody asks is not failing."""
LATE_LOOP_S: Final = 0.05
"""A deadline that was noticed so much too late says that the process got no CPU, not that it is slow."""
LEAST_TIME_S: Final = 0.1
"""A call that was given less time than this may run out of it without a fault of the agent."""


class Waiting:
    """How many answers from elsewhere a call waits for: of other agents, of the store of its state."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


call_waiting: ContextVar[Waiting | None] = ContextVar("call_waiting", default=None)
"""Of the call being handled; None outside of a call."""


@contextmanager
def elsewhere() -> Iterator[None]:
    """What is waited for inside is not this process's doing."""
    waiting = call_waiting.get()
    if waiting is None:
        yield
        return
    waiting.count += 1
    try:
        yield
    finally:
        waiting.count -= 1


class Wellness:
    """The row of bad calls of one agent's process. Times in seconds, on any one clock."""

    __slots__ = ("_last_s", "_row")

    def __init__(self) -> None:
        self._row = 0
        self._last_s = 0.0

    def good(self) -> None:
        """A call was answered."""
        self._row = 0

    def bad(self, now_s: float) -> None:
        """A handler raised."""
        if now_s - self._last_s > FORGOTTEN_S:
            self._row = 0
        self._row += 1
        self._last_s = now_s

    def late(
        self, now_s: float, due_s: float, given_s: float, *, waited_s: float = 0.0, elsewhere: bool
    ) -> None:
        """A call did not end in time. `elsewhere`: it was waiting for what this process has no hand in.

        `given_s` is the time that its handler had, `waited_s` what it had spent in line before: a call that
        waited for longer than it was handled speaks of the crowd, not of this process.
        """
        if elsewhere or given_s < max(LEAST_TIME_S, waited_s):
            return
        if now_s - due_s < LATE_LOOP_S:
            self.bad(now_s)

    def failing(self, now_s: float) -> bool:
        """Whether the process should be replaced."""
        return self._row >= ROW and now_s - self._last_s <= FORGOTTEN_S
