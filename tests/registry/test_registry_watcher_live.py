"""Registry, watcher and snapshot together over real etcd: registered on one host, resolvable on the other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from infra.topology import AgentSpec
from services.hostd.view import View
from services.registry.etcd import EtcdClient
from services.registry.etcd_types import EtcdError
from services.registry.keys import Keys
from services.registry.model import HostRecord, InstanceState, SnapshotError, UnknownAgent
from services.registry.snapshot import SnapshotReader, SnapshotWriter
from services.registry.snapshot_layout import boottime_ns
from services.registry.store import RecordError, Refused, RegistryStore, Renewed
from services.registry.watcher import RegistryWatcher, Update
from tests.registry.etcd_cluster import EtcdCluster
from tests.registry.snapshots import instance

pytestmark = pytest.mark.live

LONG_S = 3_600.0


def record(host: str, seq: int, epoch: int = 1) -> HostRecord:
    return HostRecord(host=host, boot_id=f"boot-{host}", epoch=epoch, seq=seq, address="127.0.0.1")


@dataclass
class Host:
    """What hostd is made of, as far as discovery goes."""

    name: str
    watcher: RegistryWatcher
    reader: SnapshotReader
    writer: SnapshotWriter
    changed: asyncio.Condition

    async def until(self, holds: object, timeout_s: float = 15.0) -> None:
        async with asyncio.timeout(timeout_s), self.changed:
            await self.changed.wait_for(holds)  # type: ignore[arg-type]

    def up(self, name: str) -> list[str]:
        try:
            return [i.host for i in self.reader.resolve(name).instances]
        except (UnknownAgent, SnapshotError):
            return []


@asynccontextmanager
async def running(name: str, client: EtcdClient, keys: Keys, folder: Path) -> AsyncIterator[Host]:
    writer = SnapshotWriter(folder / f"{name}.snap")
    # A view of no host's own: all that is known comes from the registry.
    view = View("", writer, own=lambda _: None, fresh_for_ms=1_000, now_ns=boottime_ns)
    changed = asyncio.Condition()
    told: set[asyncio.Task[None]] = set()

    async def tell() -> None:
        async with changed:
            changed.notify_all()

    def notify() -> None:
        task = asyncio.get_running_loop().create_task(tell())
        told.add(task)
        task.add_done_callback(told.discard)

    def update(update: Update) -> None:
        view.told(watcher.view.definitions, update.entries, None, update.revision)
        notify()

    def alive(_revision: int) -> None:
        view.confirm()
        notify()

    async def follow() -> None:
        seen = 0

        def moved() -> bool:
            return view.generation != seen

        while True:
            await view.wait_for(moved, LONG_S)
            seen = view.generation
            notify()

    watcher = RegistryWatcher(client, keys, update, on_alive=alive)
    task = asyncio.gather(watcher.run(), follow())
    reader = SnapshotReader(writer.path, host=name)
    try:
        yield Host(name, watcher, reader, writer, changed)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        writer.close()
        reader.close()


@asynccontextmanager
async def renewing(client: EtcdClient, keys: Keys, *hosts: str) -> AsyncIterator[set[str]]:
    """Renews the records of the hosts in the yielded set, every 100 ms."""
    alive = set(hosts)

    async def renew() -> None:
        seq = 0
        while True:
            seq += 1
            for host in sorted(alive):
                try:
                    await client.put(keys.host(host), msgspec.json.encode(record(host, seq)), timeout_s=0.5)
                except EtcdError:
                    continue  # the next turn comes
            await asyncio.sleep(0.1)

    task = asyncio.create_task(renew())
    try:
        yield alive
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def becomes_stale(reader: SnapshotReader, name: str) -> None:
    """Polls: staleness is the passing of time, nobody announces it."""
    async with asyncio.timeout(15):
        while True:
            if reader.resolve(name).stale:
                return
            await asyncio.sleep(0.05)


async def test_registered_on_one_host_resolvable_on_both(
    etcd: EtcdClient, keys: Keys, tmp_path: Path
) -> None:
    store = RegistryStore(etcd, keys)
    async with (
        renewing(etcd, keys, "mainpc", "pc2"),
        running("mainpc", etcd, keys, tmp_path) as mainpc,
        running("pc2", etcd, keys, tmp_path) as pc2,
    ):
        await store.put_instance(instance("a", "mainpc"))
        await store.put_instance(instance("a", "pc2"))
        for host in (mainpc, pc2):
            await host.until(
                lambda host=host: host.up("a") == [host.name, *({"mainpc", "pc2"} - {host.name})]
            )
            assert not host.reader.resolve("a").stale
        await store.put_instance(instance("a", "pc2", state=InstanceState.UNHEALTHY))
        for host in (mainpc, pc2):
            await host.until(lambda host=host: host.up("a") == ["mainpc"])
        assert await store.delete_instance("a", "mainpc")
        assert not await store.delete_instance("a", "mainpc")
        for host in (mainpc, pc2):
            await host.until(lambda host=host: host.up("a") == [])


async def test_a_silent_host_leaves_the_answers_and_the_rest_stays(
    etcd: EtcdClient, keys: Keys, tmp_path: Path
) -> None:
    store = RegistryStore(etcd, keys)
    async with (
        renewing(etcd, keys, "mainpc", "pc2") as alive,
        running("mainpc", etcd, keys, tmp_path) as mainpc,
    ):
        await store.put_instances((instance("a", "mainpc"), instance("a", "pc2"), instance("b", "pc2")))
        await mainpc.until(lambda: mainpc.up("b") == ["pc2"])
        alive.discard("pc2")
        await mainpc.until(lambda: mainpc.up("b") == [])
        assert mainpc.up("a") == ["mainpc"]
        assert [i.state for i in mainpc.reader.entry("b").instances] == [InstanceState.DOWN]
        alive.add("pc2")
        await mainpc.until(lambda: mainpc.up("b") == ["pc2"])


async def test_without_etcd_the_last_view_is_served_and_marked(
    three_etcd: EtcdCluster, tmp_path: Path
) -> None:
    client, keys = three_etcd.client(timeout_s=1.0), Keys("t")
    store = RegistryStore(client, keys)
    try:
        await three_etcd.ready(client)
        async with renewing(client, keys, "mainpc"), running("mainpc", client, keys, tmp_path) as host:
            await store.put_instance(instance("a", "mainpc"), timeout_s=5.0)
            await host.until(lambda: host.up("a") == ["mainpc"])
            for member in three_etcd.members[1:]:
                three_etcd.freeze(member)  # no quorum, and the member that is left says nothing of it
            await becomes_stale(host.reader, "a")
            deaf_until = asyncio.get_running_loop().time() + 2.0
            while asyncio.get_running_loop().time() < deaf_until:
                assert host.up("a") == ["mainpc"]
                await asyncio.sleep(0.05)
            for member in three_etcd.members[1:]:
                three_etcd.thaw(member)
            await three_etcd.ready(client)
            await host.until(lambda: not host.reader.resolve("a").stale)
            await store.put_instance(instance("b", "mainpc"), timeout_s=5.0)
            await host.until(lambda: host.up("b") == ["mainpc"])
    finally:
        for member in three_etcd.members:
            three_etcd.thaw(member)
        await client.close()


async def test_random_operations_compaction_and_restarts_leave_view_equal_to_the_store(
    three_etcd: EtcdCluster, tmp_path: Path
) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    client, keys = three_etcd.client(timeout_s=2.0), Keys("t")
    store = RegistryStore(client, keys)
    try:
        await three_etcd.ready(client)
        async with renewing(client, keys, "mainpc", "pc2"), running("mainpc", client, keys, tmp_path) as host:
            for turn in range(120):
                name, at = f"a{chance.randrange(8)}", chance.choice(["mainpc", "pc2"])
                try:
                    if chance.random() < 0.3:
                        await store.delete_instance(name, at)
                    else:
                        await store.put_instance(instance(name, at, incarnation=turn))
                except EtcdError:
                    continue
                if turn % 40 == 20:
                    member = three_etcd.members[turn // 40]
                    three_etcd.kill(member)
                    await three_etcd.ready(client)
                    revision = (await client.range("/")).revision
                    body = b'{"revision": "%d"}' % revision
                    await client._gateway.call(client.order()[0], "/v3/kv/compaction", body, 5.0)
                    three_etcd.start(member)
                    await three_etcd.whole(client)
            last = await store.put_instance(instance("end", "mainpc"), timeout_s=5.0)
            await host.until(lambda: host.reader.revision() >= last)
            listing = await client.list_prefix(keys.prefix + "agents/")
            stored = {kv.key for kv in listing.kvs}
            entries = host.reader.entries()
            assert {keys.instance(i.name, i.host) for e in entries.values() for i in e.instances} == stored
            newest = {kv.key: kv.value for kv in listing.kvs}
            for each in entries.values():
                for found in each.instances:
                    assert (
                        b'"incarnation":%d,' % found.incarnation
                        in newest[keys.instance(found.name, found.host)]
                    )
            assert host.watcher.counts.breaks >= 1, "nothing was disturbed: the test showed nothing"
    finally:
        await client.close()


async def test_renewal_swaps_only_what_it_believes(etcd: EtcdClient, keys: Keys) -> None:
    store = RegistryStore(etcd, keys)
    assert await store.read_host("pc2") is None
    first = await store.renew_host(record("pc2", 1), 0, timeout_s=5)
    assert isinstance(first, Renewed)
    again = await store.renew_host(record("pc2", 1), 0, timeout_s=5)
    assert isinstance(again, Refused)
    assert again.current is not None
    assert (again.current.record.seq, again.current.mod_revision) == (1, first.mod_revision)
    second = await store.renew_host(record("pc2", 2), first.mod_revision, timeout_s=5)
    assert isinstance(second, Renewed)
    refused = await store.renew_host(record("pc2", 3, epoch=2), first.mod_revision, timeout_s=5)
    assert isinstance(refused, Refused)
    stands = await store.read_host("pc2")
    assert stands is not None
    assert (stands.record.seq, stands.mod_revision) == (2, second.mod_revision)
    gone = await store.renew_host(record("mainpc", 3), 12, timeout_s=5)
    assert gone == Refused(None)


async def test_definitions_and_removal(etcd: EtcdClient, keys: Keys) -> None:
    store = RegistryStore(etcd, keys)
    spec = AgentSpec(name="a", home="mainpc", category="memory", tags={"k": "v"}, settings={"n": 1.5})
    other = AgentSpec(name="ab", home="pc2", category="memory")
    await store.put_definition(spec)
    await store.put_definition(other)
    await store.put_instances((instance("a"), instance("a", "pc2"), instance("ab")))
    found = await store.get_definition("a")
    assert found is not None
    assert found.record == spec
    assert await store.list_definitions() == {"a": spec, "ab": other}
    assert await store.remove_agent("a")
    assert not await store.remove_agent("a")
    assert await store.get_definition("a") is None
    left = await etcd.list_prefix(keys.prefix)
    assert [kv.key for kv in left.kvs] == [keys.instance("ab", "mainpc"), keys.definition("ab")]
    await etcd.put(keys.definition("bad"), b"{")
    with pytest.raises(RecordError, match=r"definitions/bad: .*; write it again or delete it"):
        await store.get_definition("bad")
