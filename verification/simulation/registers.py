"""Linearizability of a register whose written values are all different, exactly and in O(n log n).

Gibbons and Korach, "Testing shared memories", SIAM J. Computing 26 (1997): gather each write with the reads
of its value. With f the earliest end and s the latest start in such a cluster, its zone is forward, (f, s),
when f < s, else backward, (s, f). The history is linearizable if and only if no read ends before its write
starts, no two forward zones overlap, and no backward zone lies inside a forward one.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise

NEVER = 1 << 80
INITIAL = 0
"""The value before the first write."""


@dataclass(frozen=True, slots=True)
class Op:
    """A read, or a write that was acknowledged or whose outcome nobody knows (`end_ns` = NEVER)."""

    writes: bool
    value: int
    start_ns: int
    end_ns: int


def fault_of(ops: Iterable[Op]) -> str | None:
    """Why the history of one register is not linearizable; None: it is."""
    writes: dict[int, Op] = {INITIAL: Op(True, INITIAL, -1, -1)}
    reads: dict[int, list[Op]] = {}
    for op in ops:
        if op.writes:
            if op.value in writes:
                return f"value {op.value} was written twice"
            writes[op.value] = op
        else:
            reads.setdefault(op.value, []).append(op)
    forward: list[tuple[int, int, int]] = []
    backward: list[tuple[int, int, int]] = []
    for value, seen in reads.items():
        if value not in writes:
            return f"read {value}, which nobody wrote"
        if min(read.end_ns for read in seen) < writes[value].start_ns:
            return f"read {value} before it was written"
    for value, write in writes.items():
        cluster = [write, *reads.get(value, ())]
        if len(cluster) == 1 and write.end_ns == NEVER:
            continue
        first_end = min(op.end_ns for op in cluster)
        last_start = max(op.start_ns for op in cluster)
        if first_end < last_start:
            forward.append((first_end, last_start, value))
        else:
            backward.append((last_start, first_end, value))
    forward.sort()
    for (_, right, value), (left, _, other) in pairwise(forward):
        if left < right:
            return f"{value} and {other} were each current before and after the other"
    starts = [zone[0] for zone in forward]
    for left, right, value in backward:
        place = bisect.bisect_left(starts, left) - 1
        if place >= 0 and right < forward[place][1]:
            return f"{value} was written within the time in which only {forward[place][2]} was read"
    return None
