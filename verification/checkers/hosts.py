"""What happened after a whole host was lost: when the others knew, who served when, when state was there.

All instants are CLOCK_BOOTTIME of one machine, and every choice is the unkind one: the clock starts before
the fault is asked for; a change counts from the end of the reads that saw it; a call or read counts only when
it began after the fault was proved; the last of all agents and registers speaks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from dataclasses import dataclass, field

from loadtests.protocol import Acted, Event, HostFault, Picture, RegisterWish
from verification.history import Completed, History, Kind, Operation, value_of
from verification.kinds import HOST_FAULTS, LEADER_FAULTS, LOSSES, SAFETY_FAULTS
from verification.observations import Observation, Observations, VoidTrial
from verification.plan import RunPlan

GOOD_CALLS = 3

Figure = Callable[["HostOutcome"], tuple[float | None, bool | None]]


@dataclass(frozen=True)
class HostOutcome:
    """One trial. Times are milliseconds after the fault; None: not seen before the trial ended."""

    id: str
    fault: str
    victim: str
    served: int = 0
    void: str | None = None
    took_effect_ms: float | None = None
    left_ms: float | None = None
    """The victim stood in no answer any more."""
    answers_ms: float | None = None
    """Every agent stood in the answers again."""
    served_ms: float | None = None
    """Every agent stood in the answers, and each that was called had answered."""
    state_ms: float | None = None
    """Every register had been read with all that was acknowledged before the fault."""
    validated_ms: float | None = None
    decided_ms: float | None = None
    """The system's own word: it has taken over. For the picture, never for a verdict."""
    promoted_ms: float | None = None
    """The system's own word: the last agent was promoted."""

    @property
    def synchronising_ms(self) -> float | None:
        """From the first moment of service to the last register that was right."""
        if self.state_ms is None or self.served_ms is None:
            return None
        return max(0.0, self.state_ms - self.served_ms)

    @property
    def total_ms(self) -> float | None:
        """From the fault to the end of all of it."""
        if self.left_ms is None or self.served_ms is None or self.state_ms is None:
            return None
        return max(self.left_ms, self.served_ms, self.state_ms)


@dataclass
class _Seen:
    """What one host's probes saw, in the order in which it ended."""

    pictures: list[Completed] = field(default_factory=list)
    calls: dict[str, list[Completed]] = field(default_factory=dict)
    writes: dict[str, list[Completed]] = field(default_factory=dict)
    reads: dict[str, list[Completed]] = field(default_factory=dict)
    events: list[tuple[Completed, Event]] = field(default_factory=list)


def outcomes(plan: RunPlan, history: History) -> tuple[HostOutcome, ...]:
    """Every loss of a host in the history, in the order of the faults."""
    return history.once(_outcomes, plan.hosts, plan.registers)


def _outcomes(
    history: History, hosts: tuple[str, ...], registers: tuple[str, ...]
) -> tuple[HostOutcome, ...]:
    seen = history.once(_gather, hosts, registers)
    ends = {operation.key: operation for operation in history.of("trial")}
    proofs = {operation.key: operation for operation in history.of("host-proof")}
    found = []
    for fault in sorted(history.of("host-fault"), key=lambda operation: operation.invoke.time_ns):
        told = value_of(fault.invoke, HostFault)
        if told.fault in LOSSES:
            found.append(_outcome(registers, fault, told, proofs.get(told.trial), ends.get(told.trial), seen))
    return tuple(found)


def in_all(plan: RunPlan, history: History) -> Observations:
    """The whole of it, kept when each of the three limits is."""
    return _in_all(plan, history, HOST_FAULTS)


def with_the_leader(plan: RunPlan, history: History) -> Observations:
    """As `in_all`, of the losses that took etcd's leader with them."""
    return _in_all(plan, history, LEADER_FAULTS)


def _in_all(plan: RunPlan, history: History, faults: tuple[str, ...]) -> Observations:
    return _observe(plan, history, faults, lambda o: (o.total_ms, _all_kept(plan, o)))


