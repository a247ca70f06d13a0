"""Whether registers of agents behaved as one register each, whoever served them: writes, owners, epochs.

Three questions to the same operations, each with its own logic and none with the code that it judges:

- *Lost writes.* A register has one writer, which writes rising values and never repeats one. A read that
  began after a write was acknowledged has to return that value, a later one, or one whose outcome its writer
  never learned (such a write may take effect whenever it likes).
- *Two owners.* An answer names host and epoch at which its agent acted, at some instant between question and
  answer. Of one agent, an epoch belongs to one host, and nobody may act at a lower epoch in a call that began
  after a call at a higher one had been answered.
- *Linearizable.* Is there an order of all operations, each at an instant between question and answer, in
  which every read returns what was last written? The search is Porcupine's (`checkers.linearizable`).
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from loadtests.protocol import Acted, HostFault, Proof, RegisterWish
from verification.history import History, Kind, Operation, value_of
from verification.observations import Counts, Observations
from verification.plan import RunPlan

SHOWN = 8


class RegisterOp(msgspec.Struct, frozen=True, gc=False):
    """One operation on one register. `end_ns` None: nobody knows whether and when it was performed.

    A write's `value` is what was to be written; a read's what it returned (None: nothing was written yet).
    """

    register: str
    agent: str
    begin_ns: int
    end_ns: int | None
    write: bool
    value: int | None
    host: str | None = None
    epoch: int | None = None
    process: str = ""


@dataclass(frozen=True, slots=True)
class Violation:
    """What must not happen, in a line."""

    register: str
    what: str


def operations(history: History) -> tuple[RegisterOp, ...]:
    """Everything that was done to registers and may have been performed, by the instant of the question.

    A write that certainly was not performed is left out, as is a read without an answer.
    """
    return history.once(_operations)


def _operations(history: History) -> tuple[RegisterOp, ...]:
    found = [op for operation in history.of("write", "read") if (op := _operation(operation)) is not None]
    return tuple(sorted(found, key=lambda op: op.begin_ns))


def _operation(operation: Operation) -> RegisterOp | None:
    write, key = operation.f == "write", operation.key or ""
    good = operation.completion is not None and operation.kind is Kind.OK
    if operation.kind is Kind.FAIL or (not write and not good):
        return None
    told = value_of(operation.completion, Acted) if operation.completion is not None and good else None
    wish = value_of(operation.invoke, RegisterWish).value if write else None
    return RegisterOp(
        register=key,
        agent=key.partition("/")[0],
        begin_ns=operation.invoke.time_ns,
        end_ns=operation.completion.time_ns if operation.completion is not None and good else None,
        write=write,
        value=wish if write else (None if told is None else told.value),
        host=None if told is None else told.host,
        epoch=None if told is None else told.epoch,
        process=operation.invoke.process,
    )


def lost_writes(found: Iterable[RegisterOp]) -> tuple[Violation, ...]:
    """Reads that miss a write which had been acknowledged before they began."""
    violations = []
    for register, ops in _by_register(found).items():
        acknowledged = sorted((op.end_ns, op.value) for op in ops if op.write and op.end_ns is not None)
        instants = [end_ns for end_ns, _ in acknowledged]
        highest: list[int] = []
        for _, value in acknowledged:
            highest.append(max(highest[-1] if highest else -1, -1 if value is None else value))
        unsure = {op.value: op.begin_ns for op in ops if op.write and op.end_ns is None}
        for op in ops:
            if op.write or op.end_ns is None:
                continue
            at = bisect_left(instants, op.begin_ns)
            owed = highest[at - 1] if at else -1
            got = -1 if op.value is None else op.value
            if got < owed and not (got in unsure and unsure[got] < op.end_ns):
                violations.append(Violation(register, f"read {op.value} after {owed} was acknowledged"))
    return tuple(violations)


def two_owners(found: Iterable[RegisterOp]) -> tuple[Violation, ...]:
    """Epochs that belong to two hosts, and acts at an epoch after a higher one had been answered for."""
    violations = []
    by_agent: dict[str, list[RegisterOp]] = defaultdict(list)
    for op in found:
        if op.end_ns is not None and op.epoch is not None:
            by_agent[op.agent].append(op)
    for agent, ops in by_agent.items():
        holders: dict[int, set[str]] = defaultdict(set)
        for op in ops:
            holders[op.epoch or 0].add(op.host or "")
        for epoch, hosts in sorted(holders.items()):
            if len(hosts) > 1:
                violations.append(Violation(agent, f"epoch {epoch} was {' and '.join(sorted(hosts))}'s"))
        violations += _went_back(agent, ops)
    return tuple(violations)


def _went_back(agent: str, ops: list[RegisterOp]) -> list[Violation]:
    """An act is at some instant of its call; one whose call began after another's end came later than it."""
    ended = sorted((op.end_ns or 0, op.epoch or 0) for op in ops)
    instants = [end_ns for end_ns, _ in ended]
    highest: list[int] = []
    for _, epoch in ended:
        highest.append(max(highest[-1] if highest else 0, epoch))
    violations = []
    for op in ops:
        at = bisect_right(instants, op.begin_ns)
        before = highest[at - 1] if at else 0
        if (op.epoch or 0) < before:
            violations.append(
                Violation(agent, f"{op.host} acted at epoch {op.epoch} after epoch {before} had")
            )
    return violations


