"""How long each injected fault left callers without an answer, for projections."""

from __future__ import annotations

from verification.checkers import failover
from verification.history import History
from verification.observations import Observation, Observations
from verification.plan import RunPlan


def lengths(plan: RunPlan, history: History) -> Observations:
    """Seconds from before each fault to the first good answers on all hosts; None: none came in time."""
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
        trials=tuple(trials),
        sources=("history/nemesis.jsonl", *(f"history/probe-{host}.jsonl" for host in plan.hosts)),
    )
