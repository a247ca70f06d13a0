"""`python -m services.hostd.watchdog`: ends the agents of a host whose hostd is stalled past its deadline.

hostd itself empties the fence when it cannot renew. When it does not even do that, half the margin after the
deadline, this program kills every agent by its pid file. It holds a lock, so that there is one per host; it
outlives hostd, and ends when the fence file is gone.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path

from services.agent import pidfile
from services.agent.fence import NAME, Allowance, FenceError, FenceReader, boottime_ns
from services.hostd.priority import stand_out

LOCK = "watchdog.lock"
IDLE_S = 0.2
SHORTEST_S = 0.002

log = logging.getLogger("threenines.watchdog")


def overdue_ns(allowance: Allowance, now_ns: int, grace_ns: int) -> int | None:
    """How long ago hostd should have renewed or emptied the fence; below 0: not yet. None: nothing is
    allowed, nothing is to be watched."""
    return now_ns - allowance.deadline_ns - grace_ns if allowance.serving else None


def kill_agents(folder: Path) -> tuple[str, ...]:
    """SIGKILL for every agent that has a pid file; their names."""
    killed = []
    for path in sorted(folder.glob("*.pid")):
        content = pidfile.read(path)
        if content is None or not pidfile.alive(content):
            continue
        try:
            pidfd = os.pidfd_open(content.pid)
        except OSError:
            continue
        try:
            if pidfile.alive(content):  # asked again now that the descriptor holds it
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                killed.append(path.stem)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)
    return tuple(killed)


def watch(run: Path, grace_ns: int, sleep: Callable[[float], None] = time.sleep) -> None:
    """Until the fence file is gone."""
    path = run / NAME
    reader = FenceReader(path)
    done_for = 0
    while path.exists():
        try:
            allowance = reader.read()
        except FenceError as error:
            log.warning("%s", error)
            sleep(IDLE_S)
            continue
        late_ns = overdue_ns(allowance, boottime_ns(), grace_ns)
        if late_ns is None or allowance.deadline_ns == done_for:
            sleep(IDLE_S)
        elif late_ns < 0:
            sleep(min(IDLE_S, max(SHORTEST_S, -late_ns / 1e9)))
        else:
            killed = kill_agents(run / "agents")
            done_for = allowance.deadline_ns
            log.error(
                "hostd is %.0f ms past its deadline: killed %s", late_ns / 1e6, ", ".join(killed) or "-"
            )


def main() -> int:
    """Arguments: the run folder, the grace in milliseconds."""
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.INFO)
    if len(sys.argv) != 3:
        print("threenines: watchdog: give RUN_FOLDER and GRACE_MS; hostd starts this", file=sys.stderr)
        return 64
    run = Path(sys.argv[1])
    lock = os.open(run / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return 0  # there is one already
    os.truncate(lock, 0)
    os.write(lock, f"{os.getpid()} {pidfile.start_ticks(os.getpid())} 0\n".encode())
    stand_out()
    watch(run, int(float(sys.argv[2]) * 1e6))
    return 0


if __name__ == "__main__":
    sys.exit(main())
