"""The supervisor of one host: supervisord with a poller that lets go of broken descriptors.

A descriptor that is closed while it is polled keeps its place in supervisord's poll set. When a program
ends and another starts between two polls, the number may come to stand for the new one's standard input.
Once the program has closed its end, poll says nothing of it but POLLERR. Supervisord passes over such an
event and keeps the descriptor, so that every poll returns at once: a core is spent on nothing for as long
as the host lives. Descriptors that are still wanted are registered anew before each poll.
"""

from __future__ import annotations

import select

from supervisor import poller, supervisord


class LenientPoller(poller.PollPoller):  # type: ignore[misc]  # supervisor has no types
    """Takes descriptors out that are in error, as supervisord does with invalid ones."""

    def _ignore_invalid(self, fd: int, eventmask: int) -> bool:
        if eventmask & select.POLLERR and not eventmask & (self.READ | self.WRITE):
            eventmask |= select.POLLNVAL
        return bool(super()._ignore_invalid(fd, eventmask))


def main() -> None:
    """Runs supervisord with its own arguments."""
    poller.Poller = LenientPoller
    supervisord.main()


if __name__ == "__main__":
    main()
