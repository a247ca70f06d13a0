"""What the Prometheus servers say about the fleet."""

from __future__ import annotations

from loadtests.protocol import Targets
from verification.history import Completed, History, Kind
from verification.observations import Observation, Observations
from verification.plan import RunPlan


def targets(plan: RunPlan, history: History) -> Observations:
    """Each agent as a target of each server; the last answer of each server counts."""
    last: dict[str, Completed] = {}
    for operation in history.of("targets"):
        done = operation.completed()
        if done is not None and operation.kind is Kind.OK and operation.key is not None:
            last[operation.key] = done
    trials = []
    missing = []
    for host in plan.hosts:
        done = last.get(host)
        if done is None:
            continue
        told = done.value(Targets)
        up = set(told.up)
        for agent in plan.agents:
            kept = agent.name in up
            trials.append(Observation(100.0 if kept else 0.0, block=host, label=agent.name, kept=kept))
            if not kept:
                why = told.down.get(agent.name, "is no target")
                missing.append(f"{agent.name} on {host} ({why})")
    return Observations(
        trials=tuple(trials),
        expected=plan.hosts,
        population=len(plan.agents),
        sources=("history/prometheus.jsonl",),
        missing=tuple(missing),
    )
