"""Whether anybody noticed a planned switch-over."""

from __future__ import annotations

from bisect import bisect_left

from verification.history import History, Kind
from verification.observations import Counts, Observations, VoidTrial
from verification.plan import RunPlan

AROUND_NS = 250_000_000
"""Operations that began so long before the request or after its answer count as well."""


def calls(plan: RunPlan, history: History) -> Observations:
    """Operations of callers during switch-overs that were performed, and how many did not succeed.

    An outcome that nobody knows is a failure here: nothing was broken, so nothing may be unclear.
    """
    windows = []
    voids = []
    for operation in history.of("switchover"):
        done = operation.completed()
        if done is None or operation.kind is not Kind.OK:
            voids.append(VoidTrial(operation.key or "?", "the switch-over was not performed"))
        else:
            windows.append((done.invoke.time_ns - AROUND_NS, done.end.time_ns + AROUND_NS))
    windows.sort()
    begins = [begin for begin, _ in windows]
    total = failed = 0
    for operation in history.of("call", "write", "read"):
        at = bisect_left(begins, operation.invoke.time_ns + 1)
        if operation.completion is not None and at and operation.invoke.time_ns <= windows[at - 1][1]:
            total += 1
            failed += operation.kind is not Kind.OK
    return Observations(
        counts=(("all", Counts(total, failed)),) if total else (),
        voids=tuple(voids),
        expected=("all",),
        sources=("history/nemesis.jsonl", *(f"history/probe-{host}.jsonl" for host in plan.hosts)),
        facts=(("switch-overs", str(len(windows))),),
    )
