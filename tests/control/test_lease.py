"""The host's record: rows of the protocol, then two daemons and a store that answers late or never."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.control.lease import (
    MS,
    Absent,
    Acked,
    Ambiguous,
    Failed,
    Found,
    Lease,
    LeaseEvent,
    LeasePhase,
    LeasePolicy,
    PeerLease,
    Read,
    Refused,
    Stop,
    Tick,
    Write,
    lease_step,
    patience_ns,
)

POLICY = LeasePolicy()
T0 = 10**12
HELD = Lease(boot_id="me", phase=LeasePhase.HELD, epoch=4, seq=7, revision=50, acked_sent_ns=T0, next_ns=T0)


@pytest.mark.parametrize(
    ("lease", "event", "phase", "actions"),
    [
        (Lease("me"), Tick(), LeasePhase.UNKNOWN, (Read(),)),
        (Lease("me", in_flight=True), Tick(), LeasePhase.UNKNOWN, ()),
        (Lease("me", in_flight=True), Absent(), LeasePhase.CLAIMING, (Write(0, 1, 1),)),
        (Lease("me", in_flight=True, floor_epoch=9), Absent(), LeasePhase.CLAIMING, (Write(0, 10, 1),)),
        (Lease("me", in_flight=True), Found(50, "old", 3, 99), LeasePhase.CLAIMING, (Write(50, 4, 1),)),
        (
            Lease("me", in_flight=True, floor_epoch=9),
            Found(50, "old", 3, 99),
            LeasePhase.CLAIMING,
            (Write(50, 10, 1),),
        ),
        (HELD, Tick(), LeasePhase.HELD, (Write(50, 4, 8),)),
        (replace(HELD, in_flight=True), Tick(), LeasePhase.HELD, ()),
        (replace(HELD, in_flight=True), Ambiguous(), LeasePhase.UNKNOWN, ()),
        (replace(HELD, in_flight=True), Refused(), LeasePhase.UNKNOWN, ()),
        (replace(HELD, in_flight=True), Failed(), LeasePhase.HELD, ()),
        (replace(HELD, phase=LeasePhase.UNKNOWN), Found(51, "me", 4, 8), LeasePhase.HELD, (Write(51, 4, 9),)),
        (replace(HELD, phase=LeasePhase.UNKNOWN), Found(51, "new", 5, 1), LeasePhase.REPLACED, (Stop(),)),
        (replace(HELD, phase=LeasePhase.UNKNOWN), Found(51, "new", 4, 1), LeasePhase.REPLACED, (Stop(),)),
        (replace(HELD, phase=LeasePhase.UNKNOWN), Absent(), LeasePhase.CLAIMING, (Write(0, 4, 8),)),
        (replace(HELD, phase=LeasePhase.REPLACED), Tick(), LeasePhase.REPLACED, ()),
    ],
)
def test_rows(lease: Lease, event: LeaseEvent, phase: LeasePhase, actions: tuple[object, ...]) -> None:
    after, did = lease_step(lease, event, T0, POLICY)
    assert (after.phase, did) == (phase, actions)


def test_the_deadline_counts_from_the_sending_and_only_of_what_was_acknowledged() -> None:
    sent, _ = lease_step(HELD, Tick(), T0 + 200 * MS, POLICY)
    assert sent.deadline_ns(POLICY) == T0 + POLICY.lease_ns
    acked, _ = lease_step(sent, Acked(60), T0 + 340 * MS, POLICY)
    assert acked.deadline_ns(POLICY) == T0 + 200 * MS + POLICY.lease_ns
    silent, _ = lease_step(sent, Ambiguous(), T0 + 350 * MS, POLICY)
    confirmed, _ = lease_step(silent, Found(60, "me", 4, 8), T0 + 360 * MS, POLICY)
    assert confirmed.deadline_ns(POLICY) == T0 + POLICY.lease_ns
    assert confirmed.held(T0 + POLICY.lease_ns - 1, POLICY)
    assert not confirmed.held(T0 + POLICY.lease_ns, POLICY)


@pytest.mark.parametrize(
    ("silent_ms", "patience_ms"), [(None, 400), (0, 150), (299, 150), (500, 250), (800, 400), (5_000, 400)]
)
def test_a_request_may_take_longer_the_longer_nothing_was_acknowledged(
    silent_ms: int | None, patience_ms: int
) -> None:
    acked_ns = None if silent_ms is None else T0 - silent_ms * MS
    assert patience_ns(replace(HELD, acked_sent_ns=acked_ns), T0, POLICY) == patience_ms * MS


def test_a_peer_counts_as_alive_beside_us_once_its_record_was_seen_to_change() -> None:
    looked = PeerLease(-1, T0).seen(7, T0)
    assert not looked.renewed
    assert not looked.seen(7, T0 + 1).renewed
    assert looked.seen(8, T0 + 1).renewed


def test_the_beat_is_kept_after_a_slow_answer() -> None:
    lease, sent_at, now = HELD, [], T0
    for slow_ms in (1, 120, 1, 140, 1):
        now = max(now, lease.next_ns)
        lease, _ = lease_step(lease, Tick(), now, POLICY)
        sent_at.append((now - T0) // MS)
        now += slow_ms * MS
        lease, _ = lease_step(lease, Acked(lease.revision + 1), now, POLICY)
    assert sent_at == [0, 200, 400, 600, 800]


def test_a_peer_is_gone_only_after_the_full_silence_and_any_newer_revision_restarts_it() -> None:
    peer = PeerLease(50, T0)
    limit_ns = POLICY.lease_ns + POLICY.margin_ns
    assert not peer.gone(T0 + limit_ns - 1, POLICY)
    assert peer.gone(T0 + limit_ns, POLICY)
    assert peer.seen(50, T0 + 900 * MS) is peer
    assert peer.seen(49, T0 + 900 * MS) is peer
    assert not peer.seen(51, T0 + 900 * MS).gone(T0 + limit_ns, POLICY)


@dataclass
class Store:
    """One record under compare-and-swap; a write may be performed after its caller gave up."""

    revision: int = 0
    record: tuple[str, int, int] | None = None
    changed_ns: int = 0

    def write(self, boot_id: str, write: Write, now_ns: int) -> int:
        if (self.revision if self.record else 0) != write.revision:
            return 0
        self.revision += 1
        self.record = (boot_id, write.epoch, write.seq)
        self.changed_ns = now_ns
        return self.revision


OUTCOME = st.sampled_from(["ok", "ok", "ok", "lost", "never", "late", "down"])


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["a", "b"]), OUTCOME, st.integers(1, 400)), max_size=60))
def test_two_daemons_of_one_host_never_hold_the_same_epoch(
    script: list[tuple[str, str, int]],
) -> None:
    """Whatever is lost or late: epochs are unique to a daemon, the record's epoch never falls, and an
    acknowledged renewal was in the store no earlier than the holder counts."""
    store, now_ns = Store(), T0
    leases = {"a": Lease("a"), "b": Lease("b")}
    late: list[tuple[str, Write]] = []
    owner: dict[int, str] = {}
    epoch = 0
    for who, outcome, passed_ms in script:
        now_ns += passed_ms * MS
        for waiting in late[:1] if outcome == "ok" else ():
            late.remove(waiting)
            store.write(*waiting, now_ns)
        lease, actions = lease_step(leases[who], Tick(), now_ns, POLICY)
        while actions:
            event: LeaseEvent
            match actions[0]:
                case Stop():
                    break
                case Read():
                    if outcome == "down":
                        event = Failed()
                    elif store.record is None:
                        event = Absent()
                    else:
                        event = Found(store.revision, *store.record)
                case Write() as write:
                    if outcome == "down":
                        event = Failed()
                    elif outcome in ("never", "late"):
                        event = Ambiguous()
                        if outcome == "late":
                            late.append((who, write))
                    else:
                        revision = store.write(who, write, now_ns)
                        event = (
                            Ambiguous() if outcome == "lost" else Acked(revision) if revision else Refused()
                        )
            lease, actions = lease_step(lease, event, now_ns, POLICY)
            if isinstance(event, Acked):
                assert owner.setdefault(lease.epoch, who) == who
                assert lease.acked_sent_ns is not None
                assert lease.acked_sent_ns <= store.changed_ns
            if lease.phase is LeasePhase.REPLACED:
                break
        leases[who] = lease
        if store.record is not None:
            assert store.record[1] >= epoch
            epoch = store.record[1]
    for who, lease in leases.items():
        if lease.acked_sent_ns is not None:
            assert owner[lease.epoch] == who
