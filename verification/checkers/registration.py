"""Registered on one host, resolvable on the other."""

from __future__ import annotations

from verification.history import History, Kind, Operation
from verification.observations import Observation, Observations, VoidTrial
from verification.plan import RunPlan


def propagation(plan: RunPlan, history: History) -> Observations:
    """Milliseconds from before the registration's request to a usable answer on the other host.

    A registration that was refused, or that the other host never saw, is an exceedance; one that nobody
    awaited is void.
    """
    registered = {operation.key: operation for operation in history.of("register")}
    awaited: dict[str | None, Operation] = {operation.key: operation for operation in history.of("await")}
    trials = []
    voids = []
    for trial in plan.registrations:
        begun, seen = registered.get(trial.name), awaited.get(trial.name)
        if begun is None:
            continue  # not run
        if seen is None or seen.completion is None:
            voids.append(VoidTrial(trial.id, f"{trial.other} did not watch for it to the end"))
            continue
        if seen.completion.time_ns < begun.invoke.time_ns:
            voids.append(VoidTrial(trial.id, "the watch ended before the registration began"))
            continue
        value = None
        if seen.kind is Kind.OK and begun.kind is not Kind.FAIL:
            value = (seen.completion.time_ns - begun.invoke.time_ns) / 1e6
        trials.append(Observation(value, block=f"{trial.origin} to {trial.other}", label=trial.id))
    return Observations(
        trials=tuple(trials),
        voids=tuple(voids),
        sources=tuple(f"history/probe-{host}.jsonl" for host in plan.hosts),
    )
