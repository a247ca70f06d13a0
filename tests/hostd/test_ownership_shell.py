"""The shell of ownership over a store in memory: outcomes are reported once, late ones change nothing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

import pytest

from services.agent.errors import CallError
from services.agent.fence import Allowance
from services.agent.store import StateWrite
from services.control.domains import DomainRecord, Known, Transaction, Unit
from services.control.holdings import Effect, HostSeen, Noticed, OwnershipPolicy, View, WriteFence
from services.control.lease import LeasePolicy
from services.control.stances import Do
from services.hostd.ownership import HostOwnership, _ranks
from services.hostd.state import StateDoor
from services.hostd.watchdog import KILL_AFTER_NS, Watch, overdue_ns
from services.registry.domains import NotPerformed, Performed, StoredState, decode_domain, encode_domain
from services.registry.etcd_types import EtcdIndeterminate, EtcdUnavailable
from services.registry.store import RecordError

MS = 1_000_000
POLICY = OwnershipPolicy(
    lease=LeasePolicy(lease_ns=60_000 * MS, margin_ns=100 * MS, renew_ns=1 * MS, deadline_ns=50 * MS)
)


class MemoryEtcd:
    """One linearizable store for several hosts; `plan` holds what happens to the next transactions."""

    def __init__(self) -> None:
        self.revision = 1
        self.values: dict[str, tuple[int, object]] = {}
        self.plan: list[str] = []
        self.transactions = 0

    def revision_of(self, key: str) -> int:
        return self.values.get(key, (0, None))[0]


class MemoryStore:
    """`DomainStore` of one host over it."""

    def __init__(self, etcd: MemoryEtcd, host: str, boot_id: str) -> None:
        self._etcd, self._host, self._boot_id = etcd, host, boot_id

    async def read_all(self, *, timeout_s: float) -> View:
        hosts, domains = {}, {}
        for key, (revision, value) in self._etcd.values.items():
            kind, name = key.split("/")
            if kind == "hosts":
                assert isinstance(value, tuple)
                hosts[name] = HostSeen(revision, *value)
            else:
                assert isinstance(value, DomainRecord)
                domains[name] = Known(revision, value)
        return View(self._etcd.revision, hosts, domains)

    async def transact(self, wanted: Transaction, *, timeout_s: float) -> Performed | NotPerformed:
        etcd = self._etcd
        etcd.transactions += 1
        outcome = etcd.plan.pop(0) if etcd.plan else "ok"
        if outcome == "unreachable":
            raise EtcdUnavailable("nobody there")
        if outcome == "lost":
            raise EtcdIndeterminate("silence")
        compared = {f"hosts/{self._host}": wanted.host_revision}
        compared |= {f"domains/{home}": revision for home, revision in wanted.domains.items()}
        compared |= {f"hosts/{peer}": revision for peer, revision in wanted.peers.items()}
        if any(etcd.revision_of(key) != revision for key, revision in compared.items()):
            return NotPerformed()
        etcd.revision += 1
        own = (self._boot_id, wanted.host_epoch, wanted.host_seq)
        etcd.values[f"hosts/{self._host}"] = (etcd.revision, own)
        for home, record in wanted.puts.items():
            etcd.values[f"domains/{home}"] = (etcd.revision, record)
        if outcome == "lost-answer":
            raise EtcdIndeterminate("silence")
        return Performed(etcd.revision)

    def is_host(self, key: str) -> bool:
        return key.startswith("hosts/")

    def is_domain(self, key: str) -> bool:
        return key.startswith("domains/")


class Diary:
    """A household that writes down what it is told."""

    def __init__(self) -> None:
        self.allowances: list[Allowance] = []
        self.effects: list[tuple[Do, Unit, int]] = []
        self.fences = 0
        self._told: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def allow(self, allowance: Allowance) -> None:
        self.allowances.append(allowance)
        self.learned()

    def effect(self, effect: Effect) -> None:
        allowed = self.allowances[-1].serving if self.allowances else {}
        if effect.do is Do.PROMOTE:
            assert allowed[str(effect.unit)] == effect.epoch, "the fence opens before the agents are promoted"
        self.effects.append((effect.do, effect.unit, effect.epoch))
        self.learned()

    def fenced(self, units: tuple[Unit, ...]) -> None:
        self.fences += 1
        self.learned()

    def learned(self) -> None:
        for wanted, waiter in self._told:
            if not waiter.done() and wanted():
                waiter.set_result(None)

    async def until(self, wanted: Callable[[], bool]) -> None:
        if wanted():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._told.append((wanted, waiter))
        async with asyncio.timeout(10):
            await waiter


class Node:
    """The shell of one host; time is the test's."""

    def __init__(self, etcd: MemoryEtcd, host: str, clock: list[int], boot_id: str = "b") -> None:
        self.diary = Diary()
        self.epochs: list[int] = []
        self.shell = HostOwnership(
            MemoryStore(etcd, host, boot_id),  # type: ignore[arg-type]
            host=host,
            workers=("h1", "h2"),
            boot_id=boot_id,
            floor_epoch=0,
            policy=POLICY,
            now_ns=lambda: clock[0],
            household=self.diary,
            on_epoch=self.epochs.append,
            on_renewal=lambda seconds: None,
        )


