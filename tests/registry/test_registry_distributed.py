"""The distributed tier: saved, loaded, damaged, slow, away; never in discovery's way."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.servers import redis_server
from services.registry.distributed import (
    DistributedSaver,
    DistributedTier,
    RedisAddress,
    TierUnavailable,
    connect,
)
from services.registry.tiers import distributed_ttl_s
from services.registry.view import Change
from services.registry.watcher import Update
from tests.registry.pki import make_pki
from tests.registry.snapshots import fleet


class Memory:
    """A Redis of one key."""

    def __init__(self, fails: Exception | None = None) -> None:
        self.value: bytes | None = None
        self.ex = 0
        self.sets = 0
        self.fails = fails

    async def get(self, name: str) -> bytes | None:
        if self.fails:
            raise self.fails
        return self.value

    async def set(self, name: str, value: bytes, *, ex: int) -> object:
        if self.fails:
            raise self.fails
        self.value, self.ex, self.sets = value, ex, self.sets + 1
        return True

    async def aclose(self) -> None:
        pass


class Hung(Memory):
    async def get(self, name: str) -> bytes | None:
        await asyncio.Event().wait()
        return None

    async def set(self, name: str, value: bytes, *, ex: int) -> object:
        await asyncio.Event().wait()
        return None


def tier(*stores: Memory, timeout_s: float = 1.0) -> DistributedTier:
    return DistributedTier(stores, stack="t", host="pc2", timeout_s=timeout_s, wall_s=lambda: 12.0)


async def test_round_trip() -> None:
    store = Memory()
    entries = fleet(["a", "b"], 3)
    assert await tier(store).load() is None
    await tier(store).save(entries, 77, unchanged_s=60)
    saved = await tier(store).load()
    assert saved is not None
    assert (saved.entries, saved.revision, saved.saved_by, saved.saved_unix_s) == (entries, 77, "pc2", 12.0)
    assert store.ex == 360


@pytest.mark.parametrize(
    ("unchanged_s", "ttl_s"), [(-5, 300), (0, 300), (1, 301), (1499.9, 1799), (1500, 1800), (1e9, 1800)]
)
def test_ttl_by_stability(unchanged_s: float, ttl_s: int) -> None:
    assert distributed_ttl_s(unchanged_s) == ttl_s


@given(st.data())
def test_damage_is_noticed(data: st.DataObject) -> None:
    async def run() -> None:
        store = Memory()
        await tier(store).save(fleet(["a"], 1), 1, unchanged_s=0)
        assert store.value is not None
        harmed = bytearray(store.value)
        if data.draw(st.booleans()):
            harmed[data.draw(st.integers(0, len(harmed) - 1))] ^= 1 << data.draw(st.integers(0, 7))
        else:
            del harmed[data.draw(st.integers(0, len(harmed) - 1)) :]
        store.value = bytes(harmed)
        with pytest.raises(TierUnavailable, match="checksum"):
            await tier(store).load()

    asyncio.run(run())


async def test_the_next_store_is_asked_within_the_deadline() -> None:
    replica, good = Memory(fails=OSError("read only")), Memory()
    both = tier(Hung(), replica, good, timeout_s=0.6)
    await both.save(fleet(["a"], 1), 5, unchanged_s=0)
    saved = await both.load()
    assert saved is not None
    assert saved.revision == 5
    with pytest.raises(TierUnavailable, match="no answer in time; no answer in time"):
        await tier(Hung(), Hung(), timeout_s=0.1).load()
    with pytest.raises(TierUnavailable, match="there is no Redis"):
        await tier().load()


async def test_saver_keeps_the_newest_and_survives_an_absent_redis() -> None:
    store = Memory(fails=OSError("away"))
    saver = DistributedSaver(tier(store), every_s=0.01, refresh_s=60)
    task = asyncio.create_task(saver.run())
    try:
        for number in range(1, 50):
            names = frozenset({"a"})
            saver.offer(Update(fleet(["a"], number), number, Change(names=names)))
        async with asyncio.timeout(5):
            while not saver.failures:  # noqa: ASYNC110 - counts, announced to nobody
                await asyncio.sleep(0.005)
            store.fails = None
            while not store.sets:  # noqa: ASYNC110
                await asyncio.sleep(0.005)
        saved = await tier(store).load()
        assert saved is not None
        assert saved.revision == 49
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
def redis_port() -> Iterator[int]:
    try:
        with redis_server() as port:
            yield port
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.mark.live
async def test_with_a_real_redis_and_without_it(redis_port: int, tmp_path: Path) -> None:
    store = connect(RedisAddress("127.0.0.1", redis_port), pki=None, timeout_s=1.0)
    nobody = connect(RedisAddress("127.0.0.1", 1), pki=None, timeout_s=1.0)
    both = DistributedTier([nobody, store], stack="t", host="mainpc", timeout_s=2.0)
    try:
        assert await both.load() is None
        await both.save(fleet(["a"], 2), 9, unchanged_s=0)
        saved = await both.load()
        assert saved is not None
        assert saved.entries == fleet(["a"], 2)
        with pytest.raises(TierUnavailable, match="ConnectionError"):
            await DistributedTier([nobody], stack="t", host="mainpc").load()
    finally:
        await both.close()


@pytest.mark.live
async def test_with_mutual_tls(tmp_path: Path) -> None:
    make_pki(tmp_path, "pc2")
    with redis_server(tmp_path) as port:
        known = connect(RedisAddress("127.0.0.1", port), pki=tmp_path, timeout_s=2.0)
        stranger = connect(RedisAddress("127.0.0.1", port), pki=None, timeout_s=2.0)
        good = DistributedTier([known], stack="t", host="pc2", timeout_s=3.0)
        bad = DistributedTier([stranger], stack="t", host="pc2", timeout_s=3.0)
        try:
            await good.save(fleet(["a"], 2), 9, unchanged_s=0)
            saved = await good.load()
            assert saved is not None
            assert saved.revision == 9
            with pytest.raises(TierUnavailable):
                await bad.load()
        finally:
            await good.close()
            await bad.close()
