"""How long each injected fault left callers without an answer, for projections."""

from __future__ import annotations

from verification.checkers import failover, hosts
from verification.history import History
from verification.observations import Observation, Observations
from verification.plan import RunPlan


def lengths(plan: RunPlan, history: History) -> Observations:
    """Seconds from before each fault until callers had good answers again; None: they did not in time."""
    lost_hosts = [
        Observation(
            None if outcome.served_ms is None else outcome.served_ms / 1000.0,
            block=outcome.fault,
            label=outcome.id,
        )
        for outcome in hosts.outcomes(plan, history)
        if outcome.void is None
    ]
    trials = [
        Observation(
            None if outcome.served_ms is None else outcome.served_ms / 1000.0,
            block=outcome.fault,
            label=f"{outcome.id} {outcome.agent}",
        )
        for outcome in failover.outcomes(plan, history)
        if outcome.void is None
    ]
    return Observations(
        trials=(*trials, *lost_hosts),
        sources=("history/nemesis.jsonl", *(f"history/probe-{host}.jsonl" for host in plan.hosts)),
    )
