"""Three workers: an agent of a lost host goes to the host that stands by for it, whoever takes the rest."""

from __future__ import annotations

import pytest

from services.control.domains import Assignment, DomainRecord, Known, Transaction, Unit
from services.control.holdings import (
    HostSeen,
    Noticed,
    Ownership,
    OwnershipPolicy,
    StandBys,
    Transact,
    View,
    begin,
)
from services.control.lease import Acked, Lease, Tick
from services.control.ownership import step
from services.control.stances import Stance

MS = 1_000_000
POLICY = OwnershipPolicy()
HOUR_NS = 3_600_000 * MS
WORKERS = ("alpha", "beta", "gamma")
MEMORY, SPEECH = Unit("alpha", "memory"), Unit("alpha", "speech")


def beta_and(
    gamma_renews: bool, standbys: dict[Unit, str], record: DomainRecord
) -> tuple[Ownership, Transaction]:
    """beta, when it follows alpha, which it saw to renew once; gamma goes on renewing, or not."""
    own = begin("beta", Lease(boot_id="b"), WORKERS, {"alpha": 0, "gamma": 1}, 0)
    own, _ = step(own, StandBys(standbys), 0, POLICY)
    own, _ = step(own, Tick(), 0, POLICY)
    hosts = {"alpha": HostSeen(4), "gamma": HostSeen(5)}
    domains = {
        "alpha": Known(6, record),
        "beta": Known(7, DomainRecord("beta", "beta", 1)),
        "gamma": Known(8, DomainRecord("gamma", "gamma", 1)),
    }
    own, _ = step(own, View(8, hosts, domains), MS, POLICY)
    own, _ = step(own, Acked(9), MS, POLICY)
    own, _ = step(own, Noticed({"alpha": 10, "gamma": 11}), MS, POLICY)
    revision = 12
    now_ns = MS
    while now_ns < 8_000 * MS:
        now_ns += 50 * MS
        if gamma_renews and now_ns % (200 * MS) == MS:
            own, actions = step(own, Noticed({"gamma": revision}), now_ns, POLICY)
            revision += 1
        else:
            own, actions = step(own, Tick(), now_ns, POLICY)
        for action in actions:
            if isinstance(action, Transact):
                if action.transaction.peers.get("alpha") == 10:
                    return own, action.transaction
                own, _ = step(own, Acked(revision), now_ns, POLICY)
                revision += 1
    raise AssertionError("alpha was never followed")


def test_an_agent_goes_to_its_own_standby_in_the_transaction_that_takes_the_rest() -> None:
    own, sent = beta_and(True, {MEMORY: "beta", SPEECH: "gamma"}, DomainRecord("alpha", "alpha", 3))
    assert sent.puts["alpha"] == DomainRecord("alpha", "beta", 4, {"speech": Assignment("gamma", 5)})
    assert sent.present == ("gamma",)
    assert own.holdings[Unit("alpha")].stance is Stance.CLAIMING
    assert SPEECH not in own.holdings


def test_an_excepted_agent_of_a_lost_host_goes_to_its_standby_too() -> None:
    record = DomainRecord("alpha", "beta", 3, {"speech": Assignment("alpha", 2)})
    _, sent = beta_and(True, {SPEECH: "gamma"}, record)
    assert sent.puts["alpha"] == DomainRecord("alpha", "beta", 4, {"speech": Assignment("gamma", 5)})


@pytest.mark.parametrize("standby", ["alpha", "beta", "delta"])
def test_a_standby_that_is_lost_itself_or_is_this_host_or_nobody_changes_nothing(standby: str) -> None:
    _, sent = beta_and(True, {SPEECH: standby}, DomainRecord("alpha", "alpha", 3))
    assert sent.puts["alpha"] == DomainRecord("alpha", "beta", 4)


def test_a_standby_without_a_sign_of_life_gets_nothing() -> None:
    _, sent = beta_and(False, {SPEECH: "gamma"}, DomainRecord("alpha", "alpha", 3))
    assert sent.puts["alpha"].exceptions == {}


def test_who_is_named_claims_before_it_acts() -> None:
    own = begin("gamma", Lease(boot_id="c"), WORKERS, {"alpha": 1, "beta": 0}, 0)
    own, _ = step(own, Tick(), 0, POLICY)
    domains = {"alpha": Known(3, DomainRecord("alpha", "alpha", 3))}
    own, _ = step(own, View(3, {"alpha": HostSeen(2), "beta": HostSeen(3)}, domains), MS, POLICY)
    own, _ = step(own, Acked(4), MS, POLICY)
    taken = DomainRecord("alpha", "beta", 4, {"speech": Assignment("gamma", 5)})
    own, actions = step(own, Noticed(domains={"alpha": Known(9, taken)}), 2 * MS, POLICY)
    assert own.acting_epoch("alpha", "speech", 2 * MS, POLICY) is None
    (sent,) = [a.transaction for a in actions if isinstance(a, Transact)]
    assert sent.puts["alpha"].exceptions == {"speech": Assignment("gamma", 6)}
    own, _ = step(own, Acked(10), 3 * MS, POLICY)
    assert own.acting_epoch("alpha", "speech", 3 * MS, POLICY) == 6
    assert own.acting_epoch("alpha", "memory", 3 * MS, POLICY) is None
