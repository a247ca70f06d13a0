"""What ownership is decided from and what the decisions ask for: state, events, actions. Pure data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from services.control.domains import Known, Transaction, Unit, unwritten
from services.control.lease import (
    Acked,
    Ambiguous,
    Failed,
    Lease,
    LeasePolicy,
    PeerLease,
    Refused,
    Stop,
    Tick,
)
from services.control.stances import Do, Stance, Voice

MS = 1_000_000


@dataclass(frozen=True, slots=True)
class OwnershipPolicy:
    """Times in nanoseconds; `lease` must be the same on all hosts of a stack."""

    lease: LeasePolicy = field(default_factory=LeasePolicy)
    quiesce_ns: int = 5_000 * MS  # a switch-over whose work has not ended by then is given up
    stagger_ns: int = 300 * MS  # between challengers of one peer, where there are several
    start_grace_ns: int = (
        5_000 * MS
    )  # on top, for a peer that was never seen to renew: it may be starting, too


@dataclass(frozen=True, slots=True)
class Holding:
    """How this host stands to a unit.

    `epoch` is the one held or asked for; `target` is who gets a unit that is handed over, `until_ns` how long
    its work may take to end.
    """

    stance: Stance
    epoch: int
    target: str = ""
    until_ns: int = 0


@dataclass(frozen=True, slots=True)
class Sent:
    """The transaction in flight: what an acknowledgement of it will prove, claim and give away."""

    covers: Mapping[Unit, int] = field(default_factory=dict)
    yields: frozenset[Unit] = frozenset()
    puts: Mapping[str, Known] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WriteFence:
    """A state write is performed only while `domains/<home>` was written by `revision`.

    Refused though the record still gives the agent to this host at `epoch` (another unit of it moved):
    compare the new revision and send again.
    """

    revision: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Ownership:
    """All that the decisions depend on. Make one with `begin`."""

    host: str
    lease: Lease
    ranks: Mapping[str, int]
    """Peers that this host may follow, with its place among their challengers (0: the first)."""
    peers: Mapping[str, PeerLease]
    domains: Mapping[str, Known]
    holdings: Mapping[Unit, Holding] = field(default_factory=dict)
    """Units to which this host does not stand `ELSEWHERE`."""
    proof: Mapping[Unit, int] = field(default_factory=dict)
    """What the last acknowledged transaction covers: units and epochs."""
    sent: Sent | None = None
    voice: Voice = Voice.SILENT
    eager_ns: int = 0
    """Before this instant nothing is sent off the beat: a request has just failed at once."""
    standbys: Mapping[Unit, str] = field(default_factory=dict)
    """Who stands by for single agents, as the fleet says it. Matters where several hosts may follow one."""

    def deadline_ns(self, policy: OwnershipPolicy) -> int:
        """Until when this host may act for what `proof` covers (CLOCK_BOOTTIME)."""
        return self.lease.deadline_ns(policy.lease)

    def acting_epoch(self, home: str, agent: str, now_ns: int, policy: OwnershipPolicy) -> int | None:
        """The epoch at which this host may act for an agent now; None: it may not."""
        if not self.lease.held(now_ns, policy.lease):
            return None
        return self.proof.get(self.unit_of(home, agent))

    def write_fence(self, home: str, agent: str, now_ns: int, policy: OwnershipPolicy) -> WriteFence | None:
        """What a write of that agent's state has to compare; None: it must not be sent."""
        epoch = self.acting_epoch(home, agent, now_ns, policy)
        known = self.domains.get(home)
        if epoch is None or known is None or known.record.assignment(agent) != (self.host, epoch):
            return None
        return WriteFence(known.revision, epoch)

    def unit_of(self, home: str, agent: str) -> Unit:
        """The unit of an agent, one that is just being parted from its domain included."""
        own = Unit(home, agent)
        if own in self.holdings:
            return own
        known = self.domains.get(home)
        return Unit(home) if known is None else known.record.unit_of(agent)


def speaks_again(before: Ownership, after: Ownership, now_ns: int, policy: OwnershipPolicy) -> bool:
    """Whether a lease that had run out holds again: who was told to serve meanwhile could not be promoted.

    A claim that is acknowledged only after its deadline (its daemon was held still, say) gives units to a
    host that may not act for them before its next renewal; nothing else changes with that.
    """
    return after.lease.held(now_ns, policy.lease) and not before.lease.held(now_ns, policy.lease)


def begin(host: str, lease: Lease, homes: Iterable[str], ranks: Mapping[str, int], now_ns: int) -> Ownership:
    """The state of a daemon that has just started: it knows nothing, and all its timers start now."""
    return Ownership(
        host=host,
        lease=lease,
        ranks=dict(ranks),
        peers={peer: PeerLease(-1, now_ns) for peer in ranks},
        domains={home: Known(-1, unwritten(home).record) for home in homes},
    )


# What the shell reports, besides Tick, Acked, Refused, Failed and Ambiguous of services.control.lease.


@dataclass(frozen=True, slots=True)
class HostSeen:
    """A record `hosts/<host>` and the revision that wrote it."""

    revision: int
    boot_id: str = ""
    epoch: int = 0
    seq: int = 0


@dataclass(frozen=True, slots=True)
class View:
    """The answer to `ReadAll`, linearizable: every host record and every domain record there is.

    `revision` is that of the store when it was read: a record that is missing here was absent then.
    """

    revision: int
    hosts: Mapping[str, HostSeen]
    domains: Mapping[str, Known]


@dataclass(frozen=True, slots=True)
class Noticed:
    """Records that a watch brought: true once, perhaps not any more. Older ones than known are ignored."""

    hosts: Mapping[str, int] = field(default_factory=dict)
    domains: Mapping[str, Known] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Release:
    """Hand this unit to that host: an operator's drain, a crash loop, a fail-back."""

    unit: Unit
    target: str


@dataclass(frozen=True, slots=True)
class Quiesced:
    """No work for this unit is in flight here any more, and none is admitted."""

    unit: Unit


@dataclass(frozen=True, slots=True)
class StandBys:
    """Who stands by for which agents (`Unit(home, agent)`), from now on."""

    standbys: Mapping[Unit, str]


Event = Tick | Acked | Refused | Failed | Ambiguous | View | Noticed | Release | Quiesced | StandBys


# What the shell is to do, in this order.


@dataclass(frozen=True, slots=True)
class ReadAll:
    """Read all host and domain records, linearizably, at one revision."""


@dataclass(frozen=True, slots=True)
class Transact:
    """Send this transaction once, with a deadline; report exactly one outcome."""

    transaction: Transaction


@dataclass(frozen=True, slots=True)
class Publish:
    """Let the agents know until when they may act, and at which epochs; before any later action is begun."""

    deadline_ns: int
    serving: Mapping[Unit, int]
    withheld: frozenset[Unit] = frozenset()
    """Single agents that do not act although the rest of their domain may."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What happens to a unit's agents: PROMOTE, RESUME, QUIESCE or DEMOTE."""

    do: Do
    unit: Unit
    epoch: int
    target: str = ""


@dataclass(frozen=True, slots=True)
class Fence:
    """The deadline has passed: agents stop serving as primary, and what does not stop is killed."""

    units: tuple[Unit, ...]


Action = ReadAll | Transact | Publish | Effect | Fence | Stop
