"""`python -m services.hostd.watchdog`: holds the agents of a host whose hostd is stalled past its deadline.

hostd itself empties the fence when it cannot renew. When it does not even do that, half the margin after the
deadline, this program stops every agent by its pid file (SIGSTOP): nothing of them is done any more. When
hostd turns out to have been late and to serve the same units at the same epochs, they go on; when it empties
the fence they are its business; and when it stays silent they are killed. There is one watchdog per host, by
a lock; it outlives hostd, and ends when the fence file is gone.
"""

from __future__ import annotations

import fcntl
import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path

from services.agent import pidfile
from services.agent.fence import NAME, Allowance, FenceError, FenceReader, boottime_ns
from services.hostd.priority import stand_out

LOCK = "watchdog.lock"
IDLE_S = 0.2
SHORTEST_S = 0.002
KILL_AFTER_NS = 1_000_000_000
"""hostd has been silent for so long after its agents were stopped: nobody will tell them to go on."""

log = logging.getLogger("threenines.watchdog")


def overdue_ns(allowance: Allowance, now_ns: int, grace_ns: int) -> int | None:
    """How long ago hostd should have renewed or emptied the fence; below 0: not yet. None: nothing is
    allowed, nothing is to be watched."""
    return now_ns - allowance.deadline_ns - grace_ns if allowance.serving else None


class Verdict(StrEnum):
    """What becomes of agents that were stopped."""

    WAIT = "wait"
    GO_ON = "go on"
    LEAVE = "leave"  # hostd lives, and decides about them
    KILL = "kill"


def judge(stopped: Allowance, now_allowed: Allowance, silent_ns: int) -> Verdict:
    """`stopped`: what was allowed when they were stopped; `silent_ns`: how long ago that was."""
    if not now_allowed.serving:
        return Verdict.LEAVE
    same = (now_allowed.serving, now_allowed.withheld) == (stopped.serving, stopped.withheld)
    if same and now_allowed.deadline_ns > stopped.deadline_ns:
        return Verdict.GO_ON  # an epoch belongs to one life of hostd: nobody else can have served meanwhile
    return Verdict.WAIT if same and silent_ns < KILL_AFTER_NS else Verdict.KILL


def signal_agents(folder: Path, number: signal.Signals) -> tuple[str, ...]:
    """A signal for every agent that has a pid file; their names."""
    told = []
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
                signal.pidfd_send_signal(pidfd, number)
                told.append(path.stem)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)
    return tuple(told)


class Watch:
    """One host's agents. `look` again and again; it answers how long until the next look, in seconds."""

    def __init__(
        self,
        tell: Callable[[signal.Signals], tuple[str, ...]],
        grace_ns: int,
    ) -> None:
        """`tell` sends a signal to all agents and answers their names."""
        self._tell = tell
        self._grace_ns = grace_ns
        self._stopped: Allowance | None = None
        self._since_ns = 0
        self._done_for = 0

    def look(self, allowance: Allowance, now_ns: int) -> float:
        """`allowance`: what the fence says; `now_ns`: CLOCK_BOOTTIME."""
        if self._stopped is not None:
            return self._settle(self._stopped, allowance, now_ns)
        late_ns = overdue_ns(allowance, now_ns, self._grace_ns)
        if late_ns is None or allowance.deadline_ns == self._done_for:
            return IDLE_S
        if late_ns < 0:
            return min(IDLE_S, max(SHORTEST_S, -late_ns / 1e9))
        names = self._tell(signal.SIGSTOP)
        self._stopped, self._since_ns = allowance, now_ns
        log.error("hostd is %.0f ms past its deadline: stopped %s", late_ns / 1e6, ", ".join(names) or "-")
        return SHORTEST_S

    def _settle(self, stopped: Allowance, allowance: Allowance, now_ns: int) -> float:
        verdict = judge(stopped, allowance, now_ns - self._since_ns)
        if verdict is Verdict.WAIT:
            return SHORTEST_S
        if verdict is Verdict.GO_ON:
            self._tell(signal.SIGCONT)
        elif verdict is Verdict.KILL:
            self._tell(signal.SIGKILL)
        log.error("after %.0f ms: %s", (now_ns - self._since_ns) / 1e6, verdict)
        self._stopped, self._done_for = None, stopped.deadline_ns
        return SHORTEST_S


def watch(run: Path, grace_ns: int) -> None:
    """Until the fence file is gone."""
    path = run / NAME
    reader = FenceReader(path)
    agents = Watch(lambda number: signal_agents(run / "agents", number), grace_ns)
    while path.exists():
        try:
            now_ns = boottime_ns()  # before the reading: who is held still in between finds nothing overdue
            wait_s = agents.look(reader.read(), now_ns)
        except FenceError as error:
            log.warning("%s", error)
            wait_s = IDLE_S
        time.sleep(wait_s)


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