def detection(plan: RunPlan, history: History) -> Observations:
    """Milliseconds until the lost host stood in no answer of the other one any more."""
    return _observe(plan, history, HOST_FAULTS, lambda o: (o.left_ms, None))


def failover(plan: RunPlan, history: History) -> Observations:
    """Milliseconds until everybody was served by the other host."""
    return _observe(plan, history, HOST_FAULTS, lambda o: (o.served_ms, None))


def state(plan: RunPlan, history: History) -> Observations:
    """Milliseconds from there until every register had been read with all that was acknowledged."""
    return _observe(plan, history, HOST_FAULTS, lambda o: (o.synchronising_ms, None))


def lost_links(plan: RunPlan, history: History) -> Observations:
    """Seconds from the loss of all communication with a host until everybody was served by the other."""
    return _observe(
        plan, history, ("host-cut",), lambda o: (None if o.served_ms is None else o.served_ms / 1000.0, None)
    )


def returns(plan: RunPlan, history: History) -> Observations:
    """Seconds from the healing of another fault until everybody was served, on each host not its victim."""
    seen = history.once(_gather, plan.hosts, plan.registers)
    ends = {operation.key: operation.completion for operation in history.of("trial")}
    proofs = {operation.key: operation for operation in history.of("host-proof")}
    trials = []
    voids = []
    for heal in sorted(history.of("host-heal"), key=lambda operation: operation.invoke.time_ns):
        told = value_of(heal.invoke, HostFault)
        if told.fault not in SAFETY_FAULTS:
            continue
        end, proof = ends.get(told.trial), proofs.get(told.trial)
        if end is None or heal.kind is not Kind.OK:
            voids.append(VoidTrial(told.trial, "the trial was not brought to its end"))
        elif proof is None or proof.kind is not Kind.OK:
            voids.append(VoidTrial(told.trial, "no proof that the fault took effect"))
        else:
            at_ns = heal.invoke.time_ns
            back = [
                _back(plan.registers, one, at_ns, end.time_ns)
                for host, one in seen.items()
                if host != told.victim
            ]
            latest = _latest(back)
            value = None if latest is None else (latest - at_ns) / 1e9
            trials.append(Observation(value, block=told.fault, label=f"{told.trial} {told.victim}"))
    return Observations(
        trials=tuple(trials),
        voids=tuple(voids),
        expected=SAFETY_FAULTS,
        sources=("history/nemesis.jsonl", *(f"history/probe-{host}*.jsonl" for host in plan.hosts)),
    )


def _back(registers: tuple[str, ...], seen: _Seen, at_ns: int, end_ns: int) -> int | None:
    """When everybody was served and answered, from `at_ns` on and for good."""
    first = bisect_left(seen.pictures, at_ns, key=lambda done: done.end.time_ns)
    standing = first > 0 and not seen.pictures[first - 1].value(Picture).unserved
    since: int | None = at_ns if standing else None
    for done in seen.pictures[first:]:
        if done.end.time_ns > end_ns:
            break
        whole = not done.value(Picture).unserved and bool(done.value(Picture).serving)
        since = (done.end.time_ns if since is None else since) if whole else None
    return _latest([since, _good_calls(registers, seen, at_ns, end_ns, 1)])


