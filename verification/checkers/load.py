"""Whether the load was there: a run under its planned rate proves nothing about a run at it."""

from __future__ import annotations

from dataclasses import dataclass

from loadtests.protocol import LoadPlan
from verification.history import History, Kind, value_of
from verification.plan import RunPlan

LOAD_OPERATIONS = ("load-lookup", "load-call")


@dataclass(frozen=True)
class HostLoad:
    """What one host's load generator did."""

    host: str
    operations: int
    failed: int
    seconds: float
    per_s: float
    users: int

    @property
    def share(self) -> float:
        """Achieved rate over planned rate."""
        if self.seconds <= 0 or self.per_s <= 0:
            return 0.0
        return self.operations / self.seconds / self.per_s


def measure(plan: RunPlan, history: History) -> tuple[HostLoad, ...]:
    """The load of each host of the run, from its first planned instant to its last completion."""
    plans = {op.invoke.host: value_of(op.invoke, LoadPlan) for op in history.of("load-plan")}
    begun: dict[str, int] = {}
    ended: dict[str, int] = {}
    count = dict.fromkeys(plan.hosts, 0)
    failed = dict.fromkeys(plan.hosts, 0)
    for operation in history.of(*LOAD_OPERATIONS):
        host, done = operation.invoke.host, operation.completion
        if host not in count or done is None:
            continue
        count[host] += 1
        failed[host] += operation.kind is not Kind.OK
        begun[host] = min(begun.get(host, operation.invoke.time_ns), operation.invoke.time_ns)
        ended[host] = max(ended.get(host, 0), done.time_ns)
    return tuple(
        HostLoad(
            host=host,
            operations=count[host],
            failed=failed[host],
            seconds=(ended.get(host, 0) - begun.get(host, 0)) / 1e9,
            per_s=plan.load.per_s,
            users=plans[host].users if host in plans else 0,
        )
        for host in plan.hosts
    )


def shortfall(plan: RunPlan, loads: tuple[HostLoad, ...]) -> str | None:
    """Why the load does not count; None when it does."""
    for load in loads:
        if load.operations == 0:
            return f"no load ran on {load.host}"
        if load.share < plan.load.least_share:
            return (
                f"the load on {load.host} ran at {load.share * load.per_s:.0f} of {load.per_s:g} operations/s"
            )
    return None