def promoted(node: Node, unit: Unit) -> bool:
    return any(do is Do.PROMOTE and what == unit for do, what, _ in node.diary.effects)


@pytest.mark.parametrize(
    "plan", [[], ["unreachable"], ["lost"], ["lost-answer"], ["lost-answer", "lost", "lost"]]
)
async def test_a_host_claims_its_own_domain_whatever_the_first_answers_are(plan: list[str]) -> None:
    etcd, clock = MemoryEtcd(), [1_000 * MS]
    etcd.plan = list(plan)
    node = Node(etcd, "h1", clock)
    running = asyncio.create_task(node.shell.run())
    ticking = asyncio.create_task(_tick(clock))
    await node.diary.until(lambda: promoted(node, Unit("h1")))
    assert node.shell.held()
    assert node.shell.acting_epoch("h1", "a") == node.diary.effects[-1][2]
    assert node.shell.acting_epoch("h2", "a") is None, "the peer may still come"
    fence = node.shell.write_fence("h1", "a")
    assert fence is not None
    assert fence.revision == etcd.revision_of("domains/h1")
    running.cancel()
    ticking.cancel()


async def _tick(clock: list[int]) -> None:
    while True:
        await asyncio.sleep(0.001)
        clock[0] += MS


async def test_a_peer_that_falls_silent_is_suspected_long_before_it_may_be_followed() -> None:
    etcd, clock = MemoryEtcd(), [1_000 * MS]
    node = Node(etcd, "h1", clock)
    running = asyncio.create_task(node.shell.run())
    ticking = asyncio.create_task(_tick(clock))
    await node.diary.until(lambda: promoted(node, Unit("h1")))
    ticking.cancel()
    for revision in (5_000, 5_001):
        node.shell.feed(Noticed({"h2": revision}, {}))
        await asyncio.sleep(0.01)
    clock[0] += POLICY.lease.lease_ns // 2 - 1
    node.shell.feed(Noticed({}, {}))
    await asyncio.sleep(0.01)
    assert not node.shell.suspects("h2")
    clock[0] += 1
    node.shell.feed(Noticed({}, {}))
    await node.diary.until(lambda: node.shell.suspects("h2"))
    assert node.shell.alive("h2"), "nobody follows it yet"
    assert not any(unit.home == "h2" for _, unit, _ in node.diary.effects)
    running.cancel()


async def test_a_second_daemon_of_the_same_host_ends_the_first() -> None:
    etcd, clock = MemoryEtcd(), [1_000 * MS]
    first = Node(etcd, "h1", clock, "first")
    running = asyncio.create_task(first.shell.run())
    ticking = asyncio.create_task(_tick(clock))
    await first.diary.until(lambda: promoted(first, Unit("h1")))
    second = Node(etcd, "h1", clock, "second")
    after = asyncio.create_task(second.shell.run())
    async with asyncio.timeout(10):
        await running
    assert first.shell.replaced
    assert first.diary.allowances[-1] == Allowance(), "its fence is down"
    await second.diary.until(lambda: promoted(second, Unit("h1")))
    assert second.diary.effects[-1][2] > first.diary.effects[0][2], "epochs rise"
    after.cancel()
    ticking.cancel()


