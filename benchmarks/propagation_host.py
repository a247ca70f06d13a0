"""One side of the benchmark `propagation`, a process of its own.

    python -m benchmarks.propagation_host ROLE HOST ENDPOINT…      (endpoints as NAME=URL, its own first)

`discovery`: what hostd does for discovery (renews the host's record, watches, publishes a snapshot), telling
for each registration of the probe when a reader resolved it. `watch`: the same for a bare watch. `load`:
registers other agents, a fixed number a second. Lines on standard output: `INCARNATION NANOSECONDS`
(CLOCK_BOOTTIME). SIGINT ends it.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
from contextlib import aclosing, closing, suppress
from pathlib import Path

import msgspec

from benchmarks.registry_fixture import instance
from benchmarks.servers import memory_folder
from services.hostd.view import View
from services.registry.etcd import EtcdClient
from services.registry.etcd_types import Endpoint, EtcdError
from services.registry.etcd_watch import WatchBreak
from services.registry.keys import Keys
from services.registry.model import HostRecord, Instance, Role, UnknownAgent
from services.registry.snapshot import SnapshotReader, SnapshotWriter
from services.registry.snapshot_layout import boottime_ns
from services.registry.store import Refused, RegistryStore, Renewed
from services.registry.watcher import RegistryWatcher, Update

STACK = "bench"
PROBE = "probe"
RENEW_S = 0.2
LONG_S = 3_600.0
FRESH_FOR_MS = 1_000
LOAD_A_SECOND = 100
LOAD_AGENTS = 77


async def renew(store: RegistryStore, host: str) -> None:
    seq, against = 0, 0
    while True:
        seq += 1
        record = HostRecord(host=host, boot_id="bench", epoch=1, seq=seq, address="127.0.0.1")
        try:
            match await store.renew_host(record, against):
                case Renewed(revision):
                    against = revision
                case Refused(current):
                    against = current.mod_revision if current else 0
        except EtcdError as error:
            print(error, file=sys.stderr)
        await asyncio.sleep(RENEW_S)


async def discovery(client: EtcdClient, keys: Keys, host: str, folder: Path) -> None:
    with (
        closing(SnapshotWriter(folder / "discovery.snap")) as writer,
        closing(SnapshotReader(writer.path, host=host)) as reader,
    ):
        view = View(host, writer, own=lambda _: None, fresh_for_ms=FRESH_FOR_MS, now_ns=boottime_ns)

        def update(update: Update) -> None:
            view.told(watcher.view.definitions, update.entries, update.change.names, update.revision)

        async def resolve() -> None:
            seen, told = 0, 0

            def moved() -> bool:
                return view.generation != seen

            while True:
                await view.wait_for(moved, LONG_S)
                seen = view.generation
                try:
                    found = reader.resolve(PROBE).instances
                except UnknownAgent:
                    continue
                now_ns = boottime_ns()
                if found and found[0].incarnation != told:
                    told = found[0].incarnation
                    print(told, now_ns, flush=True)

        watcher = RegistryWatcher(client, keys, update, on_alive=lambda _: view.confirm())
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(renew(RegistryStore(client, keys), host))
            tasks.create_task(resolve())
            tasks.create_task(watcher.run())


async def watch(client: EtcdClient, keys: Keys) -> None:
    start = (await client.range(keys.prefix)).revision + 1
    async with aclosing(client.watch(keys.prefix, start_revision=start)) as items:
        async for item in items:
            now_ns = boottime_ns()
            if isinstance(item, WatchBreak):
                continue
            for event in item.events:
                if f"/{PROBE}/" in event.key and event.value is not None:
                    found = msgspec.json.decode(event.value, type=Instance)
                    print(found.incarnation, now_ns, flush=True)


async def load(client: EtcdClient, keys: Keys) -> None:
    store = RegistryStore(client, keys)
    print("0 0", flush=True)
    number = 0
    while True:
        number += 1
        try:
            await store.put_instance(instance(number % LOAD_AGENTS, "mainpc", Role.PRIMARY, number))
        except EtcdError as error:
            print(error, file=sys.stderr)
        await asyncio.sleep(1 / LOAD_A_SECOND)


async def run(role: str, host: str, endpoints: list[Endpoint]) -> None:
    client, keys = EtcdClient(endpoints, timeout_s=2.0), Keys(STACK)
    with tempfile.TemporaryDirectory(dir=memory_folder()) as folder:
        try:
            match role:
                case "discovery":
                    await discovery(client, keys, host, Path(folder))
                case "watch":
                    await watch(client, keys)
                case "load":
                    await load(client, keys)
        finally:
            await client.close()


if __name__ == "__main__":
    pairs = [argument.split("=", 1) for argument in sys.argv[3:]]
    with suppress(KeyboardInterrupt):
        asyncio.run(run(sys.argv[1], sys.argv[2], [Endpoint(name, url) for name, url in pairs]))
