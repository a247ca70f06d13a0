"""From clients' operations to a trial's figures. Pure; times in ns unless named otherwise."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Collection, Iterable, Mapping, Sequence

from benchmarks.peers.records import Operation

SPLIT_WINDOW_NS = 1_000_000_000
"""Two hosts that take turns more slowly than this may have handed the service over and back."""


def serve_again_ns(
    operations: Sequence[Operation], outside: Collection[str], fault_ns: int, effective_ns: int
) -> int | None:
    """From the fault's beginning to when the slowest client of `outside` was served again.

    A client is served again when a write that it began after the fault had taken effect is acknowledged;
    before that instant the old server may still have answered.
    None when a client never was, or there is none.
    """
    first: dict[str, int] = {}
    for one in operations:
        if one.ok and one.invoked_ns >= effective_ns and one.client in outside:
            first[one.client] = min(first.get(one.client, one.ended_ns), one.ended_ns)
    if not first or len(first) < len(set(outside)):
        return None
    return max(first.values()) - fault_ns


def split_writes(operations: Iterable[Operation], window_ns: int = SPLIT_WINDOW_NS) -> int:
    """Acknowledged writes that lie, in real time, between two of another server at most `window_ns` apart.

    One server's write lies between two of another when it began after the first of them had ended and had
    ended before the second began. Where one server follows another there is no such write. Writes of either
    server are counted: each that is enclosed.
    """
    by_server: dict[str, list[Operation]] = {}
    for one in operations:
        if one.ok and one.server is not None:
            by_server.setdefault(one.server, []).append(one)
    enclosed = 0
    for server, mine in by_server.items():
        others = {name: _Reign(theirs) for name, theirs in by_server.items() if name != server}
        enclosed += sum(any(other.encloses(one, window_ns) for other in others.values()) for one in mine)
    return enclosed


class _Reign:
    """Acknowledged writes of one server, to be asked for the last before and the first after an instant."""

    def __init__(self, writes: Sequence[Operation]) -> None:
        by_end = sorted(writes, key=lambda one: one.ended_ns)
        self._ends = [one.ended_ns for one in by_end]
        self._latest_start: list[int] = []
        for one in by_end:
            so_far = self._latest_start[-1] if self._latest_start else one.invoked_ns
            self._latest_start.append(max(so_far, one.invoked_ns))
        by_start = sorted(writes, key=lambda one: one.invoked_ns)
        self._starts = [one.invoked_ns for one in by_start]
        self._earliest_end: list[int] = [0] * len(by_start)
        running = by_start[-1].ended_ns
        for place in range(len(by_start) - 1, -1, -1):
            running = min(running, by_start[place].ended_ns)
            self._earliest_end[place] = running

    def encloses(self, one: Operation, window_ns: int) -> bool:
        """Whether some write ended before `one` began, and another began after `one` had ended, close by.

        Close by: from the start of the first to the end of the second at most `window_ns`.
        """
        before = bisect_left(self._ends, one.invoked_ns) - 1
        after = bisect_left(self._starts, one.ended_ns + 1)
        if before < 0 or after >= len(self._starts):
            return False
        return self._earliest_end[after] - self._latest_start[before] <= window_ns


def acknowledged(operations: Iterable[Operation]) -> dict[str, set[int]]:
    """The numbers that each client was told are kept."""
    kept: dict[str, set[int]] = {}
    for one in operations:
        if one.ok:
            kept.setdefault(one.client, set()).add(one.n)
    return kept


def lost_writes(operations: Iterable[Operation], kept: Mapping[str, Collection[int]]) -> int:
    """Acknowledged numbers that are not in what the system holds after the repair, over all clients."""
    return sum(
        len(numbers - set(kept.get(client, ()))) for client, numbers in acknowledged(operations).items()
    )
