"""The supervisor of one host: supervisord, with a poller that lets go of broken descriptors, and sessions.

A descriptor that is closed while it is polled keeps its place in supervisord's poll set. When a program
ends and another starts between two polls, the number may come to stand for the new one's standard input.
Once the program has closed its end, poll says nothing of it but POLLERR. Supervisord passes over such an
event and keeps the descriptor, so that every poll returns at once: a core is spent on nothing for as long
as the host lives. Descriptors that are still wanted are registered anew before each poll.

Each program is a session of its own. Where Linux weighs sessions against each other
(`kernel.sched_autogroup_enabled`), all programs of one have one weight: Prometheus, which reads its log for
seconds when a host returns, would go before everybody else together with the servers that must.
"""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path

from supervisor import options, poller, supervisord

from infra.substrates.weights import FIRST


class LenientPoller(poller.PollPoller):  # type: ignore[misc]  # supervisor has no types
    """Takes descriptors out that are in error, as supervisord does with invalid ones."""

    def _ignore_invalid(self, fd: int, eventmask: int) -> bool:
        if eventmask & select.POLLERR and not eventmask & (self.READ | self.WRITE):
            eventmask |= select.POLLNVAL
        return bool(super()._ignore_invalid(fd, eventmask))


class FirstSupervisor(supervisord.Supervisor):  # type: ignore[misc]
    """Goes before the programs that it watches, once it has a session of its own."""

    def runforever(self) -> None:
        """The main loop; after the change into a daemon."""
        if os.getsid(0) == os.getpid():
            with contextlib.suppress(OSError):  # no such groups, or not allowed
                Path("/proc/self/autogroup").write_text(f"{FIRST}\n", encoding="ascii")
        super().runforever()


def _own_session(_: options.ServerOptions) -> None:
    """In the child, where supervisord would only make a process group."""
    os.setsid()


def main() -> None:
    """Runs supervisord with its own arguments."""
    poller.Poller = LenientPoller
    options.ServerOptions.setpgrp = _own_session
    supervisord.Supervisor = FirstSupervisor
    supervisord.main()


if __name__ == "__main__":
    main()
