"""Which units this host serves, and the steps that change it. Pure; docs/failover.md has the argument.

One request is in flight at a time, and each write is one transaction that renews `hosts/<self>` and compares
every domain record that this host believes it holds. Hence the single rule of acting:

    A host acts for a unit at an epoch that an acknowledged transaction of its own, in this life, has written,
    while its last acknowledged transaction compared that record, and until that transaction's *sending*
    + `lease_ns` on CLOCK_BOOTTIME.

A challenger takes a unit from a peer whose record stood still for `lease_ns + margin_ns` on the challenger's
clock, in a transaction that compares exactly the revision that started its timer. A holder that hands a unit
over stops acting *before* it sends; it acts again only after a later transaction of its own was acknowledged,
which consumed the revision that the handover compared. Refusals and silence prove nothing; a read follows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from services.control.domains import Known, Transaction, Unit, unwritten
from services.control.holdings import (
    Action,
    Effect,
    Event,
    Fence,
    Holding,
    Noticed,
    Ownership,
    OwnershipPolicy,
    Publish,
    Quiesced,
    ReadAll,
    Release,
    Sent,
    StandBys,
    Transact,
    View,
)
from services.control.lease import (
    Absent,
    Acked,
    Ambiguous,
    Failed,
    Found,
    LeaseAction,
    LeasePhase,
    PeerLease,
    Read,
    Refused,
    Stop,
    Tick,
    Write,
    lease_step,
)
from services.control.stances import MAY_ACT, PROVEN, TABLE, VOICES, Do, Stance, Symbol, Voice, VoiceSymbol


def step(
    own: Ownership, event: Event, now_ns: int, policy: OwnershipPolicy
) -> tuple[Ownership, tuple[Action, ...]]:
    """One decision. `now_ns` is CLOCK_BOOTTIME; it must not run backwards between calls."""
    if own.lease.phase is LeasePhase.REPLACED:
        return own, ()
    made = _Decision(own, now_ns, policy)
    made.expire()
    match event:
        case Tick():
            made.give_up_late()
        case Acked(revision):
            made.acknowledged(revision)
        case Refused() | Failed() | Ambiguous():
            made.not_acknowledged(event)
        case View():
            made.learn(event.domains, {host: seen.revision for host, seen in event.hosts.items()})
            made.read(event)
        case Noticed():
            made.learn(event.domains, event.hosts)
        case Release(unit, target):
            made.release(unit, target)
        case Quiesced(unit):
            made.move(unit, Symbol.QUIESCED)
        case StandBys(standbys):
            made.own = replace(own, standbys=standbys)
    made.proceed()
    return made.own, tuple(made.actions)


def wake_ns(own: Ownership, policy: OwnershipPolicy) -> int | None:
    """When the next Tick is due at the latest; None: only the outcome in flight brings anything new."""
    due = [own.deadline_ns(policy)] if own.voice is Voice.ACTING else []
    due += [h.until_ns for h in own.holdings.values() if h.stance is Stance.QUIESCING]
    if own.sent is None and not own.lease.in_flight:
        due.append(own.lease.next_ns)
        if own.lease.phase is LeasePhase.HELD and own.voice is Voice.ACTING:
            due += [max(own.eager_ns, gone_ns(own, p, policy)) for p in own.ranks if _has_units(own, p)]
    return min(due, default=None)


def gone_ns(own: Ownership, peer: str, policy: OwnershipPolicy) -> int:
    """When a peer whose record goes on standing still may be followed by this host."""
    wait_ns = policy.lease.lease_ns + policy.lease.margin_ns + own.ranks.get(peer, 0) * policy.stagger_ns
    seen = own.peers[peer]
    return seen.seen_ns + wait_ns + (0 if seen.renewed else policy.start_grace_ns)


def _has_units(own: Ownership, peer: str) -> bool:
    """Whether there is anything to take from a peer whose record was looked for."""
    return own.peers[peer].revision >= 0 and any(
        known.revision >= 0 and known.record.held_by(peer) for known in own.domains.values()
    )


class _Decision:
    """The state while one event is worked in; every change of a stance goes through the table."""

    def __init__(self, own: Ownership, now_ns: int, policy: OwnershipPolicy) -> None:
        self.own = own
        self.now_ns = now_ns
        self.policy = policy
        self.actions: list[Action] = []
        self._stop = False

    # The tables.

    def move(self, unit: Unit, symbol: Symbol, changed: Holding | None = None) -> None:
        """Look the pair up; a pair that is not in the table changes nothing."""
        before = self.own.holdings.get(unit)
        rule = TABLE.get((Stance.ELSEWHERE if before is None else before.stance, symbol))
        if rule is None:
            return
        base = changed or before
        epoch = 0 if base is None else base.epoch
        holdings = {u: h for u, h in self.own.holdings.items() if u != unit}
        served = rule.to is Stance.SERVING
        if rule.to is not Stance.ELSEWHERE and base is not None:
            holdings[unit] = Holding(rule.to, epoch) if served else replace(base, stance=rule.to)
        proof = self.own.proof
        if unit in proof and rule.to not in MAY_ACT:
            proof = {u: e for u, e in proof.items() if u != unit}
        silenced = proof is not self.own.proof
        self.own = replace(self.own, holdings=holdings, proof=proof)
        if silenced:
            self.publish()
        for do in rule.do:
            self.actions.append(Effect(do, unit, epoch, "" if base is None or served else base.target))

    def speak(self, symbol: VoiceSymbol) -> bool:
        """The host's own table: whether it may act at all. True when this changed it."""
        to = VOICES.get((self.own.voice, symbol))
        if to is None or to is self.own.voice:
            return False
        self.own = replace(self.own, voice=to)
        return True

    def publish(self) -> None:
        """What agents may do: nothing once the deadline has passed. An allowance that has run out looks to
        the watchdog like a hostd that stands still, and makes it stop every agent."""
        deadline_ns = self.own.deadline_ns(self.policy)
        if self.now_ns >= deadline_ns:
            self.actions.append(Publish(deadline_ns, {}))
            return
        proof = self.own.proof
        apart = [unit for unit in self.own.holdings if unit.agent and unit not in proof]
        for home in {unit.home for unit in proof}:
            exceptions = self.own.domains[home].record.exceptions
            apart += [unit for agent in exceptions if (unit := Unit(home, agent)) not in proof]
        self.actions.append(Publish(deadline_ns, proof, frozenset(apart)))

    # Events.

    def expire(self) -> None:
        if self.own.voice is Voice.ACTING and self.now_ns >= self.own.deadline_ns(self.policy):
            self.speak(VoiceSymbol.EXPIRED)
            self.actions.append(Fence(tuple(self.own.proof)))

    def give_up_late(self) -> None:
        for unit, holding in tuple(self.own.holdings.items()):
            if holding.stance is Stance.QUIESCING and self.now_ns >= holding.until_ns:
                self.move(unit, Symbol.GIVEN_UP)
        self.rejoin()

    def acknowledged(self, revision: int) -> None:
        sent = self.own.sent or Sent()
        lease, _ = lease_step(self.own.lease, Acked(revision), self.now_ns, self.policy.lease)
        domains = dict(self.own.domains)
        for home, known in sent.puts.items():
            if domains[home].revision < revision:
                domains[home] = replace(known, revision=revision)
        self.own = replace(self.own, lease=lease, domains=domains, sent=None)
        for unit in sent.yields:
            self.move(unit, Symbol.DONE)
        for unit, epoch in sent.covers.items():
            holding = self.own.holdings.get(unit)
            if holding is not None and holding.epoch == epoch and holding.stance not in MAY_ACT:
                self.move(unit, Symbol.DONE)
        holdings = self.own.holdings
        proof = {
            unit: epoch
            for unit, epoch in sent.covers.items()
            if unit in holdings and holdings[unit].stance in MAY_ACT and holdings[unit].epoch == epoch
        }
        self.own = replace(self.own, proof=proof)
        self.rejoin()
        # Told before the agents are promoted: the effects of this event come after it.
        effects, self.actions = self.actions, []
        self.publish()
        fenced = self.own.voice is Voice.FENCED
        if self.now_ns < self.own.deadline_ns(self.policy) and self.speak(VoiceSymbol.ACKED) and fenced:
            again = set(self.own.proof) - {e.unit for e in effects if isinstance(e, Effect)}
            self.actions += [Effect(Do.RESUME, unit, self.own.proof[unit]) for unit in sorted(again)]
        self.actions += effects

    def rejoin(self) -> None:
        """Agents that were to be parted from their domain and stay belong to it again."""
        holdings = self.own.holdings
        back = {
            unit
            for unit, h in holdings.items()
            if unit.agent
            and h.stance is Stance.SERVING
            and unit.agent not in self.own.domains[unit.home].record.exceptions
            and holdings.get(Unit(unit.home)) == Holding(Stance.SERVING, h.epoch)  # no other business
        }
        if back:
            kept = {unit: h for unit, h in holdings.items() if unit not in back}
            proof = {unit: epoch for unit, epoch in self.own.proof.items() if unit not in back}
            self.own = replace(self.own, holdings=kept, proof=proof)
            self.publish()

    def not_acknowledged(self, outcome: Refused | Failed | Ambiguous) -> None:
        lease, _ = lease_step(self.own.lease, outcome, self.now_ns, self.policy.lease)
        self.own = replace(self.own, lease=lease, sent=None)
        for unit, holding in tuple(self.own.holdings.items()):
            if holding.stance in (Stance.CLAIMING, Stance.YIELDING):
                self.move(unit, Symbol.NOT_DONE)
        if isinstance(outcome, Failed):
            self.own = replace(self.own, eager_ns=max(lease.next_ns, self.now_ns))
        self.reconcile(self.own.domains)

    def learn(self, domains: Mapping[str, Known], hosts: Mapping[str, int]) -> None:
        fresh = {
            home: known
            for home, known in domains.items()
            if home not in self.own.domains or known.revision > self.own.domains[home].revision
        }
        peers = self.own.peers
        newer = {p: r for p, r in hosts.items() if p in peers and r > peers[p].revision}
        if newer:
            peers = {**peers, **{p: peers[p].seen(r, self.now_ns) for p, r in newer.items()}}
        if fresh or newer:
            self.own = replace(self.own, peers=peers, domains={**self.own.domains, **fresh})
        self.reconcile(fresh)

    def read(self, view: View) -> None:
        self.forget(view)
        seen = view.hosts.get(self.own.host)
        event = Absent() if seen is None else Found(seen.revision, seen.boot_id, seen.epoch, seen.seq)
        lease, actions = lease_step(self.own.lease, event, self.now_ns, self.policy.lease)
        # A write right after a read keeps the beat that the read began.
        next_ns = min(lease.next_ns, self.now_ns + self.policy.lease.renew_ns)
        self.own = replace(self.own, lease=replace(lease, next_ns=next_ns))
        self.perform(actions)

    def forget(self, view: View) -> None:
        """Records that are not there: never written, or deleted since. A deleted one keeps its epochs."""
        domains = {
            home: unwritten(home) if known.revision < 0 else replace(known, revision=0)
            for home, known in self.own.domains.items()
            if home not in view.domains and known.revision != 0 and view.revision > known.revision
        }
        peers = {
            peer: PeerLease(0, self.now_ns)
            for peer, seen in self.own.peers.items()
            if peer not in view.hosts and seen.revision != 0 and view.revision > seen.revision
        }
        if domains or peers:
            self.own = replace(
                self.own, domains={**self.own.domains, **domains}, peers={**self.own.peers, **peers}
            )
        self.reconcile(domains)
        for unit in [unit for unit in self.own.holdings if unit.home in domains]:
            self.move(unit, Symbol.NAMES_US_ANEW)  # to be written again

    def reconcile(self, domains: Mapping[str, Known]) -> None:
        """Hold what this host believes against what the records say."""
        host = self.own.host
        for home, known in domains.items():
            if known.revision < 0:
                continue
            units = dict.fromkeys(unit for unit in self.own.holdings if unit.home == home)
            units.update(dict.fromkeys(known.record.held_by(host)))
            for unit in units:
                self._reconcile_unit(unit, known)

    def _reconcile_unit(self, unit: Unit, known: Known) -> None:
        to = known.record.assignment(unit.agent)
        holding = self.own.holdings.get(unit)
        if to.holder != self.own.host:
            self.move(unit, Symbol.NAMES_OTHER)
        elif unit.agent and unit.agent not in known.record.exceptions:
            # An agent that was to be parted from its domain, and is not (or no longer). A handover in flight
            # is left alone until its outcome is reported.
            if (
                holding is not None
                and holding.stance is not Stance.YIELDING
                and (holding.stance not in PROVEN or holding.epoch != to.epoch)
            ):
                self.move(unit, Symbol.NAMES_OTHER)
        elif holding is None:
            self.move(unit, Symbol.NAMES_US, Holding(Stance.NAMED, to.epoch))
        elif holding.epoch != to.epoch:
            self.move(unit, Symbol.NAMES_US_ANEW, replace(holding, epoch=to.epoch))

    def release(self, unit: Unit, target: str) -> None:
        known = self.own.domains.get(unit.home)
        if known is None or target == self.own.host or target not in self.own.peers:
            return
        until_ns = self.now_ns + self.policy.quiesce_ns
        covering = known.record.unit_of(unit.agent) if unit.agent else unit
        holding = self.own.holdings.get(unit) or self.own.holdings.get(covering)
        if holding is None or holding.stance is not Stance.SERVING or self._gone(target):
            return
        if not unit.agent and any(
            u.home == unit.home and u.agent and u.agent not in known.record.exceptions
            for u in self.own.holdings
        ):
            return  # one of its agents is being parted from it: that comes to its end first
        if unit not in self.own.holdings:
            parted = replace(holding, stance=Stance.SERVING)
            proof = self.own.proof
            if covering in proof:
                proof = {**proof, unit: holding.epoch}
            self.own = replace(self.own, holdings={**self.own.holdings, unit: parted}, proof=proof)
            self.publish()
        self.move(unit, Symbol.RELEASE, replace(holding, target=target, until_ns=until_ns))

    # What can be done now.

    def proceed(self) -> None:
        """Begin the next request if none is in flight and one is due: on the beat, or at once for news."""
        lease = self.own.lease
        if lease.in_flight or self._stop:
            return
        for unit, holding in tuple(self.own.holdings.items()):
            if holding.stance in (Stance.QUIESCING, Stance.DRAINED) and self._gone(holding.target):
                self.move(unit, Symbol.GIVEN_UP)
        self.rejoin()
        may_hurry = lease.phase is LeasePhase.HELD and self.own.eager_ns <= self.now_ns < lease.next_ns
        if may_hurry and self._news():
            lease = replace(lease, next_ns=self.now_ns)
        lease, actions = lease_step(lease, Tick(), self.now_ns, self.policy.lease)
        if lease is not self.own.lease:
            self.own = replace(self.own, lease=lease)
        self.perform(actions)

    def perform(self, actions: tuple[LeaseAction, ...]) -> None:
        for action in actions:
            match action:
                case Read():
                    self.actions.append(ReadAll())
                case Write():
                    self._transact(action)
                case Stop():
                    self._stop = True
                    self.own = replace(self.own, proof={}, holdings={})
                    self.speak(VoiceSymbol.REPLACED)
                    self.publish()
                    self.actions.append(Stop())

    def _news(self) -> bool:
        stances = {holding.stance for holding in self.own.holdings.values()}
        return bool(stances & {Stance.NAMED, Stance.DRAINED, Stance.UNSURE}) or bool(self._followed())

    def _gone(self, peer: str) -> bool:
        return peer not in self.own.peers or self.own.peers[peer].gone(self.now_ns, self.policy.lease)

    def _followed(self) -> tuple[str, ...]:
        """Peers whose units may be taken now: only by a host whose own lease is valid."""
        if self.own.lease.phase is not LeasePhase.HELD or self.own.voice is not Voice.ACTING:
            return ()
        return tuple(
            peer
            for peer in self.own.ranks
            if self.now_ns >= gone_ns(self.own, peer, self.policy) and _has_units(self.own, peer)
        )

    def _aside(self, takes: Mapping[Unit, str], followed: tuple[str, ...]) -> dict[Unit, str]:
        """Agents of a lost peer for which a third host stands by, and is there: it is named, then claims."""
        record = {home: known.record for home, known in self.own.domains.items()}
        return {
            unit: host
            for unit, host in (self.own.standbys.items() if followed else ())
            if unit.home in record
            and record[unit.home].assignment(unit.agent).holder in followed
            and record[unit.home].unit_of(unit.agent) in takes
            and host not in (self.own.host, *followed)
            and host in self.own.peers
            and self.own.peers[host].revision > 0
            and not self._gone(host)
        }

    def _transact(self, write: Write) -> None:
        """One transaction: the renewal, and with it whatever else is to be done."""
        own = self.own
        takes: dict[Unit, str] = {
            unit: own.host for unit, holding in own.holdings.items() if holding.stance is Stance.NAMED
        }
        followed = self._followed()
        for peer in followed:
            for known in own.domains.values():
                if known.revision >= 0:
                    takes.update(dict.fromkeys(known.record.held_by(peer), own.host))
        aside = self._aside(takes, followed)
        takes = {unit: own.host for unit in takes if unit not in aside}
        yields: dict[Unit, str] = {}
        if not takes and not aside:
            yields = {
                unit: holding.target
                for unit, holding in own.holdings.items()
                if holding.stance is Stance.DRAINED
            }
        puts: dict[str, Known] = {}
        for unit in takes:
            if unit.home not in puts:
                known = own.domains[unit.home]
                record = known.record.assigned((u for u in takes if u.home == unit.home), own.host)
                puts[unit.home] = Known(known.revision, record)
        for unit, target in (yields or aside).items():
            known = puts.get(unit.home, own.domains[unit.home])
            puts[unit.home] = replace(known, record=known.record.assigned((unit,), target))
        for unit in takes:
            # Folded into the domain by the same write: one unit from then on.
            if unit.agent and unit.agent not in puts[unit.home].record.exceptions:
                self.move(unit, Symbol.NAMES_OTHER)
                continue
            claimed = Holding(Stance.CLAIMING, puts[unit.home].record.assignment(unit.agent).epoch)
            self.move(unit, Symbol.CLAIM, claimed)
        for unit in yields:
            self.move(unit, Symbol.YIELD)
        covers = {
            unit: holding.epoch
            for unit, holding in self.own.holdings.items()
            if holding.stance in PROVEN or holding.stance is Stance.CLAIMING
        }
        homes = {unit.home for unit in covers} | set(puts)
        transaction = Transaction(
            host_revision=write.revision,
            host_epoch=write.epoch,
            host_seq=write.seq,
            domains={home: own.domains[home].revision for home in sorted(homes)},
            puts={home: known.record for home, known in puts.items()},
            peers={peer: own.peers[peer].revision for peer in followed},
            present=tuple(sorted({*yields.values(), *aside.values()})),
        )
        self.own = replace(self.own, sent=Sent(covers, frozenset(yields), puts))
        self.actions.append(Transact(transaction))
