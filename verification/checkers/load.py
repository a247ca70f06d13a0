"""Whether the load was there: a run under its planned arrivals proves nothing about a run with them."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from loadtests.outcome import HostOutcome, Outcome
from loadtests.protocol import LoadPlan, LoadSecond
from verification.history import History, Kind, Operation, value_of
from verification.plan import RunPlan

LOAD_OPERATIONS = ("load-lookup", "load-call", "load-http-lookup", "load-http-call")
MARKS = ("load-plan", "load-second")
APART_S = 10.0
"""Generators of one host that count from instants no further apart belong to one load, unless those that
began first had ended when the others began."""
ENDS_EARLY_S = 5.0
"""A load may have ended so long before the last trial; the harness ends it when all trials are over."""


@dataclass(frozen=True)
class HostLoad:
    """What one host's load generators did. `outcome`: by their seconds; None in a history without them."""

    host: str
    operations: int
    failed: int
    seconds: float
    per_s: float
    users: int
    outcome: HostOutcome | None = None
    ended_early_s: float = 0.0

    @property
    def share(self) -> float:
        """Arrivals that came to an end over those planned; without seconds, achieved over planned rate."""
        if self.outcome is not None:
            return self.outcome.share
        if self.seconds <= 0 or self.per_s <= 0:
            return 0.0
        return self.operations / self.seconds / self.per_s


def measure(plan: RunPlan, history: History) -> tuple[HostLoad, ...]:
    """Each load of each host of the run, from its first planned instant to its last completion.

    A run that went on where it was stopped, or that had scenarios between its trials, has several.
    """
    found: list[HostLoad] = []
    for host in plan.hosts:
        told = [one for one in _outcomes(history, host) if one.told]
        later = [_begin_ns(one) for one in told[1:]]
        found += [
            _by_seconds(plan, history, one, until_ns) for one, until_ns in itertools.zip_longest(told, later)
        ] or [_by_operations(plan, history, host)]
    return tuple(found)


def _outcomes(history: History, host: str) -> list[HostOutcome]:
    """The loads of a host, one for each begin, in the order in which they began."""
    told: list[tuple[int, Operation]] = []
    for operation in history.of(*MARKS):
        if operation.invoke.host != host:
            continue
        if operation.f == "load-plan":
            begin_ns = value_of(operation.invoke, LoadPlan).begin_ns or operation.invoke.time_ns
        elif operation.completion is not None:
            begin_ns = operation.invoke.time_ns - value_of(operation.completion, LoadSecond).second * 10**9
        else:
            continue
        told.append((begin_ns, operation))
    told.sort(key=lambda one: one[0])
    outcomes: list[Outcome] = []
    last_ns: int | None = None
    ended_ns: dict[str, int | None] = {}  # of the generators of the present load, by process
    for begin_ns, operation in told:
        ends = list(ended_ns.values())
        over = bool(ends) and all(end_ns is not None and end_ns < begin_ns for end_ns in ends)
        if last_ns is None or over or begin_ns - last_ns > APART_S * 1e9:
            outcomes.append(Outcome())
            ended_ns = {}
        last_ns = begin_ns
        if operation.f == "load-plan":
            done = operation.completion
            ended_ns[operation.invoke.process] = None if done is None else done.time_ns
        for record in (operation.invoke, operation.completion):
            if record is not None:
                outcomes[-1].take_record(record)
    return [outcome.hosts[host] for outcome in outcomes]


def shortfall(plan: RunPlan, loads: tuple[HostLoad, ...]) -> str | None:
    """Why the load does not count; None when it does. What was reached is judged over all loads of a host."""
    for host in dict.fromkeys(load.host for load in loads):
        told = [load.outcome for load in loads if load.host == host and load.outcome is not None]
        planned, arrivals = sum(one.planned for one in told), sum(one.arrivals for one in told)
        if planned and arrivals < plan.load.least_share * planned:
            share = f"{arrivals / planned:.1%} of its {planned:,} planned arrivals"
            return f"the load on {host} reached {share} ({plan.load.least_share:.0%} are needed)"
    for load in loads:
        if load.outcome is not None:
            why = load.outcome.shortfall(0.0)
            if why is not None:
                return why
            if load.ended_early_s > ENDS_EARLY_S:
                return f"the load on {load.host} ended {load.ended_early_s:.0f} s before the last trial"
        elif load.operations == 0:
            return f"no load ran on {load.host}"
        elif load.share < plan.load.least_share:
            return (
                f"the load on {load.host} ran at {load.share * load.per_s:.0f} of {load.per_s:g} operations/s"
            )
    return None


def seconds(history: History) -> tuple[tuple[str, int, LoadSecond], ...]:
    """The seconds that generators told of: host, begin of that second, figures. Some come in parts."""
    return history.once(_seconds)


def _seconds(history: History) -> tuple[tuple[str, int, LoadSecond], ...]:
    return tuple(
        (operation.invoke.host, operation.invoke.time_ns, value_of(operation.completion, LoadSecond))
        for operation in history.of("load-second")
        if operation.completion is not None and operation.invoke.host is not None
    )


def look_ups(history: History, host: str) -> int | None:
    """How many look-ups the load made on `host`, by its seconds; None in a history without them."""
    found = [second for on, _, second in seconds(history) if on == host]
    if not found:
        return None
    kinds = (kind for second in found for kind in second.kinds if kind.f == "load-lookup")
    return sum(kind.ok + kind.fail + kind.info for kind in kinds)


def _begin_ns(outcome: HostOutcome) -> int:
    return min((told.begin_ns for told in outcome.plans), default=0)


def _by_seconds(plan: RunPlan, history: History, outcome: HostOutcome, until_ns: int | None) -> HostLoad:
    return HostLoad(
        host=outcome.host,
        operations=outcome.operations,
        failed=outcome.failed,
        seconds=float(outcome.last_s),
        per_s=plan.load.per_s,
        users=sum(told.users for told in outcome.plans),
        outcome=outcome,
        ended_early_s=_ended_early_s(plan, history, outcome, until_ns),
    )


def _ended_early_s(plan: RunPlan, history: History, outcome: HostOutcome, until_ns: int | None) -> float:
    begin_ns = _begin_ns(outcome)
    with_load = {trial.id for trial in plan.faults}  # trials on hosts come when the load has been ended
    last_ns = max(
        (
            operation.invoke.time_ns
            for operation in history.of("trial", "lookup")
            if (operation.f == "lookup" or operation.key in with_load)
            and (until_ns is None or operation.invoke.time_ns < until_ns)
        ),
        default=0,
    )
    return (last_ns - begin_ns) / 1e9 - outcome.last_s


def _by_operations(plan: RunPlan, history: History, host: str) -> HostLoad:
    count = failed = ended_ns = 0
    begun_ns: int | None = None
    for operation in history.of(*LOAD_OPERATIONS):
        if operation.invoke.host != host or operation.completion is None:
            continue
        count += 1
        failed += operation.kind is not Kind.OK
        begun_ns = min(begun_ns or operation.invoke.time_ns, operation.invoke.time_ns)
        ended_ns = max(ended_ns, operation.completion.time_ns)
    return HostLoad(
        host=host,
        operations=count,
        failed=failed,
        seconds=(ended_ns - (begun_ns or 0)) / 1e9 if count else 0.0,
        per_s=plan.load.per_s,
        users=0,
    )
