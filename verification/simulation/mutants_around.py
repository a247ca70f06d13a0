"""Planted bugs in what stands around the protocol: the shell's requests, handover, fence and watchdog, state
writes, the order in which agents start, their recovery. As `mutants.py`: each has to be caught."""

from __future__ import annotations

from dataclasses import replace

from services.control.domains import Transaction
from services.control.holdings import Action, Event, Ownership, OwnershipPolicy, Publish, View
from services.control.ownership import step
from services.control.recovery import Checked, Recovery, Report
from services.control.stances import Voice
from verification.simulation.variant import Variant
from verification.simulation.world import MS

Decision = tuple[Ownership, tuple[Action, ...]]


class OwnRecordNotCompared(Variant):
    name = "own-record-not-compared"
    what = "a transaction does not compare the record of its own host, so that late ones are performed"
    compares_its_own_record = False


class TakeoverUncompared(Variant):
    name = "takeover-uncompared"
    what = "a transaction that writes a domain's record does not compare it"

    def transaction(self, transaction: Transaction) -> Transaction:
        kept = {home: r for home, r in transaction.domains.items() if home not in transaction.puts}
        return replace(transaction, domains=kept)


class AnyAnswer(Variant):
    name = "any-answer"
    what = "an answer that comes after its time is taken for that of the request in flight"
    matches_answers = False


class ReadingRenews(Variant):
    name = "reading-renews"
    what = "a fenced host acts again as soon as it can read, before a renewal is acknowledged"

    def step(self, own: Ownership, event: Event, now_ns: int, policy: OwnershipPolicy) -> Decision:
        if isinstance(event, View) and own.voice is Voice.FENCED and own.lease.acked_sent_ns is not None:
            own = replace(own, lease=replace(own.lease, acked_sent_ns=own.lease.sent_ns), voice=Voice.ACTING)
            after, actions = step(own, event, now_ns, policy)
            return after, (Publish(after.deadline_ns(policy), after.proof), *actions)
        return step(own, event, now_ns, policy)


class DeadlineRoundedUp(Variant):
    name = "deadline-rounded-up"
    what = "the deadline that agents see is rounded up by as much as the margin and half of it"

    def step(self, own: Ownership, event: Event, now_ns: int, policy: OwnershipPolicy) -> Decision:
        after, actions = step(own, event, now_ns, policy)
        late_ns = 150 * MS
        return after, tuple(
            replace(a, deadline_ns=a.deadline_ns + late_ns) if isinstance(a, Publish) and a.serving else a
            for a in actions
        )


class WithheldIgnored(Variant):
    name = "withheld-ignored"
    what = "the page does not say that a single agent is withheld while the rest of its domain is served"

    def step(self, own: Ownership, event: Event, now_ns: int, policy: OwnershipPolicy) -> Decision:
        after, actions = step(own, event, now_ns, policy)
        return after, tuple(
            replace(a, withheld=frozenset()) if isinstance(a, Publish) else a for a in actions
        )


class TrustsTheWatchdog(Variant):
    name = "trusts-the-watchdog"
    what = "agents leave the deadline to hostd and to the watchdog"
    checks_the_deadline = False


class PartedAgentForgotten(Variant):
    name = "parted-agent-forgotten"
    what = "an agent whose handover came to nothing is not told, as it belongs to its domain again by then"
    tells_a_parted_agent = False


class DoubtIsSuccess(Variant):
    name = "doubt-is-success"
    what = "a write of an agent's state without an answer is told to its caller as done"
    reports_doubt = False


class RefusedWriteSentAgain(Variant):
    name = "refused-write-sent-again"
    what = "a refused write of an agent's state is sent again with the new revision, whoever is the owner"
    refused_writes_look_again = False


class StateUnvalidated(Variant):
    name = "state-unvalidated"
    what = "a promoted agent goes on with the state that it had, and the validation lets it pass"
    loads_state_on_promotion = False

    def judge(self, recovery: Recovery, checked: Checked) -> Report:
        return Report.PASSED


class StateKept(Variant):
    name = "state-kept"
    what = "a promoted agent gets the state that its host has read for it at an earlier takeover"
    reads_state_anew = False


class ValidationTooStrict(Variant):
    name = "validation-too-strict"
    what = "the validation wants a state that is newer than the takeover, which an idle agent never has"

    def judge(self, recovery: Recovery, checked: Checked) -> Report:
        late = checked.state_revision > recovery.since_revision + 1
        return super().judge(recovery, checked) if late else Report.FAILED


class GivenUpForGood(Variant):
    name = "given-up-for-good"
    what = "an agent whose recovery was given up is left alone"
    tries_again = False


class StartsBackwards(Variant):
    name = "starts-backwards"
    what = "agents start before what they depend on"

    def order(self, order: tuple[str, ...]) -> tuple[str, ...]:
        return order[::-1]


class StartsByName(Variant):
    name = "starts-by-name"
    what = "agents start in the order of their names, urgent or not"

    def order(self, order: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(order))


class LateClaimForgotten(Variant):
    name = "late-claim-forgotten"
    what = "agents of a claim that was acknowledged after its deadline are not looked at again"
    looks_when_it_speaks_again = False


AROUND: tuple[type[Variant], ...] = (
    OwnRecordNotCompared,
    TakeoverUncompared,
    AnyAnswer,
    ReadingRenews,
    DeadlineRoundedUp,
    WithheldIgnored,
    TrustsTheWatchdog,
    PartedAgentForgotten,
    DoubtIsSuccess,
    RefusedWriteSentAgain,
    StateUnvalidated,
    StateKept,
    ValidationTooStrict,
    GivenUpForGood,
    StartsBackwards,
    StartsByName,
    LateClaimForgotten,
)
