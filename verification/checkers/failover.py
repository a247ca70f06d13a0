"""What happened after a fault on an agent: who noticed when, who served when, when it was sound again.

All instants are CLOCK_BOOTTIME of one machine. Every choice is the unkind one: the clock starts before the
signal was sent; a change counts from the end of the read that saw it; of two hosts the later one speaks; a
call counts only when it began after the old process was proved gone.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from loadtests.protocol import Event, FaultPlan, Proof, View
from verification.history import Completed, History, Kind, Operation, value_of
from verification.observations import Observation, Observations, VoidTrial
from verification.plan import RunPlan

Figure = Callable[["Outcome"], tuple[float | None, bool | None]]

GOOD_CALLS = 3
"""Successful calls in a row, on each host, before a recovery counts as validated."""


@dataclass(frozen=True)
class Outcome:
    """One fault trial. Times are milliseconds after the fault; None: not seen before the trial ended."""

    id: str
    agent: str
    home: str
    fault: str
    void: str | None = None
    took_effect_ms: float | None = None
    left_ms: float | None = None
    served_ms: float | None = None
    validated_ms: float | None = None
    """When the recovery was validated, counted from the fault as well."""
    decided_ms: float | None = None
    """The system's own word: it knows and acts. For the picture, never for a verdict."""
    promoted_ms: float | None = None
    """The system's own word: a new incarnation serves."""
    left_by_host: tuple[tuple[str, float | None], ...] = ()
    served_by_host: tuple[tuple[str, float | None], ...] = ()

    @property
    def validation_ms(self) -> float | None:
        """From the first answers on all hosts to the validated recovery."""
        if self.validated_ms is None or self.served_ms is None:
            return None
        return max(0.0, self.validated_ms - self.served_ms)

    @property
    def rerouting_ms(self) -> float | None:
        """Of the slower host: from the answers without the old incarnation to its first good call."""
        left = dict(self.left_by_host)
        waits = [
            None if at is None or (gone := left.get(host)) is None else max(0.0, at - gone)
            for host, at in self.served_by_host
        ]
        known = [wait for wait in waits if wait is not None]
        return max(known) if known and len(known) == len(waits) else None

    @property
    def total_ms(self) -> float | None:
        """From the fault to the end of all of it."""
        if self.validated_ms is None or self.served_ms is None or self.left_ms is None:
            return None
        return max(self.validated_ms, self.served_ms, self.left_ms)


@dataclass
class _Evidence:
    """What the history holds about one agent, in the order in which it ended."""

    watches: dict[str, list[Completed]] = field(default_factory=dict)
    calls: dict[str, list[Completed]] = field(default_factory=dict)
    proofs: list[tuple[str, Completed, Proof]] = field(default_factory=list)
    validated: list[tuple[Completed, Event]] = field(default_factory=list)
    said: list[Event] = field(default_factory=list)


def outcomes(plan: RunPlan, history: History) -> tuple[Outcome, ...]:
    """Every fault trial of the history, in the order of their faults."""
    return history.once(_outcomes, plan.hosts)


def _outcomes(history: History, hosts: tuple[str, ...]) -> tuple[Outcome, ...]:
    evidence = _gather(history)
    ends = {operation.key: operation for operation in history.of("trial")}
    found = []
    for fault in sorted(history.of("fault"), key=lambda operation: operation.invoke.time_ns):
        told = value_of(fault.invoke, FaultPlan)
        agent = fault.key or ""
        found.append(_outcome(hosts, fault, told, evidence.get(agent, _Evidence()), ends.get(told.trial)))
    return tuple(found)


def crash_detection(plan: RunPlan, history: History) -> Observations:
    """Crash: milliseconds until the old incarnation had left the answers of all hosts."""
    return _observe(plan, history, ("crash",), lambda o: (o.left_ms, None))


def crash_failover(plan: RunPlan, history: History) -> Observations:
    """Crash: milliseconds until callers on all hosts were answered by a new incarnation."""
    return _observe(plan, history, ("crash",), lambda o: (o.served_ms, None))


def crash_validation(plan: RunPlan, history: History) -> Observations:
    """Crash: milliseconds from there until the recovery was validated."""
    return _observe(plan, history, ("crash",), lambda o: (o.validation_ms, None))


def crash_in_all(plan: RunPlan, history: History) -> Observations:
    """Crash: the whole of it, kept when each of the three limits is."""
    return _observe(plan, history, ("crash",), lambda o: (o.total_ms, _all_kept(plan, o)))


def hang_in_all(plan: RunPlan, history: History) -> Observations:
    """Hang: the whole of it, kept when each of the three limits is."""
    return _observe(plan, history, ("hang",), lambda o: (o.total_ms, _all_kept(plan, o)))


SERVICES = ("errors", "slow")
"""A service that fails although its process lives and answers pings."""


