"""A peer that is silent is suspected half a lease later, and for some seconds after it was heard again."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from services.control.lease import LeasePolicy, PeerLease
from services.control.suspicion import SUSPICION, suspected

MS = 1_000_000
LEASE = LeasePolicy()
POLICY = SUSPICION
AFTER_NS = LEASE.lease_ns // 2


def look(before: Mapping[str, int], peers: Mapping[str, PeerLease], now_ns: int) -> Mapping[str, int]:
    return suspected(before, peers, now_ns, LEASE, POLICY)


def test_half_a_lease_of_silence_is_suspicious_and_less_is_not() -> None:
    peers = {"a": PeerLease(7, 1_000, renewed=True)}
    assert look({}, peers, 1_000 + AFTER_NS - 1) == {}
    assert look({}, peers, 1_000 + AFTER_NS) == {"a": 1_000 + AFTER_NS + POLICY.kept_ns}


def test_it_comes_before_the_peer_may_be_followed() -> None:
    peer = PeerLease(7, 0, renewed=True)
    first_ns = next(now_ns for now_ns in range(0, 10**10, MS) if look({}, {"a": peer}, now_ns))
    assert not peer.gone(first_ns, LEASE)


def test_one_that_was_never_seen_to_renew_is_starting() -> None:
    assert look({}, {"a": PeerLease(-1, 0), "b": PeerLease(5, 0)}, 10**12) == {}


def test_one_that_is_heard_again_stays_suspected_for_a_while() -> None:
    until_ns = look({}, {"a": PeerLease(7, 0, renewed=True)}, AFTER_NS)["a"]
    heard = {"a": PeerLease(8, AFTER_NS + 1, renewed=True)}
    later = look({"a": until_ns}, heard, AFTER_NS + 2)
    assert later == {"a": until_ns}
    fresh = {"a": PeerLease(9, until_ns, renewed=True)}
    assert look(later, fresh, until_ns - 1) == {"a": until_ns}
    assert look(later, fresh, until_ns) == {}


def test_a_peer_that_is_no_more_is_forgotten() -> None:
    assert look({"gone": 10**12}, {}, 5) == {}


@given(
    st.lists(st.tuples(st.integers(0, 3_000), st.booleans()), min_size=1, max_size=40),
)
def test_who_is_silent_for_long_enough_is_always_suspected(beats: list[tuple[int, bool]]) -> None:
    """Whatever came before: each answer covers those that are silent, and nobody heard of late."""
    now_ns, seen_ns, revision, suspects_ns = 0, 0, 1, -POLICY.kept_ns
    state: Mapping[str, int] = {}
    for wait_ms, heard in beats:
        now_ns += wait_ms * MS
        if heard:
            revision, seen_ns = revision + 1, now_ns
        state = look(state, {"a": PeerLease(revision, seen_ns, renewed=True)}, now_ns)
        silent = now_ns - seen_ns >= AFTER_NS
        if silent:
            suspects_ns = now_ns
        assert ("a" in state) == (silent or now_ns - suspects_ns < POLICY.kept_ns)
