"""Look-ups: whether every name has an answer, how long answers take, how many failed."""

from __future__ import annotations

from loadtests.protocol import Answer, View
from verification.checkers import load
from verification.history import History, Kind, Operation
from verification.observations import Counts, Observation, Observations
from verification.plan import RunPlan

LOOK_UPS = ("census", "lookup", "cold-lookup", "load-lookup")


def census(plan: RunPlan, history: History) -> Observations:
    """Each name of the run, asked from each host; the last answer counts."""
    last: dict[tuple[str, str], Operation] = {}
    for operation in history.of("census"):
        if operation.invoke.host is not None and operation.key is not None:
            last[operation.invoke.host, operation.key] = operation
    trials = []
    missing = []
    for host in plan.hosts:
        for agent in plan.agents:
            if (host, agent.name) not in last:
                continue
            usable = _usable(last[host, agent.name])
            if not usable:
                missing.append(f"{agent.name} from {host}")
            trials.append(Observation(100.0 if usable else 0.0, block=host, label=agent.name, kept=usable))
    return Observations(
        trials=tuple(trials),
        expected=plan.hosts,
        population=len(plan.agents),
        sources=_sources(plan.hosts),
        missing=tuple(missing),
    )


def warm(plan: RunPlan, history: History) -> Observations:
    """Warm look-ups in milliseconds; one without a usable endpoint is an exceedance."""
    return history.once(_latencies, plan.hosts, "lookup")


def cold(plan: RunPlan, history: History) -> Observations:
    """First look-ups of fresh processes in milliseconds."""
    return history.once(_latencies, plan.hosts, "cold-lookup")


def availability(plan: RunPlan, history: History) -> Observations:
    """All look-ups of registered names, by host, and how many of them had no answer."""
    total = dict.fromkeys(plan.hosts, 0)
    failed = dict.fromkeys(plan.hosts, 0)
    registered = {agent.name for agent in plan.agents}
    by_seconds = {on: made for on in plan.hosts if (made := load.look_ups(history, on)) is not None}
    total.update(by_seconds)
    for operation in history.of(*LOOK_UPS):
        host = operation.invoke.host
        if host in by_seconds and operation.f == "load-lookup":
            failed[host] += operation.key in registered and operation.kind is not Kind.OK
        elif host in total and operation.key in registered and operation.completion is not None:
            total[host] += 1
            failed[host] += operation.kind is not Kind.OK
    for operation in history.of("watch"):
        host = operation.invoke.host
        done = operation.completed()
        if host in total and operation.key in registered and done is not None and operation.kind is Kind.OK:
            view = done.value(View)
            total[host] += view.reads
            failed[host] += view.failures
    return Observations(
        counts=tuple((host, Counts(total[host], failed[host])) for host in plan.hosts),
        expected=plan.hosts,
        sources=(*_sources(plan.hosts), *(f"history/load-{host}.jsonl" for host in plan.hosts)),
    )


def _latencies(history: History, hosts: tuple[str, ...], f: str) -> Observations:
    trials = []
    for operation in history.of(f):
        done = operation.completed()
        if done is None:
            continue  # the harness ended while it was in flight: nothing is known of it
        value = done.duration_ms if _usable(operation) else None
        trials.append(Observation(value, block=operation.invoke.host or "?", label=operation.key or ""))
    return Observations(trials=tuple(trials), expected=hosts, sources=_sources(hosts))


def _usable(operation: Operation) -> bool:
    done = operation.completed()
    return done is not None and operation.kind is Kind.OK and done.value(Answer).usable > 0


def _sources(hosts: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(f"history/probe-{host}.jsonl" for host in hosts)