def _by_register(found: Iterable[RegisterOp]) -> dict[str, list[RegisterOp]]:
    by_register: dict[str, list[RegisterOp]] = defaultdict(list)
    for op in found:
        by_register[op.register].append(op)
    return by_register


def writes(plan: RunPlan, history: History) -> Observations:
    """Acknowledged writes, and how many of them a later read missed."""
    ops = operations(history)
    total = sum(op.write and op.end_ns is not None for op in ops)
    return _counted(plan, total, history.once(_lost_writes), ops)


def owners(plan: RunPlan, history: History) -> Observations:
    """Acts of agents that named their epoch, and how many of them broke the rule of one owner."""
    ops = operations(history)
    acts = sum(op.end_ns is not None and op.epoch is not None for op in ops)
    return _counted(plan, acts, history.once(_two_owners), ops)


def faults(plan: RunPlan, history: History) -> Observations:
    """Faults that were proved, on agents, services and hosts, and violations of either kind."""
    ops = operations(history)
    proofs = history.of("host-proof", "exited", "frozen", "misbehaving")
    proved = len({_trial_of(one) for one in proofs if one.kind is Kind.OK})
    found = (*history.once(_lost_writes), *history.once(_two_owners))
    return _counted(plan, proved if ops else 0, found, ops)


def _lost_writes(history: History) -> tuple[Violation, ...]:
    return lost_writes(operations(history))


def _two_owners(history: History) -> tuple[Violation, ...]:
    return two_owners(operations(history))


def _trial_of(proof: Operation) -> str:
    if proof.f == "host-proof":
        return value_of(proof.invoke, HostFault).trial
    return value_of(proof.invoke, Proof).trial


def _counted(
    plan: RunPlan, total: int, violations: tuple[Violation, ...], ops: tuple[RegisterOp, ...]
) -> Observations:
    epochs = {(op.agent, op.epoch) for op in ops if op.epoch}
    return Observations(
        counts=(("all", Counts(total, min(total, len(violations)))),) if total else (),
        expected=("all",),
        sources=tuple(f"history/probe-{host}*.jsonl" for host in plan.hosts),
        facts=(
            ("registers", f"{len({op.register for op in ops}):,}"),
            ("operations", f"{len(ops):,}"),
            ("epochs of agents", f"{len(epochs):,}"),
        ),
        missing=tuple(f"{one.register}: {one.what}" for one in violations[:SHOWN]),
    )