async def test_past_the_deadline_the_fence_is_down_before_anything_else_happens() -> None:
    etcd, clock = MemoryEtcd(), [1_000 * MS]
    node = Node(etcd, "h1", clock)
    running = asyncio.create_task(node.shell.run())
    ticking = asyncio.create_task(_tick(clock))
    await node.diary.until(lambda: promoted(node, Unit("h1")))
    etcd.plan = ["unreachable"] * 100_000
    clock[0] += 61_000 * MS  # frozen, and thawed
    await node.diary.until(lambda: node.diary.fences == 1)
    assert node.diary.allowances[-1] == Allowance()
    assert node.shell.acting_epoch("h1", "a") is None
    assert node.shell.write_fence("h1", "a") is None
    etcd.plan = []
    await node.diary.until(lambda: bool(node.diary.allowances[-1].serving))
    assert node.shell.acting_epoch("h1", "a") is not None, "nobody took it in the meantime"
    running.cancel()
    ticking.cancel()


async def test_who_stands_by_is_told_to_the_core_when_it_changes() -> None:
    etcd, clock = MemoryEtcd(), [1_000 * MS]
    node = Node(etcd, "h1", clock)
    running = asyncio.create_task(node.shell.run())
    ticking = asyncio.create_task(_tick(clock))
    wanted = {Unit("h2", "a"): "h1"}
    node.shell.stand_by(wanted)
    await node.diary.until(lambda: promoted(node, Unit("h1")))
    assert node.shell.state.standbys == wanted
    node.shell.stand_by(dict(wanted))
    assert not node.shell._events, "nothing has changed"
    running.cancel()
    ticking.cancel()


async def test_a_host_that_stands_back_follows_nobody_until_told_otherwise() -> None:
    shell = Node(MemoryEtcd(), "h1", [1_000 * MS]).shell
    before = shell.state
    shell.stand_back(True)
    assert shell.state.ranks == {}
    shell.stand_back(False)
    assert shell.state == before


def test_challengers_take_turns() -> None:
    assert _ranks("a", ("a", "b", "c")) == {"b": 1, "c": 0}
    assert _ranks("b", ("a", "b", "c")) == {"a": 0, "c": 1}
    assert _ranks("c", ("a", "b", "c")) == {"a": 1, "b": 0}


def test_a_domain_record_reads_as_it_was_written_and_damage_names_the_key() -> None:
    record = DomainRecord("h1", "h2", 7).assigned((Unit("h1", "a"),), "h1")
    assert decode_domain("domains/h1", encode_domain(record)) == record
    assert b'"except":{"a":{"holder":"h1","epoch":8}}' in encode_domain(record)
    with pytest.raises(RecordError, match="domains/h1"):
        decode_domain("domains/h1", b"{")


class Owner:
    """Says what it was set to; a Noticed moves it on."""

    def __init__(self, fence: WriteFence | None) -> None:
        self.fence = fence

    def write_fence(self, home: str, agent: str) -> WriteFence | None:
        return self.fence

    def feed(self, event: Noticed) -> None:
        known = event.domains["h1"]
        self.fence = WriteFence(known.revision, known.record.assignment("a").epoch)


class StateStore:
    """etcd's part of a state write; `plan` holds errors to raise first."""

    def __init__(self, known: Known | None, plan: list[Exception]) -> None:
        self.known, self.plan, self.written = known, plan, 0

    async def write_state(
        self, agent: str, home: str, *, domain_revision: int, timeout_s: float, **_: object
    ) -> Performed | NotPerformed:
        if self.plan:
            error = self.plan.pop(0)
            if isinstance(error, Moved):
                return NotPerformed()
            raise error
        if self.known is None or self.known.revision != domain_revision:
            return NotPerformed()
        self.written += 1
        return Performed(99)

    async def read_state(self, agent: str, *, timeout_s: float) -> StoredState:
        raise AssertionError

    async def read_domain(self, home: str, *, timeout_s: float) -> Known | None:
        return self.known


class Moved(Exception):
    """Not raised: the comparison of the value fails."""


