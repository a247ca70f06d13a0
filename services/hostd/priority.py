"""Keeps the programs that decide who serves ahead of the agents when the CPUs are full.

A host whose hostd or etcd waits for its turn among a hundred busy agents cannot renew its lease, and loses
its agents to another host for no reason. Linux weighs processes by their nice value, and where automatic
groups are on (`kernel.sched_autogroup_enabled`) sessions first: each agent is a session of its own, and so
would weigh as much as all servers of its host together.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

NICE: Final = -10


def stand_out(pid: int | None = None, nice: int = NICE) -> bool:
    """This process, and the session that it shares with the host's other servers, go first from now on.

    False: the system does not allow it (it takes CAP_SYS_NICE); then all are weighed alike, as before.
    """
    allowed = True
    try:
        os.setpriority(os.PRIO_PROCESS, pid or 0, nice)
    except PermissionError:
        allowed = False
    with suppress(OSError):  # no automatic groups, or not allowed
        Path(f"/proc/{pid or 'self'}/autogroup").write_text(f"{nice}\n", encoding="ascii")
    return allowed