def _all_kept(plan: RunPlan, outcome: HostOutcome) -> bool:
    limits = (
        (outcome.left_ms, "RL-5.detect"),
        (outcome.served_ms, "RL-5.failover"),
        (outcome.synchronising_ms, "RL-5.state"),
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
        label = f"{outcome.id} {outcome.victim}"
        trials.append(Observation(value, block=outcome.fault, label=label, kept=kept))
    return Observations(
        trials=tuple(trials),
        voids=tuple(voids),
        expected=faults,
        sources=("history/nemesis.jsonl", *(f"history/probe-{host}*.jsonl" for host in plan.hosts)),
    )


def _outcome(
    registers: tuple[str, ...],
    fault: Operation,
    told: HostFault,
    proof: Operation | None,
    end: Operation | None,
    seen: dict[str, _Seen],
) -> HostOutcome:
    begin_ns = fault.invoke.time_ns
    end_ns = end.completion.time_ns if end is not None and end.completion is not None else None

    def void(reason: str) -> HostOutcome:
        return HostOutcome(told.trial, told.fault, told.victim, told.served, void=reason)

    if end_ns is None:
        return void("the trial was not brought to its end")
    if fault.kind is not Kind.OK:
        return void("the fault was not injected")
    if proof is None or proof.completion is None or proof.kind is not Kind.OK:
        return void("no proof that the fault took effect")
    if told.served < 1:
        return void("the victim served nobody")
    if told.fault in LEADER_FAULTS and told.led != told.victim:
        return void("the victim's member of etcd did not lead")
    gone_ns = proof.completion.time_ns
    others = [one for host, one in seen.items() if host != told.victim]
    for one in others:
        problem = _not_ready(registers, one, told.victim, begin_ns)
        if problem is not None:
            return void(problem)

    owed = _owed(seen, told.trial, begin_ns)
    if not owed:
        return void("no write had been acknowledged before the fault")

    def since(instant_ns: int | None) -> float | None:
        return None if instant_ns is None else (instant_ns - begin_ns) / 1e6

    left = _latest([_without(one, told.victim, begin_ns, end_ns) for one in others])
    answers = _latest([_whole(one, told.victim, begin_ns, end_ns) for one in others])
    answered = [_good_calls(registers, one, gone_ns, end_ns, 1) for one in others]
    sound = [_good_calls(registers, one, gone_ns, end_ns, GOOD_CALLS) for one in others]
    synchronised = [_synchronised(one, owed, gone_ns, end_ns) for one in others]
    return HostOutcome(
        told.trial,
        told.fault,
        told.victim,
        told.served,
        took_effect_ms=since(gone_ns),
        left_ms=since(left),
        answers_ms=since(answers),
        served_ms=since(_latest([answers, *answered])),
        state_ms=since(_latest(synchronised)),
        validated_ms=since(_latest([answers, *sound])),
        decided_ms=since(_said(others, ("takeover", "claimed"), begin_ns, end_ns, last=False)),
        promoted_ms=since(_said(others, ("promoted",), begin_ns, end_ns, last=True)),
    )


def _not_ready(registers: tuple[str, ...], seen: _Seen, victim: str, begin_ns: int) -> str | None:
    """Why this host could not have seen the failover; None when it could."""
    at = bisect_left(seen.pictures, begin_ns, key=lambda done: done.end.time_ns)
    if not at:
        return "nobody watched the fleet"
    picture = seen.pictures[at - 1].value(Picture)
    if picture.unserved or not picture.serving.get(victim):
        return "before the fault not everybody was served, or nobody by the victim"
    for agent in registers:
        calls = seen.calls.get(agent, [])
        at = bisect_left(calls, begin_ns, key=lambda done: done.end.time_ns)
        if at < GOOD_CALLS or any(done.end.type is not Kind.OK for done in calls[at - GOOD_CALLS : at]):
            return f"before the fault calls of {agent} did not succeed"
    return None


def _without(seen: _Seen, victim: str, begin_ns: int, end_ns: int) -> int | None:
    """When the victim had gone from the answers for good."""
    return _lasting(seen, begin_ns, end_ns, lambda picture: not picture.serving.get(victim, 0))


def _whole(seen: _Seen, victim: str, begin_ns: int, end_ns: int) -> int | None:
    """When everybody was served, nobody by the victim, for good."""
    return _lasting(
        seen,
        begin_ns,
        end_ns,
        lambda picture: not picture.unserved and bool(picture.serving) and not picture.serving.get(victim, 0),
    )


def _lasting(seen: _Seen, begin_ns: int, end_ns: int, holds: Callable[[Picture], bool]) -> int | None:
    since: int | None = None
    first = bisect_left(seen.pictures, begin_ns, key=lambda done: done.end.time_ns)
    for done in seen.pictures[first:]:
        if done.end.time_ns > end_ns:
            break
        if not holds(done.value(Picture)):
            since = None
        elif since is None:
            since = done.end.time_ns
    return since


def _good_calls(registers: tuple[str, ...], seen: _Seen, gone_ns: int, end_ns: int, row: int) -> int | None:
    """When each agent that is called had given so many good answers in a row, to calls begun afterwards."""
    return _latest([_row(seen.calls.get(agent, []), gone_ns, end_ns, row) for agent in registers])


def _row(calls: list[Completed], gone_ns: int, end_ns: int, row: int) -> int | None:
    streak = 0
    for done in calls[bisect_left(calls, gone_ns, key=lambda done: done.end.time_ns) :]:
        if done.end.time_ns > end_ns:
            return None
        if done.invoke.time_ns < gone_ns:
            continue
        streak = streak + 1 if done.end.type is Kind.OK else 0
        if streak >= row:
            return done.end.time_ns
    return None


def _owed(everywhere: dict[str, _Seen], trial: str, begin_ns: int) -> dict[str, int]:
    """What had been acknowledged before the fault: each register of the trial, with its highest value."""
    keys = {key for one in everywhere.values() for key in one.writes if key.endswith(f".{trial}")}
    found = {key: _acknowledged(everywhere, key, begin_ns) for key in sorted(keys)}
    return {key: value for key, value in found.items() if value is not None}


def _synchronised(seen: _Seen, owed: dict[str, int], gone_ns: int, end_ns: int) -> int | None:
    """When each register had been read with all that was acknowledged before the fault."""
    return _latest(
        [_read_with(seen.reads.get(key, []), value, gone_ns, end_ns) for key, value in owed.items()]
    )


def _acknowledged(everywhere: dict[str, _Seen], key: str, begin_ns: int) -> int | None:
    """The highest value of a register whose write had been acknowledged."""
    values = [
        value
        for one in everywhere.values()
        for done in one.writes.get(key, ())
        if done.end.type is Kind.OK and done.end.time_ns < begin_ns
        for value in (value_of(done.invoke, RegisterWish).value,)
        if value is not None
    ]
    return max(values, default=None)


def _read_with(reads: list[Completed], owed: int, gone_ns: int, end_ns: int) -> int | None:
    for done in reads[bisect_left(reads, gone_ns, key=lambda done: done.end.time_ns) :]:
        if done.end.time_ns > end_ns:
            return None
        if done.invoke.time_ns < gone_ns or done.end.type is not Kind.OK:
            continue
        value = done.value(Acted).value
        if value is not None and value >= owed:
            return done.end.time_ns
    return None


def _said(
    others: list[_Seen], words: tuple[str, ...], begin_ns: int, end_ns: int, *, last: bool
) -> int | None:
    instants = [
        event.time_ns
        for one in others
        for done, event in one.events
        if event.event in words and begin_ns <= event.time_ns <= end_ns
    ]
    if not instants:
        return None
    return max(instants) if last else min(instants)


def _latest(instants: list[int | None]) -> int | None:
    known = [instant for instant in instants if instant is not None]
    return max(known) if known and len(known) == len(instants) else None


def _gather(history: History, hosts: tuple[str, ...], registers: tuple[str, ...]) -> dict[str, _Seen]:
    """By host; of its calls those of the agents that have registers."""
    found = {host: _Seen() for host in hosts}
    called = set(registers)
    for operation in history.of("fleet", "call", "write", "read", "event"):
        f, key = operation.f, operation.key or ""
        if f == "call" and key not in called:
            continue
        done, host = operation.completed(), operation.invoke.host
        if done is None or host not in found:
            continue
        seen = found[host]
        match f:
            case "fleet" if operation.kind is Kind.OK:
                seen.pictures.append(done)
            case "call":
                seen.calls.setdefault(key, []).append(done)
            case "write":
                seen.writes.setdefault(key, []).append(done)
            case "read":
                seen.reads.setdefault(key, []).append(done)
            case "event" if operation.kind is Kind.OK:
                seen.events.extend((done, event) for event in done.value(list[Event]))
    for seen in found.values():
        for group in (seen.calls, seen.writes, seen.reads):
            for listed in group.values():
                listed.sort(key=lambda done: done.end.time_ns)
        seen.pictures.sort(key=lambda done: done.end.time_ns)
    return found