OURS = Known(5, DomainRecord("h1", "h1", 3))


@pytest.mark.parametrize(
    ("fence", "known", "plan", "outcome"),
    [
        (WriteFence(5, 3), OURS, [], "ok"),
        (None, OURS, [], "fenced"),  # past the deadline
        (WriteFence(5, 4), OURS, [], "fenced"),  # the agent was promoted to another epoch
        (WriteFence(4, 3), OURS, [], "ok"),  # another unit of the domain moved: compare the new revision
        (WriteFence(5, 3), Known(6, DomainRecord("h1", "h2", 4)), [], "fenced"),  # an old owner
        (WriteFence(5, 3), Known(6, DomainRecord("h1", "h1", 4)), [], "fenced"),  # ours, at a newer epoch
        (WriteFence(5, 3), None, [], "fenced"),
        (WriteFence(5, 3), OURS, [EtcdUnavailable("x")], "ok"),  # nothing was sent: again
        (WriteFence(5, 3), OURS, [EtcdIndeterminate("x")], "indeterminate"),  # never sent twice
        (WriteFence(5, 3), OURS, [Moved()], "changed"),  # the domain stands, so the value has moved
    ],
)
async def test_a_state_write_is_performed_at_its_epoch_or_refused(
    fence: WriteFence | None, known: Known | None, plan: list[Exception], outcome: str
) -> None:
    store = StateStore(known, plan)
    door = StateDoor("h1", store, Owner(fence), None)  # type: ignore[arg-type]
    try:
        assert await door.perform(StateWrite("a", 1, 3, {"k": b"\x01"}), "h1") == 99
        told = "ok"
    except CallError as error:
        told = error.code
    assert told == outcome
    assert store.written == (outcome == "ok")


@pytest.mark.parametrize(
    ("allowance", "now_ns", "late_ns"),
    [
        (Allowance(), 10**18, None),  # hostd has emptied the fence itself
        (Allowance(deadline_ns=100, serving={"h": 1}), 90, -60),
        (Allowance(deadline_ns=100, serving={"h": 1}), 150, 0),
        (Allowance(deadline_ns=100, serving={"h": 1}), 160, 10),
    ],
)
def test_when_the_watchdog_acts(allowance: Allowance, now_ns: int, late_ns: int | None) -> None:
    assert overdue_ns(allowance, now_ns, 50) == late_ns


SERVING = Allowance(deadline_ns=1_000 * MS, serving={"h": 4})


@pytest.mark.parametrize(
    ("what", "then", "after_ms", "told"),
    [
        ("hostd was late and serves on", Allowance(deadline_ns=2_000 * MS, serving={"h": 4}), 20, "CONT"),
        ("hostd fences itself", Allowance(), 20, ""),
        ("hostd stays silent", SERVING, KILL_AFTER_NS // MS, "KILL"),
        ("another life has claimed", Allowance(deadline_ns=2_000 * MS, serving={"h": 5}), 20, "KILL"),
        ("a unit is gone", Allowance(deadline_ns=2_000 * MS, serving={"h": 4, "h/a": 5}), 20, "KILL"),
        (
            "an agent is withheld",
            Allowance(deadline_ns=2_000 * MS, serving={"h": 4}, withheld=frozenset({"h/a"})),
            20,
            "KILL",
        ),
    ],
)
def test_what_becomes_of_agents_that_the_watchdog_stopped(
    what: str, then: Allowance, after_ms: int, told: str
) -> None:
    signals: list[str] = []

    def tell(number: signal.Signals) -> tuple[str, ...]:
        signals.append(number.name.removeprefix("SIG"))
        return ("a",)

    watch = Watch(tell, 50 * MS)
    watch.look(SERVING, 1_049 * MS)
    assert signals == []
    watch.look(SERVING, 1_050 * MS)
    assert signals == ["STOP"]
    watch.look(SERVING, 1_060 * MS)
    assert signals == ["STOP"]
    watch.look(then, (1_050 + after_ms) * MS)
    assert signals == ["STOP", *([told] if told else [])]
    if then == SERVING:
        watch.look(then, (1_100 + after_ms) * MS)
        assert signals == ["STOP", "KILL"], "once"
