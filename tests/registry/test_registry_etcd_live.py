"""The etcd client against real members: answers, outcomes, fail-over, watches across breaks."""

from __future__ import annotations

import asyncio
import random
from contextlib import aclosing

import pytest

from services.registry.etcd import EtcdClient
from services.registry.etcd_types import (
    Compare,
    CompareResult,
    CompareTarget,
    Delete,
    DeleteResult,
    Endpoint,
    EtcdCompacted,
    EtcdDefinite,
    EtcdError,
    EtcdIndeterminate,
    EtcdUnavailable,
    Get,
    Put,
    PutResult,
    RangeResult,
    WatchBatch,
)
from services.registry.etcd_watch import WatchBreak
from services.registry.keys import Keys
from tests.registry.etcd_cluster import EtcdCluster

pytestmark = pytest.mark.live


async def test_put_range_delete(etcd: EtcdClient, keys: Keys) -> None:
    key = keys.prefix + "a/β \x00\xff"
    put = await etcd.put(key, b"\x00\xff{}")
    found = await etcd.get(key)
    assert found is not None
    assert (found.key, found.value, found.mod_revision, found.version) == (
        key,
        b"\x00\xff{}",
        put.revision,
        1,
    )
    second = await etcd.put(key, b"")
    assert second.revision == put.revision + 1
    again = await etcd.get(key, serializable=True)
    assert again is not None
    assert (again.value, again.create_revision, again.version) == (b"", put.revision, 2)
    old = await etcd.range(key, revision=put.revision)
    assert old.kvs[0].value == b"\x00\xff{}"
    deleted = await etcd.delete(key)
    assert (deleted.deleted, deleted.revision) == (1, second.revision + 1)
    assert await etcd.get(key) is None
    assert (await etcd.delete(key)).deleted == 0


async def test_pages_show_one_revision(etcd: EtcdClient, keys: Keys) -> None:
    for start in range(0, 250, 100):
        await etcd.txn(
            (), [Put(f"{keys.prefix}k{i:04}", b"%d" % i) for i in range(start, min(start + 100, 250))]
        )
    await etcd.put(keys.prefix.rstrip("/") + "0", b"just after the prefix")
    listing = await etcd.list_prefix(keys.prefix, page=7)
    whole, nothing = await etcd.list_prefixes([keys.prefix, keys.prefix + "nobody/"])
    assert (whole.kvs, whole.revision) == (listing.kvs, listing.revision)
    assert (nothing.kvs, nothing.revision) == ((), listing.revision)
    assert [kv.value for kv in listing.kvs] == [b"%d" % i for i in range(250)]
    assert listing.count == 250
    counted = await etcd.range(keys.prefix, prefix=True, limit=3, keys_only=True)
    assert (len(counted.kvs), counted.count, counted.more, counted.kvs[0].value) == (3, 250, True, b"")


@pytest.mark.parametrize(
    ("compare", "holds"),
    [
        (lambda k, kv: Compare.unchanged(k, kv.mod_revision), True),
        (lambda k, kv: Compare.unchanged(k, kv.mod_revision - 1), False),
        (lambda k, kv: Compare.absent(k), False),
        (lambda k, kv: Compare.absent(k + "x"), True),
        (lambda k, kv: Compare(k, CompareTarget.VERSION, 1), True),
        (lambda k, kv: Compare(k, CompareTarget.VERSION, 1, CompareResult.GREATER), False),
        (lambda k, kv: Compare(k, CompareTarget.VERSION, 2, CompareResult.LESS), True),
        (lambda k, kv: Compare(k, CompareTarget.VALUE, b"v"), True),
        (lambda k, kv: Compare(k, CompareTarget.VALUE, b"v", CompareResult.NOT_EQUAL), False),
    ],
)
async def test_transaction_branches(etcd: EtcdClient, keys: Keys, compare: object, holds: bool) -> None:
    key = keys.prefix + "t"
    await etcd.put(key, b"v")
    await etcd.put(key + "2", b"")
    kv = await etcd.get(key)
    assert kv is not None
    result = await etcd.txn(
        [compare(key, kv)],  # type: ignore[operator]
        [Put(key, b"w"), Get(key), Delete(key + "2")],
        [Get(key)],
    )
    assert result.succeeded is holds
    if holds:
        put, read, deleted = result.responses
        assert put == PutResult(result.revision)
        assert isinstance(read, RangeResult)
        assert read.kvs[0].value == b"w"
        assert deleted == DeleteResult(result.revision, 1)
    else:
        (read,) = result.responses
        assert isinstance(read, RangeResult)
        assert read.kvs == (kv,)