def service_detection(plan: RunPlan, history: History) -> Observations:
    """Service: milliseconds until the failing incarnation had left the answers of all hosts."""
    return _observe(plan, history, SERVICES, lambda o: (o.left_ms, None))


def service_failover(plan: RunPlan, history: History) -> Observations:
    """Service: milliseconds until callers on all hosts had a good answer."""
    return _observe(plan, history, SERVICES, lambda o: (o.served_ms, None))


def service_rerouting(plan: RunPlan, history: History) -> Observations:
    """Service: milliseconds from leaving the answers to the first good one, on the later host."""
    return _observe(plan, history, SERVICES, lambda o: (o.rerouting_ms, None))


def service_in_all(plan: RunPlan, history: History) -> Observations:
    """Service: the whole of it, kept when each of the three limits is."""
    return _observe(plan, history, SERVICES, lambda o: (o.total_ms, _service_kept(plan, o)))


def _service_kept(plan: RunPlan, outcome: Outcome) -> bool:
    limits = (
        (outcome.left_ms, "RL-4.detect"),
        (outcome.served_ms, "RL-4.failover"),
        (outcome.rerouting_ms, "RL-4.reroute"),
    )
    return all(value is not None and value < plan.catalogue.target(name) for value, name in limits)


def left_the_answers(plan: RunPlan, history: History) -> Observations:
    """Crash and hang: milliseconds until the old incarnation had left the answers of all hosts."""
    return _observe(plan, history, ("crash", "hang"), lambda o: (o.left_ms, None))


def _all_kept(plan: RunPlan, outcome: Outcome) -> bool:
    limits = (
        (outcome.left_ms, "RL-3.detect"),
        (outcome.served_ms, "RL-3.failover"),
        (outcome.validation_ms, "RL-3.validate"),
    )
    return all(value is not None and value < plan.catalogue.target(name) for value, name in limits)


def _observe(plan: RunPlan, history: History, faults: tuple[str, ...], figure: Figure) -> Observations:
    trials = []
    voids = []
    for outcome in outcomes(plan, history):
        if outcome.fault not in faults:
            continue
        if outcome.void is not None:
            voids.append(VoidTrial(outcome.id, outcome.void))
            continue
        value, kept = figure(outcome)
        trials.append(
            Observation(value, block=outcome.fault, label=f"{outcome.id} {outcome.agent}", kept=kept)
        )
    return Observations(
        trials=tuple(trials),
        voids=tuple(voids),
        expected=faults,
        sources=("history/nemesis.jsonl", *(f"history/probe-{host}.jsonl" for host in plan.hosts)),
    )


def _outcome(
    hosts: tuple[str, ...], fault: Operation, told: FaultPlan, seen: _Evidence, end: Operation | None
) -> Outcome:
    agent = fault.key or ""
    begin_ns = fault.invoke.time_ns
    end_ns = end.completion.time_ns if end is not None and end.completion is not None else None

    def void(reason: str) -> Outcome:
        return Outcome(told.trial, agent, told.home, told.fault, void=reason)

    if end_ns is None:
        return void("the trial was not brought to its end")
    if fault.kind is not Kind.OK:
        return void("the signal was not sent")
    fact = _FACTS[told.fault]
    gone = next(
        (
            done
            for name, done, proof in seen.proofs
            if name == fact
            and proof.trial == told.trial
            and proof.incarnation in (told.incarnation, 0)
            and done.end.type is Kind.OK
            and done.end.time_ns >= begin_ns
        ),
        None,
    )
    if gone is None:
        return void(f"no proof that the process was {_FACT_WORDS[fact]}")
    gone_ns = gone.end.time_ns
    for host in hosts:
        problem = _not_ready(told, seen, host, begin_ns)
        if problem is not None:
            return void(f"before the fault, on {host}: {problem}")

    def since(instant_ns: int | None) -> float | None:
        return None if instant_ns is None else (instant_ns - begin_ns) / 1e6

    left = {host: _left_ns(told, seen.watches.get(host, []), begin_ns, end_ns) for host in hosts}
    served = {host: _served_ns(seen.calls.get(host, []), gone_ns, end_ns) for host in hosts}
    sound = [_sound_ns(seen.calls.get(host, []), served[host], end_ns) for host in hosts]
    sound.append(_validated_ns(told, seen, begin_ns, end_ns))
    return Outcome(
        told.trial,
        agent,
        told.home,
        told.fault,
        took_effect_ms=since(gone_ns),
        left_ms=since(_latest(list(left.values()))),
        served_ms=since(_latest(list(served.values()))),
        validated_ms=since(_latest(sound)),
        decided_ms=since(_said(seen, _DECIDED, begin_ns, end_ns)),
        promoted_ms=since(_said(seen, _PROMOTED, begin_ns, end_ns)),
        left_by_host=tuple((host, since(at)) for host, at in left.items()),
        served_by_host=tuple((host, since(at)) for host, at in served.items()),
    )


