"""Simulated time: one queue of events, and a clock for each host that runs at its own rate."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable

MS = 1_000_000
S = 1_000 * MS
_M = 1_000_000

Event = list[object]
"""`[true_ns, number, function or None, arguments, live]`; made by `World`, handed back to cancel it."""


class Clock:
    """A host's clocks. The boot clock runs on, at `1 + ppm / 10^6`; the wall clock steps; both never stop.

    `suspended_ns` is what a clock that stops during a suspend (CLOCK_MONOTONIC) has missed.
    """

    __slots__ = ("_local0", "_true0", "ppm", "suspended_ns", "wall_offset_ns")

    def __init__(self, ppm: int, start_ns: int) -> None:
        self._true0 = 0
        self._local0 = start_ns
        self.ppm = ppm
        self.wall_offset_ns = 0
        self.suspended_ns = 0

    def local(self, true_ns: int) -> int:
        """The boot clock at an instant."""
        return self._local0 + (true_ns - self._true0) * (_M + self.ppm) // _M

    def true(self, local_ns: int) -> int:
        """The first instant at which the boot clock shows `local_ns` or more."""
        return self._true0 - ((self._local0 - local_ns) * _M) // (_M + self.ppm)

    def set_rate(self, true_ns: int, ppm: int) -> None:
        self._local0, self._true0 = self.local(true_ns), true_ns
        self.ppm = ppm

    def reboot(self, true_ns: int, start_ns: int) -> None:
        """The boot clock begins again."""
        self._local0, self._true0 = start_ns, true_ns
        self.suspended_ns = 0


class World:
    """The queue. `live` counts what is under way, without timers of the steady cycle and coming faults."""

    def __init__(self, seed: int) -> None:
        self.now = 0
        self.random = random.Random(seed)
        self.live = 0
        self.handled = 0
        self._heap: list[Event] = []
        self._number = 0

    def at(self, true_ns: int, call: Callable[..., None], *args: object) -> Event:
        """Calls at that instant; equal instants in the order in which they were asked for."""
        return self._push(true_ns, call, args, True)

    def later_idle(self, true_ns: int, call: Callable[..., None], *args: object) -> Event:
        """The same, for what does not keep the world busy."""
        return self._push(true_ns, call, args, False)

    def _push(self, true_ns: int, call: Callable[..., None], args: tuple[object, ...], live: bool) -> Event:
        self._number += 1
        event: Event = [max(true_ns, self.now), self._number, call, args, live]
        heapq.heappush(self._heap, event)
        self.live += live
        return event

    def cancel(self, event: Event | None) -> None:
        if event is not None and event[2] is not None:
            event[2] = None
            self.live -= bool(event[4])

    def next_ns(self) -> int | None:
        """When the next event is due."""
        while self._heap and self._heap[0][2] is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None  # type: ignore[return-value]

    def run_to(self, until_ns: int, limit: int) -> bool:
        """Runs what is due before an instant, until `limit` events were handled in all; False when none is
        left for later."""
        heap = self._heap
        while heap:
            event = heap[0]
            call = event[2]
            later = event[0] >= until_ns  # type: ignore[operator]
            if call is not None and (later or self.handled > limit):
                return True
            heapq.heappop(heap)
            if call is None:
                continue
            event[2] = None
            self.live -= bool(event[4])
            self.now = event[0]  # type: ignore[assignment]
            self.handled += 1
            call(*event[3])  # type: ignore[operator, misc]
        return False

    def step(self) -> bool:
        """Runs the next event; False when there is none."""
        while self._heap:
            event = heapq.heappop(self._heap)
            call = event[2]
            if call is None:
                continue
            event[2] = None
            self.live -= bool(event[4])
            self.now = event[0]  # type: ignore[assignment]
            self.handled += 1
            call(*event[3])  # type: ignore[operator, misc]
            return True
        return False