async def test_operand_must_fit_its_target(etcd: EtcdClient) -> None:
    with pytest.raises(TypeError, match="bytes for VALUE"):
        await etcd.txn([Compare("k", CompareTarget.VALUE, 3)], [])


async def test_refusals_are_definite(etcd: EtcdClient, keys: Keys) -> None:
    with pytest.raises(EtcdDefinite) as refused:
        await etcd.put("", b"no key")
    assert refused.value.definite
    now = (await etcd.range(keys.prefix)).revision
    with pytest.raises(EtcdDefinite, match="future"):
        await etcd.range(keys.prefix, revision=now + 1000)
    twice = [Put(keys.prefix + "same", b"1"), Put(keys.prefix + "same", b"2")]
    with pytest.raises(EtcdDefinite, match="duplicate"):
        await etcd.txn([], twice)
    assert await etcd.get(keys.prefix + "same") is None


async def test_nobody_there_is_unavailable_and_definite() -> None:
    client = EtcdClient([Endpoint("a", "http://127.0.0.1:1"), Endpoint("b", "http://127.0.0.1:2")])
    try:
        for attempt in (client.get("k"), client.put("k", b"v"), client.txn([], []), client.delete("k")):
            with pytest.raises(EtcdUnavailable) as error:
                await attempt
            assert error.value.definite
            assert "127.0.0.1:1" in str(error.value)
            assert "127.0.0.1:2" in str(error.value)
    finally:
        await client.close()


async def test_members_and_status(three_etcd: EtcdCluster) -> None:
    client = three_etcd.client(timeout_s=5.0)
    try:
        await three_etcd.ready(client)
        leader = await three_etcd.leader(client)
        members = await client.members()
        assert sorted(m.name for m in members) == ["m0", "m1", "m2"]
        statuses = await three_etcd.statuses(client)
        assert len({status.leader for _, status in statuses}) == 1
        other = next(status for member, status in statuses if member is not leader)
        await client.move_leader(leader.endpoint, other.member_id)
        assert (await three_etcd.leader(client)).endpoint == other.endpoint
    finally:
        await client.close()


async def test_reads_go_on_while_members_die_and_writes_tell_the_truth(three_etcd: EtcdCluster) -> None:
    """Freeze the leader with writes in the air: what was acknowledged is there, nothing is there twice."""
    client = three_etcd.client(timeout_s=1.0)
    try:
        await three_etcd.ready(client)
        leader = await three_etcd.leader(client)
        through_leader = EtcdClient([leader.endpoint], timeout_s=0.3)
        three_etcd.freeze(leader)
        with pytest.raises(EtcdIndeterminate):
            await through_leader.txn([Compare.absent("/x")], [Put("/x", b"1")])
        await through_leader.close()
        outcomes: dict[int, str] = {}
        async with asyncio.timeout(20):
            number = 0
            while list(outcomes.values()).count("ok") < 5:
                number += 1
                try:
                    await client.put(f"/n/{number:04}", b"%d" % number, timeout_s=0.4)
                    outcomes[number] = "ok"
                except EtcdError as error:
                    outcomes[number] = "definite" if error.definite else "indeterminate"
        listing = await client.list_prefix("/n/")
        there = {int(kv.value): kv.version for kv in listing.kvs}
        assert {number for number, how in outcomes.items() if how == "ok"} <= there.keys()
        assert not {number for number, how in outcomes.items() if how == "definite"} & there.keys()
        assert set(there.values()) == {1}
        three_etcd.kill(leader)
        assert (await client.list_prefix("/n/")).count >= len(there)
    finally:
        await client.close()


async def test_watch_tells_everything_in_order(etcd: EtcdClient, keys: Keys) -> None:
    start = (await etcd.range(keys.prefix)).revision + 1
    written = [(await etcd.put(f"{keys.prefix}w{i % 3}", b"%d" % i)).revision for i in range(20)]
    last = (await etcd.delete(f"{keys.prefix}w0")).revision
    seen: list[tuple[int, bytes | None]] = []
    async with asyncio.timeout(10), aclosing(etcd.watch(keys.prefix, start_revision=start)) as items:
        async for item in items:
            assert isinstance(item, WatchBatch)
            seen += [(event.mod_revision, event.value) for event in item.events]
            if item.revision >= last:
                break
    assert seen == [*((r, b"%d" % i) for i, r in enumerate(written)), (last, None)]