_FACTS = {"crash": "exited", "hang": "frozen", "errors": "misbehaving", "slow": "misbehaving"}
_FACT_WORDS = {"exited": "gone", "frozen": "frozen", "misbehaving": "failing its calls"}


_DECIDED = ("exited", "unhealthy", "killed")
_PROMOTED = ("promoted",)


def _said(seen: _Evidence, words: tuple[str, ...], begin_ns: int, end_ns: int) -> int | None:
    """When a daemon said so first, by its own clock, which is the same one."""
    instants = (e.time_ns for e in seen.said if e.event in words and begin_ns <= e.time_ns <= end_ns)
    return min(instants, default=None)


def _not_ready(told: FaultPlan, seen: _Evidence, host: str, begin_ns: int) -> str | None:
    """Why this host could not have seen the failover; None when it could."""
    views = seen.watches.get(host, [])
    at = _first_from(views, begin_ns)
    if not at:
        return "nobody watched the answers"
    if not _stands(told, views[at - 1].value(View)):
        return "the agent did not stand in the answers"
    calls = seen.calls.get(host, [])
    at = _first_from(calls, begin_ns)
    if at < GOOD_CALLS or any(done.end.type is not Kind.OK for done in calls[at - GOOD_CALLS : at]):
        return "calls did not succeed"
    return None


def _first_from(ended: list[Completed], instant_ns: int) -> int:
    """The place of the first that ended at that instant or later; they are in the order of their ends."""
    return bisect_left(ended, instant_ns, key=lambda done: done.end.time_ns)


def _stands(told: FaultPlan, view: View) -> bool:
    return any(one.host == told.home and one.incarnation == told.incarnation for one in view.serving)


def _left_ns(told: FaultPlan, views: list[Completed], begin_ns: int, end_ns: int) -> int | None:
    """When the old incarnation was gone from this host's answers for good."""
    left: int | None = None
    for done in views[_first_from(views, begin_ns) :]:
        if done.end.time_ns > end_ns:
            break
        if _stands(told, done.value(View)):
            left = None
        elif left is None:
            left = done.end.time_ns
    return left


def _served_ns(calls: list[Completed], gone_ns: int, end_ns: int) -> int | None:
    """The end of the first good call that began after the old process was gone."""
    for done in calls[_first_from(calls, gone_ns) :]:
        if done.end.time_ns > end_ns:
            break
        if done.invoke.time_ns >= gone_ns and done.end.type is Kind.OK:
            return done.end.time_ns
    return None


def _sound_ns(calls: list[Completed], served_ns: int | None, end_ns: int) -> int | None:
    """The end of the third good call in a row, counting the first answer and calls that began after it."""
    if served_ns is None:
        return None
    streak = 1
    for done in calls[_first_from(calls, served_ns) :]:
        if done.end.time_ns > end_ns:
            break
        if done.invoke.time_ns < served_ns:
            continue
        streak = streak + 1 if done.end.type is Kind.OK else 0
        if streak >= GOOD_CALLS:
            return done.end.time_ns
    return None


def _validated_ns(told: FaultPlan, seen: _Evidence, begin_ns: int, end_ns: int) -> int | None:
    """When a host's daemon was heard to say that a new incarnation is sound."""
    heard = (
        done.end.time_ns
        for done, event in seen.validated
        if begin_ns <= done.end.time_ns <= end_ns
        and (done.end.host != told.home or event.incarnation > told.incarnation)
    )
    return min(heard, default=None)


def _latest(instants: list[int | None]) -> int | None:
    known = [instant for instant in instants if instant is not None]
    return max(known) if len(known) == len(instants) else None


def _gather(history: History) -> dict[str, _Evidence]:
    """By agent, for those that had a fault."""
    found = {fault.key or "": _Evidence() for fault in history.of("fault")}
    for operation in history.of("watch", "call"):
        evidence, host = found.get(operation.key or ""), operation.invoke.host
        if evidence is not None and host is not None and (done := operation.completed()) is not None:
            kind = evidence.watches if operation.f == "watch" else evidence.calls
            kind.setdefault(host, []).append(done)
    for operation in history.of("exited", "frozen", "misbehaving"):
        evidence = found.get(operation.key or "")
        if (done := operation.completed()) is not None:
            proof = done.value(Proof)
            if evidence is not None:
                evidence.proofs.append((operation.f, done, proof))
    for operation in history.of("event"):
        done = operation.completed()
        if done is not None and operation.kind is Kind.OK:
            for event in done.value(list[Event]):
                evidence = found.get(event.agent)
                if evidence is None:
                    continue
                if event.agent:
                    evidence.said.append(event)
                if event.event == "validated":
                    evidence.validated.append((done, event))
    for evidence in found.values():
        for by_host in (evidence.watches, evidence.calls):
            for operations in by_host.values():
                operations.sort(key=lambda done: done.end.time_ns)
    return found
