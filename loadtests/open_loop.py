"""Arrivals handed to users when they are due, whatever became of the ones before.

One greenlet follows the schedule; users take what is due as they become free. When all are busy, what is due
waits, and its time counts from when it was due: a stack that stalls cannot hide behind callers that wait.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import gevent
from gevent.queue import SimpleQueue

from loadtests.instrument import GeneratorError
from loadtests.mix import Step
from loadtests.record import now_ns

CHECK_EVERY_NS = 2_000_000
TURN_AFTER = 64
"""Overdue arrivals that are handed over before the users get their turn."""


class Waker(Protocol):
    """Waits until an instant."""

    def wait_until(self, instant_ns: int) -> None:
        """Returns at `instant_ns`, or at once when it has passed."""
        ...


class Observer(Protocol):
    """Who hears of arrivals: a recorder."""

    def planned(self, due_ns: int) -> None:
        """An arrival was due."""
        ...

    def late(self, due_ns: int, late_ns: int) -> None:
        """The generator began it so much later, with a user free for it."""
        ...


@dataclass(frozen=True, slots=True)
class Arrival:
    """One operation that is due. `free`: a user was free for it when it was handed over."""

    due_ns: int
    step: Step
    free: bool


class OpenLoop:
    """The arrivals of one load. `schedule` gives seconds since the begin, rising, and what is due then."""

    def __init__(
        self,
        schedule: Iterator[tuple[float, Step]],
        begin_ns: int,
        observer: Observer,
        waker: Waker,
        clock: Callable[[], int] = now_ns,
    ) -> None:
        self._schedule = schedule
        self.begin_ns = begin_ns
        self._observer = observer
        self._waker = waker
        self._clock = clock
        self._due: SimpleQueue[Arrival | None] = SimpleQueue()
        self._idle = 0
        self._stopped = False

    @property
    def backlog(self) -> int:
        """Arrivals that are due and not begun."""
        return int(self._due.qsize())

    def run(self) -> None:
        """Hands over what is due, to the end of the schedule or until it is stopped."""
        without_turn = 0
        for due_s, step in self._schedule:
            due_ns = self.begin_ns + round(due_s * 1e9)
            if due_ns > self._clock():
                self._waker.wait_until(due_ns)
                without_turn = 0
            else:
                without_turn += 1
                if without_turn >= TURN_AFTER:
                    without_turn = 0
                    gevent.sleep(0)
            if self._stopped:
                return
            self._observer.planned(due_ns)
            self._due.put(Arrival(due_ns, step, self._idle > self._due.qsize()))

    def take(self) -> Arrival | None:
        """The next arrival, waiting for it; None when the load is over."""
        if self._stopped:
            return None
        self._idle += 1
        try:
            arrival: Arrival | None = self._due.get()
        finally:
            self._idle -= 1
        if arrival is not None and arrival.free:
            self._observer.late(arrival.due_ns, self._clock() - arrival.due_ns)
        return arrival

    def stop(self) -> None:
        """Nothing more is handed over; waiting users are let go. What is due and not begun stays undone."""
        self._stopped = True
        for _ in range(self._idle):
            self._due.put(None)


def measure_generator(waker: Waker, seconds: float = 0.4) -> GeneratorError:
    """How late this generator is woken with nothing else to do, and the clock's smallest step."""
    step = min(step for step in (-now_ns() + now_ns() for _ in range(1000)) if step > 0)
    late: list[int] = []
    due_ns = now_ns()
    for _ in range(max(1, round(seconds * 1e9 / CHECK_EVERY_NS))):
        due_ns = max(due_ns + CHECK_EVERY_NS, now_ns())
        waker.wait_until(due_ns)
        late.append(now_ns() - due_ns)
    late.sort()

    def ranked_ms(share: float) -> float:
        return late[math.ceil(share * len(late)) - 1] / 1e6

    return GeneratorError(
        clock_step_ns=step,
        late_p50_ms=ranked_ms(0.5),
        late_p99_ms=ranked_ms(0.99),
        late_max_ms=late[-1] / 1e6,
        samples=len(late),
    )