async def test_quiet_watch_shows_signs_of_life_and_does_not_run_ahead(etcd: EtcdClient, keys: Keys) -> None:
    start = (await etcd.range(keys.prefix)).revision + 1
    async with asyncio.timeout(10), aclosing(etcd.watch(keys.prefix, start_revision=start)) as items:
        quiet = await anext(items)
        assert isinstance(quiet, WatchBatch)
        assert quiet.events == ()
        revision = (await etcd.put(keys.prefix + "q", b"1")).revision
        assert quiet.revision < revision
        async for item in items:
            assert isinstance(item, WatchBatch)
            if item.events:
                assert item.events[0].mod_revision == revision
                break


async def test_slow_consumer_is_not_taken_for_silence(etcd: EtcdClient, keys: Keys) -> None:
    start = (await etcd.put(keys.prefix + "s", b"0")).revision
    async with asyncio.timeout(10):
        items = etcd.watch(keys.prefix, start_revision=start, silence_s=0.8)
        async with aclosing(items):
            assert isinstance(await anext(items), WatchBatch)
            await asyncio.sleep(1.0)  # the consumer's own time, longer than the silence allowed
            await etcd.put(keys.prefix + "s", b"1")
            following = [await anext(items) for _ in range(3)]
            assert not any(isinstance(item, WatchBreak) for item in following)


async def test_compaction_asks_for_a_listing(etcd: EtcdClient, keys: Keys) -> None:
    first = (await etcd.put(keys.prefix + "c", b"0")).revision
    for i in range(5):
        last = (await etcd.put(keys.prefix + "c", b"%d" % i)).revision
    await _compact(etcd, last)
    async with aclosing(etcd.watch(keys.prefix, start_revision=first)) as items:
        with pytest.raises(EtcdCompacted) as compacted:
            async with asyncio.timeout(10):
                await anext(items)
    assert compacted.value.compact_revision == last
    with pytest.raises(EtcdCompacted):
        await etcd.range(keys.prefix, revision=first)


async def test_store_that_went_back_asks_for_a_listing(etcd: EtcdClient, keys: Keys) -> None:
    ahead = (await etcd.range(keys.prefix)).revision + 1_000_000
    async with aclosing(etcd.watch(keys.prefix, start_revision=ahead)) as items:
        with pytest.raises(EtcdCompacted, match="went back"):
            async with asyncio.timeout(10):
                await anext(items)


async def test_watch_has_no_gap_while_members_come_and_go(three_etcd: EtcdCluster) -> None:
    """Random writes while members are killed, frozen and started: the fold of the watch equals a listing."""
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    client, watcher = three_etcd.client(timeout_s=2.0), three_etcd.client()
    folded: dict[str, bytes] = {}
    revisions: list[int] = []
    breaks = 0
    reached = asyncio.Condition()

    async def follow(start: int) -> None:
        nonlocal breaks
        async with aclosing(watcher.watch("/f/", start_revision=start, silence_s=1.0)) as items:
            async for item in items:
                if isinstance(item, WatchBreak):
                    breaks += 1
                    continue
                for event in item.events:
                    revisions.append(event.mod_revision)
                    if event.value is None:
                        folded.pop(event.key, None)
                    else:
                        folded[event.key] = event.value
                async with reached:
                    reached.notify_all()

    async def disturb() -> None:
        for index in (0, 1, 2, 0):
            member = three_etcd.members[index]
            if index == 1:
                three_etcd.freeze(member)
                await asyncio.sleep(1.5)
                three_etcd.thaw(member)
            else:
                three_etcd.kill(member)
                await asyncio.sleep(0.3)
                three_etcd.start(member)
            await three_etcd.ready(client)
            await three_etcd.whole(client)

    try:
        await three_etcd.ready(client)
        start = (await client.range("/f/")).revision + 1
        following = asyncio.create_task(follow(start))
        disturbing = asyncio.create_task(disturb())
        number = 0
        while not disturbing.done():
            number += 1
            key = f"/f/{chance.randrange(12)}"
            try:
                if chance.random() < 0.25:
                    await client.delete(key)
                else:
                    await client.put(key, b"%d" % number)
            except EtcdError:
                continue  # the watch has to agree with the store, not with us
        await disturbing
        await client.put("/f/end", b"end")
        listing = await client.list_prefix("/f/")
        async with asyncio.timeout(20), reached:
            await reached.wait_for(lambda: folded.get("/f/end") == b"end")
        following.cancel()
        assert folded == {kv.key: kv.value for kv in listing.kvs}
        assert revisions == sorted(set(revisions)), "an event was told twice or out of order"
        assert breaks >= 1, "the watch was never disturbed: the test showed nothing"
        assert number > 20
    finally:
        await client.close()
        await watcher.close()


async def _compact(client: EtcdClient, revision: int) -> None:
    body = b'{"revision": "%d", "physical": true}' % revision
    await client._gateway.call(client.endpoints[0], "/v3/kv/compaction", body, 5.0)
