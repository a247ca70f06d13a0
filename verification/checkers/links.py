"""How long a sign of life takes between hosts."""

from __future__ import annotations

from verification.history import History, Kind
from verification.observations import Observation, Observations
from verification.plan import RunPlan


def latency(plan: RunPlan, history: History) -> Observations:
    """Milliseconds from question to answer, by the host that asked; one without an answer has none."""
    trials = []
    for operation in history.of("exchange"):
        done = operation.completed()
        if done is not None:
            value = done.duration_ms if operation.kind is Kind.OK else None
            trials.append(Observation(value, block=operation.invoke.host or "?", label=operation.key or ""))
    return Observations(
        trials=tuple(trials),
        expected=plan.hosts,
        sources=tuple(f"history/probe-{host}.jsonl" for host in plan.hosts),
    )
