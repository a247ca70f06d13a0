"""Whether a promoted agent really serves again: the validation that ends a failover. Pure.

An agent has recovered when it was promoted at the epoch that this host holds, answers, has loaded the state
that was acknowledged before, and what it depends on is served. Each step has a deadline; a step that fails is
tried again from the promotion, a few times, and then the agent is given up (and its unit may go elsewhere).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

MS = 1_000_000


class Stage(StrEnum):
    """How far the recovery of one agent has come."""

    WAITING = "waiting"  # for what it depends on
    PROMOTING = "promoting"  # told to load its state and serve
    CHECKING = "checking"  # serves; a probe of the validation is under way
    RECOVERED = "recovered"
    GIVEN_UP = "given up"
    ENDED = "ended"  # not ours any more


class Report(StrEnum):
    """What is reported about an agent. Reports about an older epoch are ignored."""

    READY = "dependencies served"
    PROMOTED = "promoted"
    PASSED = "check passed"
    FAILED = "failed, and may be tried again"
    FAILED_LAST = "failed once too often"
    LOST = "unit lost"


class Do(StrEnum):
    """What is to be done for the agent."""

    PROMOTE = "promote"
    CHECK = "check"
    ANNOUNCE = "announce"  # the routes may point here
    REPORT_LOSS = "report loss"


@dataclass(frozen=True, slots=True)
class Rule:
    to: Stage
    do: tuple[Do, ...] = ()


G, R = Stage, Report

TABLE: Mapping[tuple[Stage, Report], Rule] = {
    (G.WAITING, R.READY): Rule(G.PROMOTING, (Do.PROMOTE,)),
    (G.WAITING, R.FAILED): Rule(G.PROMOTING, (Do.PROMOTE,)),  # waited long enough: better without
    (G.WAITING, R.FAILED_LAST): Rule(G.GIVEN_UP, (Do.REPORT_LOSS,)),
    (G.WAITING, R.LOST): Rule(G.ENDED),
    (G.PROMOTING, R.PROMOTED): Rule(G.CHECKING, (Do.CHECK,)),
    (G.PROMOTING, R.FAILED): Rule(G.PROMOTING, (Do.PROMOTE,)),
    (G.PROMOTING, R.FAILED_LAST): Rule(G.GIVEN_UP, (Do.REPORT_LOSS,)),
    (G.PROMOTING, R.LOST): Rule(G.ENDED),
    (G.CHECKING, R.PASSED): Rule(G.RECOVERED, (Do.ANNOUNCE,)),
    (G.CHECKING, R.FAILED): Rule(G.PROMOTING, (Do.PROMOTE,)),
    (G.CHECKING, R.FAILED_LAST): Rule(G.GIVEN_UP, (Do.REPORT_LOSS,)),
    (G.CHECKING, R.LOST): Rule(G.ENDED),
    (G.RECOVERED, R.LOST): Rule(G.ENDED),
    (G.GIVEN_UP, R.LOST): Rule(G.ENDED),
}
"""A pair that is not in the table changes nothing."""

UNDER_WAY = frozenset({G.WAITING, G.PROMOTING, G.CHECKING})


@dataclass(frozen=True, slots=True)
class RecoveryPolicy:
    """Times in nanoseconds; together below the 2 s in which a recovery is to be validated."""

    wait_ns: int = 500 * MS  # for dependencies
    promote_ns: int = 500 * MS
    check_ns: int = 300 * MS
    attempts: int = 3


@dataclass(frozen=True, slots=True)
class Checked:
    """What a probe of a promoted agent found."""

    epoch: int
    answered: bool
    state_revision: int
    """Up to which revision of the store the agent has loaded its state."""


@dataclass(frozen=True, slots=True)
class Recovery:
    """The recovery of one agent. `since_revision`: the write that gave this host its unit."""

    agent: str
    epoch: int
    since_revision: int
    stage: Stage = Stage.WAITING
    attempts: int = 0
    deadline_ns: int | None = None


def begin(agent: str, epoch: int, since_revision: int, now_ns: int, policy: RecoveryPolicy) -> Recovery:
    """A recovery that waits for the agent's dependencies."""
    return Recovery(agent, epoch, since_revision, deadline_ns=now_ns + policy.wait_ns)


def judge(recovery: Recovery, checked: Checked) -> Report:
    """The validation: right epoch, an answer, and a state loaded after the unit had become ours.

    What was loaded before the takeover may lack a write that its former holder still got acknowledged.
    """
    sound = (
        checked.answered
        and checked.epoch == recovery.epoch
        and checked.state_revision >= recovery.since_revision
    )
    return Report.PASSED if sound else Report.FAILED


def recovery_step(
    recovery: Recovery, report: Report | None, now_ns: int, policy: RecoveryPolicy
) -> tuple[Recovery, tuple[Do, ...]]:
    """One decision. `report` None: time has passed. `now_ns` is CLOCK_BOOTTIME."""
    if report is None:
        if recovery.deadline_ns is None or now_ns < recovery.deadline_ns:
            return recovery, ()
        report = Report.FAILED
    if report is Report.FAILED and recovery.attempts >= policy.attempts:
        report = Report.FAILED_LAST
    rule = TABLE.get((recovery.stage, report))
    if rule is None:
        return recovery, ()
    waits = {Stage.PROMOTING: policy.promote_ns, Stage.CHECKING: policy.check_ns}
    wait_ns = waits.get(rule.to)
    return replace(
        recovery,
        stage=rule.to,
        attempts=recovery.attempts + (1 if Do.PROMOTE in rule.do else 0),
        deadline_ns=None if wait_ns is None else now_ns + wait_ns,
    ), rule.do
