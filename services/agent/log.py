"""Log lines of agents and gateway: to stderr, bounded in rate so that faults cannot fill a disk."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable


class RateLimit(logging.Filter):
    """Lets `per_second` records pass each second and says how many it held back."""

    def __init__(self, per_second: int = 20, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._per_second = per_second
        self._clock = clock
        self._second = -1
        self._passed = 0
        self._held = 0

    def filter(self, record: logging.LogRecord) -> bool:
        second = int(self._clock())
        if second != self._second:
            self._second, self._passed = second, 0
        if self._passed >= self._per_second:
            self._held += 1
            return False
        self._passed += 1
        if self._held:
            record.msg = f"{record.getMessage()} ({self._held} lines before this were left out)"
            record.args = ()
            self._held = 0
        return True


def configure(name: str) -> None:
    """Sends the process's log to stderr, every line with `name`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s {name} %(levelname)s %(message)s"))
    handler.addFilter(RateLimit())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.INFO)
