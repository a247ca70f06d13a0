"""Whether a process that did not answer in time got no CPU, or hangs. Pure.

A process that is stopped, waits for a lock or spins does not come back by waiting, so it is replaced. One
that is ready to run and does not get its turn is well, and would be replaced by one that gets no turn either.
The kernel tells them apart: by the state of the threads, the time for which they ran, and the time for which
they were ready and waited (`/proc/PID/schedstat`; the wait that goes on is added only when it ends).
"""

from __future__ import annotations

from dataclasses import dataclass

MS = 1_000_000
S = 1_000 * MS
RUNNABLE, STOPPED = "R", "T"


@dataclass(frozen=True, slots=True)
class Sample:
    """A look at a process at `time_ns`: all its threads together. Times in nanoseconds since it began."""

    time_ns: int
    runnable: bool
    ran_ns: int
    waited_ns: int
    stopped: bool = False
    """By a signal (SIGSTOP): it gives no answer however long one waits."""


@dataclass(frozen=True, slots=True)
class StarvationPolicy:
    """`fresh_ns`: how old the look before may be. `limit_ns`: for how long a starved process is excused."""

    fresh_ns: int = 1 * S
    limit_ns: int = 5 * S
    spins_permille: int = 500
    """A process that ran for this share of the time had its turn."""
    waited_permille: int = 250
    """A process that was ready and waited for this share of the time lacks its turns."""


def starved(before: Sample, now: Sample, policy: StarvationPolicy) -> bool:
    """Whether between two looks the process wanted to run and was not let."""
    elapsed_ns = now.time_ns - before.time_ns
    ran_ns = now.ran_ns - before.ran_ns
    waited_ns = now.waited_ns - before.waited_ns
    if not 0 < elapsed_ns <= policy.fresh_ns or ran_ns < 0 or waited_ns < 0:
        return False  # too long ago, or another process
    if 1_000 * ran_ns >= policy.spins_permille * elapsed_ns:
        return False
    return now.runnable or 1_000 * waited_ns >= policy.waited_permille * elapsed_ns


@dataclass(frozen=True, slots=True)
class Excuse:
    """What is remembered between two missed answers: the last look, and since when it is excused."""

    looked: Sample | None = None
    since_ns: int | None = None


def miss(
    excuse: Excuse, now: Sample | None, last_miss: bool, policy: StarvationPolicy
) -> tuple[Excuse, bool]:
    """One missed answer. True: it does not count. `last_miss`: counting it has consequences.

    A miss without a fresh look before it counts, unless it is the last one: then the next one decides.
    """
    if now is None:
        return Excuse(), False
    before = excuse.looked
    if before is None or now.time_ns - before.time_ns > policy.fresh_ns:
        return Excuse(now, now.time_ns if last_miss else None), last_miss
    since_ns = now.time_ns if excuse.since_ns is None else excuse.since_ns
    if starved(before, now, policy) and now.time_ns - since_ns < policy.limit_ns:
        return Excuse(now, since_ns), True
    return Excuse(now, since_ns), False
