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
"""For how long after it listens: it is told to serve, and loads its state, in that time. A program is settled
by hostd, as soon as it answers."""


def hurry() -> bool:
    """The session of this process, which must be its own, goes first. False: the system does not allow it."""
    return _weigh(STARTING_NICE)


def settle(pid: int | None = None) -> bool:
    """Ends `hurry`; None: of this process."""
    return _weigh(SERVING_NICE, pid)


def _weigh(nice: int, pid: int | None = None) -> bool:
    with suppress(OSError):  # no automatic groups, not allowed, or the process is gone
        Path(f"/proc/{'self' if pid is None else pid}/autogroup").write_text(f"{nice}\n", encoding="ascii")
        return True
    return False
