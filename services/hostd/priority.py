"""Keeps the programs that decide who serves ahead of the agents when the CPUs are full.

A host whose hostd or etcd waits for its turn among a hundred busy agents cannot renew its lease, and loses
its agents to another host for no reason. Linux weighs processes by their nice value, and where automatic
groups are on (`kernel.sched_autogroup_enabled`) sessions instead: each agent is a session of its own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

NICE: Final = -10
SESSION_NICE: Final = -20
_GROUPS: Final = Path("/proc/sys/kernel/sched_autogroup_enabled")


def stand_out() -> bool:
    """This process goes first from now on; by groups where its session is its own, as those of servers are.

    False: the system does not allow it (it takes CAP_SYS_NICE); then all are weighed alike, as before.
    """
    try:
        if os.getsid(0) == os.getpid() and _GROUPS.exists() and _GROUPS.read_text("ascii").strip() == "1":
            Path("/proc/self/autogroup").write_text(f"{SESSION_NICE}\n", encoding="ascii")
        else:
            os.setpriority(os.PRIO_PROCESS, 0, NICE)
    except OSError:
        return False
    return True
