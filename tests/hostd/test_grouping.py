"""Writes and reads that travel together get the answers that they would have got alone."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.domains import Known
from services.hostd.gathering import AT_ONCE
from services.hostd.grouping import MAX_READS, MAX_SIZE, MAX_WRITES, GroupingStore
from services.registry.domains import NotPerformed, Performed, StateChange, StoredState
from services.registry.etcd_types import EtcdIndeterminate, EtcdUnavailable

DOMAIN = 7


@dataclass
class MemoryStore:
    """Values by agent and key, each with its revision. `plan`: what becomes of the next transactions."""

    plan: list[str] = field(default_factory=list)
    revision: int = 100
    values: dict[tuple[str, str], tuple[int, bytes]] = field(default_factory=dict)
    performed: list[bytes] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    under_way: int = 0
    most_under_way: int = 0

    async def write_states(
        self, home: str, changes: Iterable[StateChange], *, domain_revision: int, timeout_s: float
    ) -> Performed | NotPerformed:
        group = tuple(changes)
        assert len({change.agent for change in group}) == len(group) <= MAX_WRITES
        assert len(group) == 1 or sum(change.size for change in group) <= MAX_SIZE
        self.sizes.append(len(group))
        fate = self.plan.pop(0) if self.plan else "ok"
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        self.under_way -= 1
        if fate == "unavailable":
            raise EtcdUnavailable("not sent")
        if fate == "lost":
            raise EtcdIndeterminate("silent, and nothing was done")
        if domain_revision != DOMAIN or not all(self._holds(change) for change in group):
            return NotPerformed()
        self.revision += 1
        for change in group:
            for key, value in change.puts.items():
                self.values[change.agent, key] = (self.revision, value)
                self.performed.append(value)
        if fate == "silent":
            raise EtcdIndeterminate("silent, and it was done")
        return Performed(self.revision)

    def _holds(self, change: StateChange) -> bool:
        return all(
            self.values.get((change.agent, key), (0, b""))[0] == revision
            for key, revision in change.replaces.items()
        )

    async def read_states(self, agents: Sequence[str], *, timeout_s: float) -> tuple[StoredState, ...]:
        self.sizes.append(len(agents))
        await asyncio.sleep(0)
        if self.plan and self.plan.pop(0) == "unavailable":
            raise EtcdUnavailable("not sent")
        self.revision += 1
        return tuple(StoredState(self.revision, ((agent, b"", 1),)) for agent in agents)

    async def read_domain(self, home: str, *, timeout_s: float) -> Known | None:
        raise AssertionError


async def write(store: GroupingStore, agent: str, value: bytes, *, replaces: int = 0, keys: int = 1) -> str:
    try:
        answer = await store.write_state(
            agent,
            "home",
            domain_revision=DOMAIN,
            puts={str(n): value for n in range(keys)},
            deletes=(),
            replaces={"0": replaces},
            timeout_s=1.0,
        )
    except EtcdUnavailable:
        return "unavailable"
    except EtcdIndeterminate:
        return "unknown"
    return "done" if isinstance(answer, Performed) else "refused"


def test_a_few_writes_go_at_once_and_many_go_together() -> None:
    async def play() -> MemoryStore:
        memory = MemoryStore()
        store = GroupingStore(memory)
        told = await asyncio.gather(*(write(store, f"a{n}", b"%d" % n) for n in range(20)))
        assert told == ["done"] * 20
        return memory

    memory = asyncio.run(play())
    assert memory.sizes == [1, 1, 18]
    assert memory.most_under_way == AT_ONCE


def test_one_that_is_refused_spoils_nothing_for_the_others() -> None:
    async def play() -> list[str]:
        store = GroupingStore(MemoryStore())
        return await asyncio.gather(
            *(write(store, f"a{n}", b"%d" % n, replaces=55 if n == 9 else 0) for n in range(12))
        )

    assert asyncio.run(play()) == ["done"] * 9 + ["refused"] + ["done"] * 2


def test_silence_is_silence_for_all_and_nothing_is_sent_twice() -> None:
    async def play() -> tuple[list[str], list[bytes]]:
        memory = MemoryStore(plan=["ok", "ok", "silent"])
        store = GroupingStore(memory)
        told = await asyncio.gather(*(write(store, f"a{n}", b"%d" % n) for n in range(6)))
        return told, memory.performed

    told, performed = asyncio.run(play())
    assert told == ["done"] * 2 + ["unknown"] * 4
    assert sorted(performed) == [b"%d" % n for n in range(6)]


def test_reads_that_meet_go_together_and_each_gets_its_own_agent() -> None:
    async def play() -> MemoryStore:
        memory = MemoryStore()
        store = GroupingStore(memory)
        names = [f"a{n % 30}" for n in range(40)]
        states = await asyncio.gather(*(store.read_state(name, timeout_s=1.0) for name in names))
        assert [state.items[0][0] for state in states] == names
        return memory

    sizes = asyncio.run(play()).sizes
    assert sizes[:2] == [1, 1]
    assert len(sizes) == 5
    assert max(sizes) <= MAX_READS


def test_a_read_sees_what_was_acknowledged_before_it_was_asked_for() -> None:
    async def play() -> None:
        memory = MemoryStore()
        store = GroupingStore(memory)
        early = [asyncio.create_task(store.read_state("a", timeout_s=1.0)) for _ in range(3)]
        await asyncio.sleep(0)  # two are under way
        asked_at = memory.revision
        late = await store.read_state("a", timeout_s=1.0)
        await asyncio.gather(*early)
        assert late.revision > asked_at

    asyncio.run(play())


def test_a_read_without_an_answer_is_an_error_for_all_of_its_group() -> None:
    async def play() -> list[object]:
        store = GroupingStore(MemoryStore(plan=["ok", "ok", "unavailable"]))
        reads = (store.read_state(f"a{n}", timeout_s=1.0) for n in range(5))
        return list(await asyncio.gather(*reads, return_exceptions=True))

    told = asyncio.run(play())
    assert [isinstance(one, EtcdUnavailable) for one in told] == [False, False, True, True, True]


@pytest.mark.parametrize(("keys", "sizes"), [(1, [1, 1, 8]), (60, [1, 1, 2, 2, 2, 2]), (200, [1] * 10)])
def test_a_transaction_stays_within_what_etcd_takes(keys: int, sizes: list[int]) -> None:
    async def play() -> list[int]:
        memory = MemoryStore()
        store = GroupingStore(memory)
        await asyncio.gather(*(write(store, f"a{n}", b"%d" % n, keys=keys) for n in range(10)))
        return memory.sizes

    assert asyncio.run(play()) == sizes


@given(
    st.lists(st.tuples(st.integers(0, 4), st.booleans()), max_size=30),
    st.lists(st.sampled_from(("ok", "ok", "silent", "lost", "unavailable")), max_size=20),
)
def test_every_writer_hears_what_became_of_its_write(writes: list[tuple[int, bool]], plan: list[str]) -> None:
    async def play() -> None:
        memory = MemoryStore(plan=list(plan))
        store = GroupingStore(memory)
        values = [b"%d" % number for number in range(len(writes))]

        async def one(number: int) -> str:
            agent, sound = writes[number]
            # As an agent does: it compares what it wrote last, or whatever stands there.
            stands = memory.values.get((f"a{agent}", "0"), (0, b""))[0]
            replaces = stands if sound else 1
            return await write(store, f"a{agent}", values[number], replaces=replaces)

        async with asyncio.timeout(10):
            told = await asyncio.gather(*(one(number) for number in range(len(writes))))
        for number, outcome in enumerate(told):
            times = memory.performed.count(values[number])
            assert times <= 1
            if outcome != "unknown":
                assert times == (outcome == "done"), (number, outcome)
            if not writes[number][1]:
                assert outcome != "done"
        if set(plan) <= {"ok"} and len({agent for agent, _ in writes}) == len(writes):
            assert told == ["done" if sound else "refused" for _, sound in writes]

    asyncio.run(play())
