"""Ownership told as transcripts: one host, what it is told, what it then asks for."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from services.control.domains import DomainRecord, Known, Transaction, Unit
from services.control.holdings import (
    Action,
    Effect,
    Event,
    Fence,
    HostSeen,
    Noticed,
    Ownership,
    OwnershipPolicy,
    Publish,
    Quiesced,
    ReadAll,
    Release,
    Transact,
    View,
    begin,
    speaks_again,
)
from services.control.lease import Acked, Ambiguous, Failed, Lease, Refused, Stop, Tick
from services.control.ownership import step, wake_ns
from services.control.stances import Do, Stance, Voice

MS = 1_000_000
POLICY = OwnershipPolicy()
A, B = Unit("alpha"), Unit("beta")


@dataclass
class Host:
    """The shell of one host, by hand."""

    own: Ownership
    now_ns: int = 10**9
    log: list[Action] = field(default_factory=list)

    def tell(self, event: Event, after_ms: int = 0) -> tuple[Action, ...]:
        self.now_ns += after_ms * MS
        self.own, actions = step(self.own, event, self.now_ns, POLICY)
        self.log.extend(actions)
        return actions

    def sent(self, actions: tuple[Action, ...]) -> Transaction:
        (only,) = [a.transaction for a in actions if isinstance(a, Transact)]
        return only

    def acts(self, unit: Unit = A) -> bool:
        return self.own.acting_epoch(unit.home, unit.agent, self.now_ns, POLICY) is not None


def new(host: str = "alpha", peer: str = "beta") -> Host:
    return Host(begin(host, Lease(boot_id="one"), ("alpha", "beta"), {peer: 0}, 10**9))


def serving() -> Host:
    """alpha serves its own domain at epoch 1; beta is alive and serves its own at epoch 1."""
    host = new()
    assert host.tell(Tick()) == (ReadAll(),)
    beta = Known(4, DomainRecord("beta", "beta", 1))
    host.tell(View(4, {"beta": HostSeen(3, "b", 1, 9)}, {"beta": beta}), 1)
    host.tell(Noticed({"beta": 5}))
    host.tell(Acked(6), 1)
    assert host.acts()
    return host


def test_an_empty_store_is_claimed_at_the_first_epoch_and_only_served_once_acknowledged() -> None:
    host = new()
    assert host.tell(Tick()) == (ReadAll(),)
    sent = host.sent(host.tell(View(1, {}, {}), 1))
    assert sent.host_revision == 0
    assert sent.domains == {"alpha": 0}
    assert sent.puts == {"alpha": DomainRecord("alpha", "alpha", 1)}
    assert not host.acts()
    publish, promote = host.tell(Acked(2), 3)
    assert isinstance(publish, Publish)
    assert publish.serving == {A: 1}
    assert publish.deadline_ns == host.now_ns - 3 * MS + POLICY.lease.lease_ns
    assert promote == Effect(Do.PROMOTE, A, 1)
    assert host.acts()
    assert not host.acts(B)


def test_a_claim_that_is_acknowledged_too_late_counts_with_the_next_renewal() -> None:
    host = new()
    host.tell(Tick())
    host.tell(View(1, {}, {}), 1)
    late = POLICY.lease.lease_ns // MS + 1
    before = host.own
    actions = host.tell(Acked(2), late)
    assert Effect(Do.PROMOTE, A, 1) in actions
    assert not host.acts()  # so that nobody can be promoted yet
    assert not speaks_again(before, host.own, host.now_ns, POLICY)
    host.tell(Tick())
    before = host.own
    assert not any(isinstance(action, Effect) for action in host.tell(Acked(3), 1))
    assert host.acts()
    assert speaks_again(before, host.own, host.now_ns, POLICY)
    before = host.own
    host.tell(Tick(), 200)
    host.tell(Acked(4), 1)
    assert not speaks_again(before, host.own, host.now_ns, POLICY)


def test_nothing_is_allowed_that_has_run_out() -> None:
    """The watchdog would take it for the word of a hostd that stands still."""
    host = serving()
    host.tell(Noticed({}, {"beta": Known(8, DomainRecord("beta", "alpha", 2))}), 3)
    host.tell(Acked(9), 1)
    assert host.acts(A)
    assert host.acts(B)
    host.tell(Tick(), 200)
    host.tell(Ambiguous(), 150)  # cut off
    late = POLICY.lease.lease_ns // MS
    told = host.tell(Tick(), late)
    lost = host.tell(Noticed({}, {"beta": Known(12, DomainRecord("beta", "beta", 4))}), 5)
    published = [action for action in (*told, *lost) if isinstance(action, Publish)]
    assert published
    assert not any(action.serving for action in published)
    assert host.own.proof == {A: 1}, "it may be confirmed yet"


def test_a_renewal_compares_every_record_that_is_held() -> None:
    host = serving()
    sent = host.sent(host.tell(Tick(), 200))
    assert sent.host_revision == 6
    assert sent.domains == {"alpha": 6}
    assert not sent.puts


def test_silence_leads_to_a_read_and_never_moves_the_deadline() -> None:
    host = serving()
    deadline_ns = host.own.deadline_ns(POLICY)
    host.tell(Tick(), 200)
    assert host.tell(Ambiguous(), 150) == (ReadAll(),)
    assert host.own.deadline_ns(POLICY) == deadline_ns
    alpha = Known(6, DomainRecord("alpha", "alpha", 1))
    beta = Known(4, DomainRecord("beta", "beta", 1))
    seen = {"alpha": HostSeen(9, "one", 1, 2), "beta": HostSeen(8, "b", 1, 10)}
    sent = host.sent(host.tell(View(9, seen, {"alpha": alpha, "beta": beta}), 1))
    assert sent.host_revision == 9
    assert host.own.deadline_ns(POLICY) == deadline_ns


def test_at_the_deadline_the_host_fences_itself_and_speaks_again_after_a_renewal() -> None:
    host = serving()
    host.tell(Tick(), 200)
    host.tell(Failed(), 0)
    wait_ms = (host.own.deadline_ns(POLICY) - host.now_ns) // MS
    host.tell(Tick(), wait_ms - 1)
    assert host.acts()
    actions = host.tell(Failed(), 1)
    assert Fence((A,)) in actions
    assert not host.acts()
    host.tell(Tick(), 200)
    assert Effect(Do.RESUME, A, 1) in host.tell(Acked(9), 1)
    assert host.acts()


def test_a_peer_is_followed_after_lease_and_margin_against_the_revision_seen() -> None:
    host = serving()
    for _ in range(6):
        host.tell(Tick(), 200)
        host.tell(Acked(host.own.lease.revision + 1), 0)
    due_ns = wake_ns(host.own, POLICY)
    assert due_ns is not None
    assert due_ns - 10**9 == 1 * MS + 1_300 * MS
    sent = host.sent(host.tell(Tick(), (due_ns - host.now_ns) // MS))
    assert sent.peers == {"beta": 5}
    assert sent.domains == {"alpha": 6, "beta": 4}
    assert sent.puts == {"beta": DomainRecord("beta", "alpha", 2)}
    assert not host.acts(B)
    assert Effect(Do.PROMOTE, B, 2) in host.tell(Acked(99), 2)
    assert host.acts(B)


def test_a_newer_revision_starts_the_count_again() -> None:
    host = serving()
    for _ in range(6):
        host.tell(Tick(), 200)
        host.tell(Acked(host.own.lease.revision + 1), 0)
    host.tell(Noticed({"beta": 77}))
    for _ in range(6):
        sent = host.sent(host.tell(Tick(), 200))
        assert not sent.peers
        host.tell(Acked(host.own.lease.revision + 1), 0)


def test_a_host_without_a_place_among_the_challengers_takes_nothing() -> None:
    host = serving()
    host.own = replace(host.own, ranks={})
    for _ in range(50):
        for action in host.tell(Tick(), 200):
            assert not _takes(action)
        host.tell(Acked(host.own.lease.revision + 1))
    assert host.acts()


def test_a_peer_that_was_never_seen_to_renew_gets_time_to_start() -> None:
    host = new()
    assert host.tell(Tick()) == (ReadAll(),)
    beta = Known(4, DomainRecord("beta", "beta", 1))
    host.tell(View(5, {"beta": HostSeen(5, "b", 1, 9)}, {"beta": beta}), 1)
    host.tell(Acked(6), 0)
    began_ms = host.now_ns // MS
    grace_ms = (POLICY.start_grace_ns + POLICY.lease.lease_ns + POLICY.lease.margin_ns) // MS
    taken_after_ms = 0
    while not taken_after_ms:
        actions = host.tell(Tick(), 1)
        taken_after_ms = host.now_ns // MS - began_ms if any(_takes(a) for a in actions) else 0
        if host.own.sent is not None:
            host.tell(Acked(host.own.lease.revision + 1))
    assert taken_after_ms == grace_ms


def _takes(action: Action) -> bool:
    return isinstance(action, Transact) and bool(action.transaction.peers)


def test_a_refused_takeover_is_decided_anew_from_what_is_read() -> None:
    host = serving()
    for _ in range(6):
        host.tell(Tick(), 200)
        host.tell(Acked(host.own.lease.revision + 1), 0)
    assert host.sent(host.tell(Tick(), 101)).peers
    assert host.tell(Refused(), 1) == (ReadAll(),)
    own = HostSeen(host.own.lease.revision, "one", 1, host.own.lease.seq - 1)
    domains = {
        "alpha": Known(6, DomainRecord("alpha", "alpha", 1)),
        "beta": Known(4, DomainRecord("beta", "beta", 1)),
    }
    sent = host.sent(host.tell(View(50, {"alpha": own, "beta": HostSeen(40, "b", 1, 12)}, domains), 1))
    assert not sent.peers
    assert not sent.puts


def test_a_handover_silences_its_holder_before_it_is_sent() -> None:
    host = serving()
    assert Effect(Do.QUIESCE, A, 1, "beta") in host.tell(Release(A, "beta"), 50)
    assert host.acts()
    actions = host.tell(Quiesced(A), 10)
    assert not host.acts()
    kinds = [type(action) for action in actions]
    assert kinds.index(Publish) < kinds.index(Transact)
    sent = host.sent(actions)
    assert sent.puts == {"alpha": DomainRecord("alpha", "beta", 2)}
    assert sent.present == ("beta",)
    assert Effect(Do.DEMOTE, A, 1, "beta") in host.tell(Acked(9), 1)
    assert host.own.holdings == {}


def test_after_a_silent_handover_only_an_acknowledged_renewal_gives_the_unit_back() -> None:
    host = serving()
    host.tell(Release(A, "beta"), 50)
    host.tell(Quiesced(A), 10)
    assert host.tell(Ambiguous(), 150) == (ReadAll(),)
    assert host.own.holdings[A].stance is Stance.UNSURE
    assert not host.acts()
    alpha = Known(6, DomainRecord("alpha", "alpha", 1))
    beta = Known(4, DomainRecord("beta", "beta", 1))
    seen = {"alpha": HostSeen(6, "one", 1, 1), "beta": HostSeen(8, "b", 1, 10)}
    sent = host.sent(host.tell(View(9, seen, {"alpha": alpha, "beta": beta}), 1))
    assert sent.domains == {"alpha": 6}
    assert not host.acts(), "a read proves nothing: the handover may still arrive"
    assert Effect(Do.RESUME, A, 1) in host.tell(Acked(10), 1)
    assert host.acts()


def test_a_single_agent_is_parted_from_its_domain_and_the_rest_goes_on() -> None:
    host = serving()
    agent = Unit("alpha", "speech")
    host.tell(Release(agent, "beta"), 50)
    actions = host.tell(Quiesced(agent), 10)
    assert not host.acts(agent)
    assert host.acts(A)
    sent = host.sent(actions)
    assert sent.puts["alpha"].assignment("speech") == ("beta", 2)
    assert sent.puts["alpha"].assignment() == ("alpha", 1)
    host.tell(Acked(9), 1)
    assert host.acts(A)
    assert not host.acts(agent)
    published = [action for action in host.log if isinstance(action, Publish)][-1]
    assert agent in published.withheld


def test_a_unit_named_by_a_peer_is_claimed_at_a_new_epoch_at_once() -> None:
    host = serving()
    sent = host.sent(host.tell(Noticed({}, {"beta": Known(8, DomainRecord("beta", "alpha", 2))}), 3))
    assert sent.puts == {"beta": DomainRecord("beta", "alpha", 3)}
    host.tell(Acked(9), 1)
    assert host.acts(B)


def test_a_daemon_whose_record_another_one_took_stops() -> None:
    host = serving()
    host.tell(Tick(), 200)
    host.tell(Refused(), 1)
    actions = host.tell(View(50, {"alpha": HostSeen(40, "two", 2, 1)}, {}), 1)
    assert actions[-1] == Stop()
    assert host.own.voice is Voice.REPLACED
    assert not host.acts()


def test_a_store_that_refuses_connections_is_not_stormed() -> None:
    host = serving()
    host.tell(Noticed({}, {"beta": Known(8, DomainRecord("beta", "alpha", 2))}), 3)
    assert host.tell(Failed()) == ()
    due_ns = wake_ns(host.own, POLICY)
    assert due_ns is not None
    assert due_ns > host.now_ns
