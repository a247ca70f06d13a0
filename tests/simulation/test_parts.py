"""The parts of the simulator, each against something simpler than itself."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.domains import DomainRecord, Transaction
from verification.simulation.etcd_model import ACKED, REFUSED, Answer, Cluster, StateWrite, Store
from verification.simulation.network import LINK_NS, Network, Noise
from verification.simulation.registers import NEVER, Op, fault_of
from verification.simulation.world import MS, Clock, S, World

# Clocks.


@given(st.integers(-40_000, 40_000), st.integers(0, 10**15), st.integers(0, 10**15))
def test_a_clock_reaches_a_time_at_the_first_instant_that_shows_it(ppm: int, start: int, ahead: int) -> None:
    clock = Clock(ppm, start)
    at = clock.true(start + ahead)
    assert clock.local(at) >= start + ahead
    assert at == 0 or clock.local(at - 1) < start + ahead


def test_a_change_of_rate_does_not_make_a_clock_jump() -> None:
    clock = Clock(40_000, 5 * S)
    before = clock.local(10 * S)
    clock.set_rate(10 * S, -40_000)
    assert clock.local(10 * S) == before
    assert clock.local(11 * S) - before == S * 96 // 100


def test_cancelled_events_neither_happen_nor_keep_the_world_busy() -> None:
    world = World(1)
    heard: list[str] = []
    keep = world.at(5, heard.append, "kept")
    gone = world.at(3, heard.append, "gone")
    world.later_idle(4, heard.append, "idle")
    world.cancel(gone)
    world.cancel(gone)
    assert world.live == 1
    while world.step():
        pass
    assert heard == ["idle", "kept"]
    assert world.live == 0
    assert keep[2] is None


# The network.


def test_a_cut_is_one_way_and_counted() -> None:
    network = Network(random.Random(1))
    network.cut("a", "b")
    network.cut("a", "b")
    network.heal("a", "b")
    assert network.delay("a", "b") is None
    assert network.delay("b", "a") == LINK_NS
    network.heal("a", "b")
    assert network.whole


def test_a_calm_link_draws_nothing_and_a_noisy_one_loses_and_delays() -> None:
    rng = random.Random(1)
    network, state = Network(rng), rng.getstate()
    assert network.delay("a", "b") == LINK_NS
    assert rng.getstate() == state
    network.disturb("a", "b", Noise(0.3, 100 * MS, 0.5))
    drawn = [network.delay("a", "b") for _ in range(400)]
    lost = drawn.count(None)
    assert 60 < lost < 180
    assert max(d for d in drawn if d is not None) > 50 * MS
    assert any(network.doubled("a", "b") for _ in range(20))


# The store.


def renewal(revision: int, seq: int, **more: object) -> Transaction:
    return Transaction(revision, 1, seq, more.pop("domains", {}), **more)  # type: ignore[arg-type]


def test_a_transaction_is_performed_whole_or_not_at_all() -> None:
    store = Store()
    record = DomainRecord("a", "a", 1)
    first = store.transact("a", "x", renewal(0, 1, domains={"a": 0}, puts={"a": record}))
    assert (first.kind, first.revision) == (ACKED, 2)
    for wrong in (
        renewal(0, 2),
        renewal(2, 2, domains={"a": 1}),
        renewal(2, 2, peers={"b": 7}),
        renewal(2, 2, present=("b",)),
    ):
        assert store.transact("a", "x", wrong).kind == REFUSED
    assert store.revision == 2
    assert store.transact("a", "x", renewal(2, 2, domains={"a": 2}, peers={"b": 0})).kind == ACKED


def test_a_state_write_is_refused_once_the_record_or_the_value_has_moved() -> None:
    store = Store()
    store.transact("a", "x", renewal(0, 1, domains={"a": 0}, puts={"a": DomainRecord("a", "a", 1)}))
    assert store.write(StateWrite("m", "a", "a", 1, 10, 2, 0)).kind == ACKED
    assert store.write(StateWrite("m", "a", "a", 1, 11, 1, 3)).kind == REFUSED
    assert store.write(StateWrite("m", "a", "a", 1, 11, 2, 0)).kind == REFUSED
    assert store.write(StateWrite("m", "a", "a", 1, 11, 2, 3)).kind == ACKED


def cluster() -> tuple[World, Network, Cluster]:
    world = World(3)
    network = Network(world.random)
    return world, network, Cluster(world, network, ("a", "b", "w"), preferred="w")


def performing(done: list[int]) -> Callable[[], Answer]:
    def perform() -> Answer:
        done.append(1)
        return Answer(ACKED)

    return perform


def drained(world: World) -> None:
    while world.step():
        pass


def test_without_a_majority_nothing_is_performed() -> None:
    world, network, etcd = cluster()
    for other in ("b", "w"):
        network.cut("a", other)
        network.cut(other, "a")
    etcd.reassess()
    performed: list[int] = []
    etcd.submit("a", "a", performing(performed), lambda _a: None, True)
    drained(world)
    assert performed == []
    assert etcd.leader == "w"


def test_an_answer_can_be_lost_after_its_request_was_performed() -> None:
    world, network, etcd = cluster()
    performed: list[int] = []
    heard: list[Answer] = []
    etcd.submit("a", "b", performing(performed), heard.append, True)
    network.cut("b", "a")
    drained(world)
    assert (performed, heard) == ([1], [])


def test_a_leader_that_goes_is_followed_and_what_was_under_way_is_performed_late_or_never() -> None:
    outcomes = set()
    for seed in range(20):
        world = World(seed)
        network = Network(world.random)
        etcd = Cluster(world, network, ("a", "b", "w"), preferred="w")
        performed: list[int] = []
        etcd.submit("a", "a", performing(performed), lambda _a: None, True)
        etcd.down["w"] = 1
        etcd.reassess()
        drained(world)
        assert etcd.leader in ("a", "b")
        outcomes.add(tuple(performed))
    assert outcomes == {(), (1,)}


# Registers.


def naively_linearizable(ops: list[Op]) -> bool:
    """Tries every order that respects real time; unknown writes may be left out."""
    unknown = [op for op in ops if op.writes and op.end_ns == NEVER]
    for left_out in range(len(unknown) + 1):
        for dropped in itertools.combinations(unknown, left_out):
            kept = [op for op in ops if op not in dropped]
            if any(_legal(order) for order in itertools.permutations(kept)):
                return True
    return False


def _legal(order: tuple[Op, ...]) -> bool:
    value = 0
    for place, op in enumerate(order):
        if any(later.end_ns < op.start_ns for later in order[place + 1 :]):
            return False
        if op.writes:
            value = op.value
        elif op.value != value:
            return False
    return True


@st.composite
def histories(draw: st.DrawFn) -> list[Op]:
    instants = draw(st.permutations(range(12)))
    ops, writes = [], 0
    for place in range(draw(st.integers(0, 5))):
        start, end = sorted(instants[2 * place : 2 * place + 2])
        if draw(st.booleans()):
            writes += 1
            ops.append(Op(True, writes, start, NEVER if draw(st.booleans()) else end))
        else:
            ops.append(Op(False, draw(st.integers(0, 3)), start, end))
    return ops


@given(histories())
def test_the_register_checker_agrees_with_trying_every_order(ops: list[Op]) -> None:
    assert (fault_of(ops) is None) == naively_linearizable(ops)


@pytest.mark.parametrize(
    ("ops", "word"),
    [
        ([Op(True, 1, 0, 1), Op(True, 2, 2, 3), Op(False, 1, 4, 5)], "read"),
        ([Op(False, 7, 0, 1)], "nobody wrote"),
        ([Op(False, 1, 0, 1), Op(True, 1, 2, 3)], "before it was written"),
        ([Op(True, 1, 0, 1), Op(True, 1, 2, 3)], "twice"),
    ],
)
def test_what_is_wrong_is_said(ops: list[Op], word: str) -> None:
    fault = fault_of(ops)
    assert fault is not None
    assert word in fault
