"""What the kernel tells about how a process gets on: `/proc/PID/task/*/{stat,schedstat}`."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Final

from services.control.starvation import RUNNABLE, STOPPED, Sample
from services.hostd.clock import boottime_ns

MAX_THREADS: Final = 64


def look_at(pid: int, proc: Path = Path("/proc")) -> Sample | None:
    """All threads of a process together; None when it is gone, or the kernel keeps no such figures."""
    found = False
    runnable, ran_ns, waited_ns, stopped = False, 0, 0, True
    try:
        threads = sorted((proc / str(pid) / "task").iterdir(), key=lambda path: int(path.name))[:MAX_THREADS]
    except OSError:
        return None
    for thread in threads:
        with suppress(OSError, ValueError, IndexError):  # a thread that has just ended
            state = (thread / "stat").read_bytes().rpartition(b")")[2].split()[0].decode()
            ran, waited = (thread / "schedstat").read_bytes().split()[:2]
            runnable |= state == RUNNABLE
            stopped &= state == STOPPED
            ran_ns += int(ran)
            waited_ns += int(waited)
            found = True
    return Sample(boottime_ns(), runnable, ran_ns, waited_ns, stopped) if found else None


def held_still(pid: int) -> bool:
    """Whether a signal has stopped a process: no other signal reaches it but SIGCONT and SIGKILL."""
    seen = look_at(pid)
    return seen is not None and seen.stopped
