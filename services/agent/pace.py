"""An agent that starts is in a hurry: somebody may be waiting for it to serve again.

Linux weighs sessions against each other where automatic groups are on, and each agent is a session. One that
starts weighs more than those that serve, and less than its host's servers; once it serves it is one of many.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

STARTING_NICE: Final = -10
SERVING_NICE: Final = 0
HURRY_S: Final = 2.0
"""For how long after it listens: it is told to serve, and loads its state, in that time."""


def hurry() -> bool:
    """The session of this process, which must be its own, goes first. False: the system does not allow it."""
    return _weigh(STARTING_NICE)


def settle() -> bool:
    """Ends `hurry`."""
    return _weigh(SERVING_NICE)


def _weigh(nice: int) -> bool:
    with suppress(OSError):  # no automatic groups, or not allowed
        Path("/proc/self/autogroup").write_text(f"{nice}\n", encoding="ascii")
        return True
    return False
