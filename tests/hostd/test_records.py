"""Records reach etcd in order, the latest last, whatever is refused, lost or late."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Sequence
from typing import cast

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.hostd import records
from services.hostd.records import RecordWriter
from services.registry.etcd import EtcdClient
from services.registry.etcd_types import (
    Compare,
    Delete,
    EtcdIndeterminate,
    EtcdUnavailable,
    KeyValue,
    Op,
    Put,
    TxnResult,
)


class FakeEtcd:
    """Compare-and-swap by modification revision; `mood()` says what happens to the next request."""

    def __init__(self, mood: Sequence[str] = ()) -> None:
        self.revision = 1
        self.store: dict[str, tuple[bytes, int]] = {}
        self.mood = list(mood)
        self.late: list[tuple[tuple[Compare, Op], ...]] = []
        self.history: list[bytes | None] = []
        self.gate: asyncio.Event | None = None
        self.reads = 0
        self.sizes: list[int] = []

    def client(self) -> EtcdClient:
        return cast(EtcdClient, self)

    async def get(self, key: str, *, timeout_s: float | None = None) -> KeyValue | None:
        self.reads += 1
        await self._pause()
        if self._next() in ("down", "lost", "late"):
            raise EtcdUnavailable("away")
        found = self.store.get(key)
        return None if found is None else KeyValue(key, found[0], 1, found[1], 1)

    async def txn(
        self, compare: Sequence[Compare], success: Sequence[Op], *, timeout_s: float | None = None
    ) -> TxnResult:
        await self._pause()
        self.sizes.append(len(success))
        mood = self._next()
        if mood == "down":
            raise EtcdUnavailable("away")
        parts = tuple(zip(compare, success, strict=True))
        if mood == "late":
            self.late.append(parts)
            raise EtcdIndeterminate("no answer, done later")
        done = self._perform(parts)
        if mood == "lost":
            raise EtcdIndeterminate("done, answer lost")
        return TxnResult(done, self.revision, ())

    def perform_late(self) -> None:
        for parts in self.late:
            self._perform(parts)
        self.late.clear()

    def _perform(self, parts: tuple[tuple[Compare, Op], ...]) -> bool:
        if any(self.store.get(compare.key, (b"", 0))[1] != compare.operand for compare, _ in parts):
            return False
        self.revision += 1
        for _, op in parts:
            if isinstance(op, Put):
                self.store[op.key] = (op.value, self.revision)
                self.history.append(op.value)
            elif isinstance(op, Delete):
                self.store.pop(op.key, None)
                self.history.append(None)
        return True

    async def _pause(self) -> None:
        if self.gate is not None:
            await self.gate.wait()
        await asyncio.sleep(0)

    def _next(self) -> str:
        return self.mood.pop(0) if self.mood else "ok"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "RETRY_S", 0.0)
    monkeypatch.setattr(records, "RETRY_CAP_S", 0.0)


async def settled(writer: RecordWriter) -> None:
    async with asyncio.timeout(5):
        while writer.pending:  # noqa: ASYNC110 - the writer's own signal is what is tested
            await asyncio.sleep(0)


async def test_the_latest_value_wins_and_those_between_are_never_sent() -> None:
    etcd = FakeEtcd()
    etcd.gate = asyncio.Event()
    writer = RecordWriter(etcd.client())
    for value in (b"1", b"2", b"3", b"4"):
        writer.put("k", value)
        await asyncio.sleep(0)
    etcd.gate.set()
    await settled(writer)
    assert etcd.store["k"][0] == b"4"
    assert len(etcd.history) <= 2


async def test_one_key_that_hangs_does_not_hold_up_another() -> None:
    etcd = FakeEtcd()
    writer = RecordWriter(etcd.client())
    etcd.gate = asyncio.Event()
    writer.put("slow", b"1")
    await asyncio.sleep(0)
    slow_gate, etcd.gate = etcd.gate, None
    assert await writer.settle("fast", b"2", 5) > 0
    assert "slow" not in etcd.store
    slow_gate.set()
    await settled(writer)
    assert etcd.store["slow"][0] == b"1"


async def test_the_same_value_is_written_once_and_again_after_etcd_forgot() -> None:
    etcd = FakeEtcd()
    writer = RecordWriter(etcd.client())
    await writer.settle("k", b"1", 5)
    await writer.settle("k", b"1", 5)
    assert etcd.history == [b"1"]
    etcd.store.clear()
    writer.forget()
    await writer.settle("k", b"1", 5)
    assert etcd.store["k"][0] == b"1"


async def test_deleting_what_is_not_there_is_done() -> None:
    etcd = FakeEtcd()
    writer = RecordWriter(etcd.client())
    await writer.settle("k", None, 5)
    assert etcd.history == []


async def test_who_waits_too_long_is_told_and_the_write_goes_on() -> None:
    etcd = FakeEtcd()
    etcd.gate = asyncio.Event()
    writer = RecordWriter(etcd.client())
    with pytest.raises(TimeoutError):
        await writer.settle("k", b"1", 0.01)
    etcd.gate.set()
    await settled(writer)
    assert etcd.store["k"][0] == b"1"


async def test_writes_that_meet_go_together_and_what_the_watch_told_spares_a_read() -> None:
    etcd = FakeEtcd()
    etcd.store["k3"] = (b"of an earlier life", 1)
    writer = RecordWriter(etcd.client())
    writer.told({"k3": 1})
    for number in range(20):
        writer.put(f"k{number}", b"%d" % number)
    await settled(writer)
    assert etcd.store.keys() == {f"k{number}" for number in range(20)}
    assert etcd.store["k3"][0] == b"3"
    assert etcd.sizes == [1, 1, 18]
    assert etcd.reads == 0


async def test_a_revision_that_is_not_so_any_more_is_looked_up() -> None:
    etcd = FakeEtcd()
    etcd.store |= {"k": (b"newer than what was told", 1), "other": (b"0", 1)}
    writer = RecordWriter(etcd.client())
    writer.told({"other": 1})
    writer.put("k", b"ours")
    writer.put("other", b"1")
    writer.put("more", b"2")
    writer.put("most", b"3")
    await settled(writer)
    assert {key: value for key, (value, _) in etcd.store.items()} == {
        "k": b"ours",
        "other": b"1",
        "more": b"2",
        "most": b"3",
    }
    assert etcd.reads == 1


async def test_after_the_store_went_back_nothing_that_was_told_counts() -> None:
    etcd = FakeEtcd()
    writer = RecordWriter(etcd.client())
    writer.told({})
    writer.forget()
    writer.put("k", b"1")
    await settled(writer)
    assert etcd.reads == 1


@settings(max_examples=200, deadline=None)
# A deletion in doubt, then the value that was there is wanted again and read: the deletion must not undo it.
@example([("b", 0), ("b", None), ("b", 0)], ["ok", "ok", "late"], None, 0)
@given(
    st.lists(st.tuples(st.sampled_from("abcd"), st.one_of(st.none(), st.integers(0, 5))), min_size=1),
    st.lists(st.sampled_from(["ok", "down", "lost", "late"]), max_size=25),
    # What a watch tells is of the past: no revision that the store has not had yet.
    st.one_of(st.none(), st.dictionaries(st.sampled_from("abcd"), st.integers(0, 1))),
    st.integers(0, 2**32),
)
def test_in_the_end_etcd_holds_the_last_wishes(
    wishes: list[tuple[str, int | None]], mood: list[str], told: dict[str, int] | None, seed: int
) -> None:
    async def scenario() -> None:
        choose = random.Random(seed)
        etcd = FakeEtcd(mood)
        writer = RecordWriter(etcd.client())
        if told is not None:
            writer.told(told)
        for key, wish in wishes:
            if wish is None:
                writer.delete(key)
            else:
                writer.put(key, b"%d" % wish)
            for _ in range(choose.randrange(6)):
                await asyncio.sleep(0)
            if choose.random() < 0.3:
                etcd.perform_late()
        await settled(writer)
        acknowledged = dict(etcd.store)
        etcd.perform_late()
        for key, wish in dict(wishes).items():
            if wish is None and key in etcd.store:
                # What comparisons cannot prevent: a late creation after a deletion. The watch shows it.
                writer.repair(key)
                await settled(writer)
            else:
                assert etcd.store.get(key) == acknowledged.get(key), "a late write undid a newer one"
            expected = None if wish is None else b"%d" % wish
            assert etcd.store.get(key, (None, 0))[0] == expected

    records.RETRY_S, records.RETRY_CAP_S = 0.0, 0.0
    asyncio.run(scenario())
