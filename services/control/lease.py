"""The host's own record in etcd, and what other hosts may conclude from it. Pure.

Protocol: the record is renewed every `renew_ns` by a transaction on its revision. A renewal without an
answer is ambiguous: the record is read again and renewed anew, and the silent renewal never counts. The
holder may act until *send time of the last acknowledged renewal* + `lease_ns`, on CLOCK_BOOTTIME. Each start
of hostd takes its own record over with a higher epoch, by compare-and-swap on the revision that it read;
whoever then finds a record that is not its own has been replaced and must stop.

A watcher of another host's record (`PeerLease`) counts on its own clock: no change of the revision for
`lease_ns + margin_ns` means gone; any newer revision starts the count again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum

MS = 1_000_000


@dataclass(frozen=True, slots=True)
class LeasePolicy:
    """Times in nanoseconds; the same on all hosts of a stack, or the promise breaks."""

    lease_ns: int = 1_200 * MS
    margin_ns: int = 100 * MS
    renew_ns: int = 200 * MS
    deadline_ns: int = 150 * MS


class LeasePhase(StrEnum):
    """What is known about the own record."""

    UNKNOWN = "unknown"  # it has to be read first: at the start, and after an ambiguous answer
    CLAIMING = "claiming"  # read, not yet ours in this epoch
    HELD = "held"
    REPLACED = "replaced"  # another hostd of this host took it: this one must stop


@dataclass(frozen=True, slots=True)
class Lease:
    """The state. `revision` is the one to compare with, 0 when there is no record.

    `boot_id` is new with each start of hostd, which is what tells two daemons of one host apart.
    `floor_epoch` is the highest epoch this host is known to have had (its disk says so, and the record).
    """

    boot_id: str
    phase: LeasePhase = LeasePhase.UNKNOWN
    epoch: int = 0
    floor_epoch: int = 0
    seq: int = 0
    revision: int = 0
    in_flight: bool = False
    sent_ns: int = 0
    acked_sent_ns: int | None = None
    next_ns: int = 0

    def deadline_ns(self, policy: LeasePolicy) -> int:
        """Until when this host may act (CLOCK_BOOTTIME); 0 before the first acknowledgement."""
        return 0 if self.acked_sent_ns is None else self.acked_sent_ns + policy.lease_ns

    def held(self, now_ns: int, policy: LeasePolicy) -> bool:
        """Whether this host may act now."""
        return self.phase is not LeasePhase.REPLACED and now_ns < self.deadline_ns(policy)


# What the shell reports.


@dataclass(frozen=True, slots=True)
class Tick:
    """Time has passed (at or after `Lease.next_ns`)."""


@dataclass(frozen=True, slots=True)
class Found:
    """The record was read."""

    revision: int
    boot_id: str
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Absent:
    """The record was read: there is none."""


@dataclass(frozen=True, slots=True)
class Acked:
    """The write was performed and acknowledged; the record's new revision."""

    revision: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The comparison failed: the write was not performed."""


@dataclass(frozen=True, slots=True)
class Failed:
    """Definite: nothing was performed (no endpoint reached, request refused)."""


@dataclass(frozen=True, slots=True)
class Ambiguous:
    """No answer in time: performed, or not, or will be yet."""


def patience_ns(lease: Lease, now_ns: int, policy: LeasePolicy) -> int:
    """How long a request that is sent now may take: the deadline of one, and more the longer nothing was
    acknowledged, so that answers which are slow for a while still come in time. At most a third of the lease.

    Safety does not depend on it: what an answer proves counts from the sending.
    """
    if lease.acked_sent_ns is None:
        return policy.lease_ns // 3
    silent_ns = now_ns - lease.acked_sent_ns
    return max(policy.deadline_ns, min(silent_ns // 2, policy.lease_ns // 3))


LeaseEvent = Tick | Found | Absent | Acked | Refused | Failed | Ambiguous


# What the shell is to do.


@dataclass(frozen=True, slots=True)
class Read:
    """Read the record, linearizably."""


@dataclass(frozen=True, slots=True)
class Write:
    """Write `{epoch, seq}` if the record still has `revision` (0: if there is none)."""

    revision: int
    epoch: int
    seq: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Another hostd holds this host's record with a higher epoch: leave."""


