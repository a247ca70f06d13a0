"""The clock that all instants of one machine are compared on."""

from __future__ import annotations

import time


def boottime_ns() -> int:
    """CLOCK_BOOTTIME in nanoseconds: goes on while the machine is suspended, never runs backwards."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
