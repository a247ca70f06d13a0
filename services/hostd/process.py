"""One process of an agent, held by its pidfd: a name that no other process can ever take over."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable
from pathlib import Path

from services.agent import pidfile


class Process:
    """Owns `pidfd`. `on_exit` is called once, in the loop turn in which the process ended."""

    def __init__(self, pid: int, pidfd: int, incarnation: int, on_exit: Callable[[int], None]) -> None:
        self.pid = pid
        self.incarnation = incarnation
        self._pidfd = pidfd
        self._on_exit = on_exit
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(pidfd, self._exited)

    def signal(self, number: signal.Signals) -> None:
        """Sends a signal; a process that is gone already does not mind."""
        if self._pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, number)

    def release(self) -> None:
        """Stops watching; the process goes on."""
        if self._pidfd >= 0:
            self._loop.remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    def _exited(self) -> None:
        self.release()
        self._on_exit(self.incarnation)


def running_agents(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Agents that run, by their pid files: name to (pid, incarnation, pidfd). The caller owns the pidfds."""
    found: dict[str, tuple[int, int, int]] = {}
    for path in sorted(folder.glob("*.pid")):
        content = pidfile.read(path)
        if content is None or not pidfile.alive(content):
            continue
        try:
            pidfd = os.pidfd_open(content.pid)
        except OSError:
            continue
        # Asked again now that the descriptor holds it: the number may have changed hands in between.
        if pidfile.alive(content):
            found[path.stem] = (content.pid, content.incarnation, pidfd)
        else:
            os.close(pidfd)
    return found