LeaseAction = Read | Write | Stop


def lease_step(
    lease: Lease, event: LeaseEvent, now_ns: int, policy: LeasePolicy
) -> tuple[Lease, tuple[LeaseAction, ...]]:
    """One decision. At most one request is in flight; the shell reports each outcome once."""
    if lease.phase is LeasePhase.REPLACED:
        return lease, ()
    match event:
        case Tick():
            return _tick(lease, now_ns, policy)
        case Found():
            return _found(replace(lease, in_flight=False), event, now_ns, policy)
        case Absent():
            claim = replace(lease, in_flight=False, phase=LeasePhase.CLAIMING, revision=0)
            return _write(claim, now_ns, policy)
        case Acked(revision):
            return (
                replace(
                    lease,
                    in_flight=False,
                    phase=LeasePhase.HELD,
                    revision=revision,
                    acked_sent_ns=lease.sent_ns,
                ),
                (),
            )
        case Refused() | Ambiguous():
            unknown = replace(lease, in_flight=False, phase=LeasePhase.UNKNOWN, next_ns=now_ns)
            return unknown, ()
        case Failed():
            return replace(lease, in_flight=False), ()


def _tick(lease: Lease, now_ns: int, policy: LeasePolicy) -> tuple[Lease, tuple[LeaseAction, ...]]:
    if lease.in_flight or now_ns < lease.next_ns:
        return lease, ()
    if lease.phase is LeasePhase.HELD:
        return _write(lease, now_ns, policy)
    asked = replace(lease, in_flight=True, sent_ns=now_ns, next_ns=now_ns + policy.renew_ns)
    return asked, (Read(),)


def _found(
    lease: Lease, record: Found, now_ns: int, policy: LeasePolicy
) -> tuple[Lease, tuple[LeaseAction, ...]]:
    ours = lease.epoch > 0 and record.epoch == lease.epoch and record.boot_id == lease.boot_id
    if lease.epoch > 0 and not ours and record.epoch >= lease.epoch:
        return replace(lease, phase=LeasePhase.REPLACED), (Stop(),)
    known = replace(
        lease,
        revision=record.revision,
        floor_epoch=max(lease.floor_epoch, record.epoch),
        seq=max(lease.seq, record.seq) if ours else lease.seq,
        phase=LeasePhase.HELD if ours else LeasePhase.CLAIMING,
    )
    return _write(known, now_ns, policy)


def _write(lease: Lease, now_ns: int, policy: LeasePolicy) -> tuple[Lease, tuple[LeaseAction, ...]]:
    epoch = lease.epoch if lease.epoch > 0 else lease.floor_epoch + 1
    seq = lease.seq + 1
    # The beat is kept where it can be: one slow answer does not shift all later renewals.
    on_beat = lease.next_ns + policy.renew_ns
    next_ns = on_beat if on_beat > now_ns else now_ns + policy.renew_ns
    sent = replace(lease, epoch=epoch, seq=seq, in_flight=True, sent_ns=now_ns, next_ns=next_ns)
    return sent, (Write(lease.revision, epoch, seq),)


@dataclass(frozen=True, slots=True)
class PeerLease:
    """Another host's record as this host sees it: the revision, and when it was first seen here.

    `renewed`: it was seen to change in this life of the watcher, so that host has been alive beside it.
    """

    revision: int
    seen_ns: int
    renewed: bool = False

    def seen(self, revision: int, now_ns: int) -> PeerLease:
        """A record of that revision was read at `now_ns`; only a newer one starts the count again."""
        if revision <= self.revision:
            return self
        return PeerLease(revision, now_ns, renewed=self.revision >= 0)

    def gone(self, now_ns: int, policy: LeasePolicy) -> bool:
        """Whether the host may be held for gone."""
        return now_ns - self.seen_ns >= policy.lease_ns + policy.margin_ns
