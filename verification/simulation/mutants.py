"""Planted bugs: each is one mistake that somebody could make in the protocol, and each has to be caught.

They stand outside the core, which has no hook for them: a mutant tampers with what goes into `step` and with
what comes out. `regressions.json` says which check caught each one first, and in which history.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from services.control.domains import Assignment, DomainRecord, Transaction, Unit
from services.control.holdings import (
    Action,
    Effect,
    Event,
    Holding,
    Noticed,
    Ownership,
    OwnershipPolicy,
    Publish,
    Transact,
    View,
)
from services.control.lease import Acked, Ambiguous, Refused
from services.control.ownership import step
from services.control.stances import MAY_ACT, Do, Stance
from verification.simulation.benign import BENIGN
from verification.simulation.mutants_around import AROUND
from verification.simulation.variant import Variant
from verification.simulation.world import Clock

Decision = tuple[Ownership, tuple[Action, ...]]


class MarginRemoved(Variant):
    name = "margin-removed"
    what = "a challenger waits for the lease alone, without the margin for clocks of different rates"

    def policy(self, policy: OwnershipPolicy) -> OwnershipPolicy:
        return replace(policy, lease=replace(policy.lease, margin_ns=0))


class SilenceIsSuccess(Variant):
    name = "silence-is-success"
    what = "a renewal without an answer counts as acknowledged"

    def step(self, own: Ownership, event: Event, now_ns: int, policy: OwnershipPolicy) -> Decision:
        if isinstance(event, Ambiguous) and own.sent is not None:
            event = Acked(own.lease.revision)
        return step(own, event, now_ns, policy)


class RefusalIsSuccess(Variant):
    name = "refusal-is-success"
    what = "a transaction that was refused counts as performed"

    def step(self, own: Ownership, event: Event, now_ns: int, policy: OwnershipPolicy) -> Decision:
        if isinstance(event, Refused) and own.sent is not None:
            event = Acked(own.lease.revision)
        return step(own, event, now_ns, policy)


class AnyPeerRevision(Variant):
    name = "any-peer-revision"
    what = "a takeover does not compare the peer's record"

    def transaction(self, transaction: Transaction) -> Transaction:
        return replace(transaction, peers={})


class DeadlineFromReceipt(Variant):
    name = "deadline-from-receipt"
    what = "the deadline counts from when the acknowledgement came, not from when the renewal was sent"

    def step(self, own: Ownership, event: Event, now_ns: int, policy: OwnershipPolicy) -> Decision:
        if isinstance(event, Acked):
            own = replace(own, lease=replace(own.lease, sent_ns=now_ns))
        return step(own, event, now_ns, policy)


class WallClock(Variant):
    name = "wall-clock"
    what = "deadlines and timers run on the wall clock, which steps"

    def clock(self, clock: Clock, true_ns: int) -> int:
        return clock.local(true_ns) + clock.wall_offset_ns


class MonotonicClock(Variant):
    name = "monotonic-clock"
    what = "deadlines and timers run on CLOCK_MONOTONIC, which stands still while a machine is suspended"

    def clock(self, clock: Clock, true_ns: int) -> int:
        return clock.local(true_ns) - clock.suspended_ns


class EpochNotRaised(Variant):
    name = "epoch-not-raised"
    what = "an assignment keeps the epoch"

    def transaction(self, transaction: Transaction) -> Transaction:
        puts = {home: _lowered(record) for home, record in transaction.puts.items()}
        return replace(transaction, puts=puts)


def _lowered(record: DomainRecord) -> DomainRecord:
    top = record.top_epoch
    exceptions = {
        agent: Assignment(to.holder, to.epoch - 1) if to.epoch == top else to
        for agent, to in record.exceptions.items()
    }
    epoch = record.epoch - 1 if record.epoch == top > 1 else record.epoch
    return replace(record, epoch=epoch, exceptions=exceptions)


class DomainsNotCompared(Variant):
    name = "domains-not-compared"
    what = "a renewal compares the host's own record alone"

    def transaction(self, transaction: Transaction) -> Transaction:
        kept = {home: revision for home, revision in transaction.domains.items() if home in transaction.puts}
        return replace(transaction, domains=kept)


class TimerNotRestarted(Variant):
    name = "timer-not-restarted"
    what = "a newer revision of the peer's record does not start the challenger's count again"

    def step(self, own: Ownership, event: Event, now_ns: int, policy: OwnershipPolicy) -> Decision:
        before = own.peers
        after, actions = step(own, event, now_ns, policy)
        peers = {
            name: replace(peer, seen_ns=before[name].seen_ns) if before[name].revision > 0 else peer
            for name, peer in after.peers.items()
        }
        return replace(after, peers=peers), actions


class TimerSurvivesRestart(Variant):
    name = "timer-survives-restart"
    what = "a restarted challenger counts from before it looked, with the revision that it now reads"

    def restarted(self, fresh: Ownership, before: Ownership | None) -> Ownership:
        return fresh if before is None else replace(fresh, peers=before.peers)

    def step(self, own: Ownership, event: Event, now_ns: int, policy: OwnershipPolicy) -> Decision:
        first = isinstance(event, View) and own.lease.acked_sent_ns is None
        after, actions = step(own, event, now_ns, policy)
        if first and isinstance(event, View):
            peers = {
                name: replace(peer, seen_ns=min(peer.seen_ns, own.peers[name].seen_ns), renewed=True)
                for name, peer in after.peers.items()
            }
            after = replace(after, peers=peers)
        return after, actions


class NoSelfFence(Variant):
    name = "no-self-fence"
    what = "agents do not check the deadline, and hostd does not withdraw at it"
    checks_the_deadline = False
    empties_the_page = False
    has_a_watchdog = False


class ActsAfterHandover(Variant):
    name = "acts-after-handover"
    what = "a holder goes on acting until its handover is acknowledged"

    def step(self, own: Ownership, event: Event, now_ns: int, policy: OwnershipPolicy) -> Decision:
        after, actions = step(own, event, now_ns, policy)
        kept = {
            unit: own.proof[unit]
            for unit, holding in after.holdings.items()
            if holding.stance is Stance.YIELDING and unit in own.proof
        }
        if kept:
            after = replace(after, proof={**after.proof, **kept})
            actions = tuple(
                replace(a, serving={**a.serving, **kept}, withheld=a.withheld - set(kept))
                if isinstance(a, Publish)
                else a
                for a in actions
            )
        return after, actions


class ActsOnDoubt(Variant):
    name = "acts-on-doubt"
    what = "a holder whose handover got no answer takes it for not performed and acts again"

    def step(self, own: Ownership, event: Event, now_ns: int, policy: OwnershipPolicy) -> Decision:
        after, actions = step(own, event, now_ns, policy)
        doubted = {
            unit: holding
            for unit, holding in after.holdings.items()
            if holding.stance is Stance.UNSURE and own.holdings[unit].stance is Stance.YIELDING
        }
        if doubted and isinstance(event, Ambiguous):
            after = _served(after, doubted)
            actions = (*actions, Publish(after.deadline_ns(policy), after.proof), *_resumed(doubted))
        return after, actions


class ReadingIsProof(Variant):
    name = "reading-is-proof"
    what = "a holder acts again as soon as it reads that its silent handover was not performed, or not yet"

    def step(self, own: Ownership, event: Event, now_ns: int, policy: OwnershipPolicy) -> Decision:
        after, actions = step(own, event, now_ns, policy)
        doubted = {u: h for u, h in after.holdings.items() if h.stance is Stance.UNSURE}
        if doubted and isinstance(event, View):
            after = _served(after, doubted)
            published = Publish(after.deadline_ns(policy), after.proof)
            actions = (published, *_resumed(doubted), *actions)
        return after, actions


def _served(own: Ownership, units: Mapping[Unit, Holding]) -> Ownership:
    holdings = {u: Holding(Stance.SERVING, h.epoch) if u in units else h for u, h in own.holdings.items()}
    proof = {u: h.epoch for u, h in holdings.items() if h.stance in MAY_ACT}
    return replace(own, holdings=holdings, proof=proof)


def _resumed(units: Mapping[Unit, Holding]) -> tuple[Action, ...]:
    return tuple(Effect(Do.RESUME, u, h.epoch) for u, h in units.items())


class ClaimsUnseen(Variant):
    name = "serves-before-acknowledgement"
    what = "a challenger acts as soon as its takeover is sent"

    def step(self, own: Ownership, event: Event, now_ns: int, policy: OwnershipPolicy) -> Decision:
        after, actions = step(own, event, now_ns, policy)
        claimed = {u: h for u, h in after.holdings.items() if h.stance is Stance.CLAIMING}
        if any(isinstance(action, Transact) for action in actions) and claimed:
            proof = {**after.proof, **{unit: holding.epoch for unit, holding in claimed.items()}}
            after = replace(after, proof=proof)
            actions = (Publish(after.deadline_ns(policy), proof), *actions)
        return after, actions


class OldEpochKept(Variant):
    name = "old-epoch-kept"
    what = "a restarted daemon serves what it finds in its name without writing a new epoch"

    def step(self, own: Ownership, event: Event, now_ns: int, policy: OwnershipPolicy) -> Decision:
        named = {u: h for u, h in own.holdings.items() if h.stance is Stance.NAMED}
        if isinstance(event, View | Noticed):
            for home, known in event.domains.items():
                for unit in known.record.held_by(own.host):
                    if unit not in own.holdings:
                        named[unit] = Holding(Stance.NAMED, known.record.assignment(unit.agent).epoch)
                if home in own.domains and known.revision > own.domains[home].revision:
                    own = replace(own, domains={**own.domains, home: known})
        if named:
            served = {u: Holding(Stance.SERVING, h.epoch) for u, h in named.items()}
            own = replace(own, holdings={**own.holdings, **served})
        return step(own, event, now_ns, policy)


class StateNotFenced(Variant):
    name = "state-not-fenced"
    what = "a write of an agent's state does not compare the ownership record"
    writes_compare_the_domain = False


class StateNotOrdered(Variant):
    name = "state-not-ordered"
    what = "a write of an agent's state does not compare the value that it replaces"
    writes_compare_the_cell = False


class StateNotLoaded(Variant):
    name = "state-not-loaded"
    what = "a promoted agent goes on with the state that it had when it served last"
    loads_state_on_promotion = False


class LeftoversKept(Variant):
    name = "leftovers-kept"
    what = "a restarted daemon leaves agents alone that served for its earlier life and lost their unit"
    demotes_leftovers = False


MUTANTS: tuple[type[Variant], ...] = (
    MarginRemoved,
    SilenceIsSuccess,
    RefusalIsSuccess,
    AnyPeerRevision,
    DeadlineFromReceipt,
    WallClock,
    MonotonicClock,
    EpochNotRaised,
    DomainsNotCompared,
    TimerNotRestarted,
    TimerSurvivesRestart,
    NoSelfFence,
    ActsAfterHandover,
    ActsOnDoubt,
    ReadingIsProof,
    ClaimsUnseen,
    OldEpochKept,
    StateNotFenced,
    StateNotOrdered,
    StateNotLoaded,
    LeftoversKept,
    *AROUND,
)

_ALL: tuple[type[Variant], ...] = (Variant, *MUTANTS, *BENIGN)
BY_NAME: Mapping[str, type[Variant]] = {variant.name: variant for variant in _ALL}
