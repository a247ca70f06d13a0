"""Time lines of the slowest failover of each level: detect, decide, promote, reroute, validate. Pure.

Detecting, rerouting and validating are what callers saw. Deciding and promoting are the system's own word
(the events of its daemons): they explain a time line and carry no verdict. A phase ends no earlier than the
one before it, so what overlaps is drawn where it ends.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.model import Mark, Phase, TimeLine
from verification.checkers import failover, hosts
from verification.checkers.failover import Outcome
from verification.checkers.hosts import HostOutcome
from verification.history import History
from verification.plan import RunPlan

LEVELS = (
    ("crash", "RL-3", "agent crash"),
    ("hang", "RL-3.hang", "agent hang"),
    ("errors", "RL-4", "service that fails its calls"),
    ("slow", "RL-4", "service that answers too late"),
    ("host-kill", "RL-5", "host killed"),
    ("host-freeze", "RL-5", "host frozen"),
    ("host-cut", "RL-5", "host cut off"),
    ("leader-kill", "RL-5.leader", "host killed that led etcd"),
    ("leader-freeze", "RL-5.leader", "host frozen that led etcd"),
    ("leader-cut", "RL-5.leader", "host cut off that led etcd"),
)
"""Kind of fault, the criterion that it belongs to, words."""
_EFFECTS = {
    "crash": "process gone",
    "hang": "frozen",
    "errors": "fails calls",
    "slow": "too slow",
    "host-kill": "all processes gone",
    "host-freeze": "all processes stopped",
    "host-cut": "links cut",
    "leader-kill": "all processes gone",
    "leader-freeze": "all processes stopped",
    "leader-cut": "links cut",
}


@dataclass(frozen=True)
class _Steps:
    """Milliseconds after the fault; None: not known."""

    detected: float | None
    decided: float | None
    promoted: float | None
    rerouted: float | None
    validated: float | None


def slowest(plan: RunPlan, history: History, planned: Sequence[str]) -> list[TimeLine]:
    """The slowest whole trial of each kind of fault whose criterion is among `planned`."""
    found = []
    agents = [one for one in failover.outcomes(plan, history) if one.void is None]
    lost = [one for one in hosts.outcomes(plan, history) if one.void is None]
    for fault, criterion, words in LEVELS:
        if criterion not in planned:
            continue
        of_agents = [one for one in agents if one.fault == fault and one.total_ms is not None]
        of_hosts = [one for one in lost if one.fault == fault and one.total_ms is not None]
        if of_agents:
            found.append(_of_agent(criterion, words, max(of_agents, key=lambda one: one.total_ms or 0.0)))
        if of_hosts:
            found.append(_of_host(criterion, words, max(of_hosts, key=lambda one: one.total_ms or 0.0)))
    return found


def _of_agent(criterion: str, words: str, outcome: Outcome) -> TimeLine:
    steps = _Steps(
        outcome.left_ms, outcome.decided_ms, outcome.promoted_ms, outcome.served_ms, outcome.validated_ms
    )
    marks = [(_EFFECTS[outcome.fault], outcome.took_effect_ms)]
    marks += [(f"left on {host}", at) for host, at in outcome.left_by_host]
    marks += [(f"served on {host}", at) for host, at in outcome.served_by_host]
    return _line(criterion, f"The slowest {words}: {outcome.agent} on {outcome.home}", steps, marks)


def _of_host(criterion: str, words: str, outcome: HostOutcome) -> TimeLine:
    steps = _Steps(
        outcome.left_ms, outcome.decided_ms, outcome.promoted_ms, outcome.served_ms, outcome.validated_ms
    )
    marks = [
        (_EFFECTS[outcome.fault], outcome.took_effect_ms),
        ("all in the answers", outcome.answers_ms),
        ("state read", outcome.state_ms),
    ]
    title = f"The slowest {words}: {outcome.victim} with {outcome.served} agents"
    return _line(criterion, title, steps, marks)


def _line(criterion: str, title: str, steps: _Steps, marks: Sequence[tuple[str, float | None]]) -> TimeLine:
    seen = [at for at in (steps.detected, steps.decided) if at is not None]
    ends = (
        ("detect", min(seen, default=None)),
        ("decide", steps.decided),
        ("promote", steps.promoted),
        ("reroute", steps.rerouted),
        ("validate", steps.validated),
    )
    phases = []
    at = 0.0
    for name, end in ends:
        reached = at if end is None else max(at, end)
        phases.append(Phase(name=name, start_ms=at, end_ms=reached))
        at = reached
    told = [Mark(name="fault", at_ms=0.0)]
    told += [Mark(name=name, at_ms=when) for name, when in marks if when is not None]
    return TimeLine(
        criterion=criterion,
        title=title,
        phases=tuple(phases),
        marks=tuple(sorted(told, key=lambda mark: mark.at_ms)),
    )
