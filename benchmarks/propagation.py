"""From a registration on one host to its being resolvable on the other, through etcd, watcher and snapshot.

    python -m benchmarks.propagation

Three etcd members; mainpc registers, pc2 resolves, each in a process of its own with its own member first.
The time counts from before the registration is sent until a reader of pc2's snapshot has the answer. Beside
it, in the same trials, a bare watch on the same member: what etcd itself takes.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import msgspec

from benchmarks.harness import Figure, figure, main, quantile
from benchmarks.propagation_host import LOAD_A_SECOND, PROBE, STACK
from benchmarks.registry_fixture import instance
from services.registry.etcd import EtcdClient
from services.registry.etcd_types import Endpoint
from services.registry.keys import Keys
from services.registry.model import Role
from services.registry.snapshot_layout import boottime_ns
from services.registry.store import RegistryStore
from tests.registry.etcd_cluster import EtcdCluster

TRIALS = 300
PAUSE_S = 0.02
ANSWER_S = 10.0


@asynccontextmanager
async def host(role: str, name: str, endpoints: list[Endpoint]) -> AsyncIterator[Process]:
    pairs = [f"{endpoint.host}={endpoint.url}" for endpoint in endpoints]
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.propagation_host", role, name, *pairs, stdout=PIPE
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGINT)
        try:
            await asyncio.wait_for(process.wait(), 5)
        except TimeoutError:
            process.kill()
            await process.wait()


async def told(process: Process, incarnation: int) -> int:
    """When the process saw that incarnation (nanoseconds); earlier lines are skipped."""
    assert process.stdout is not None
    async with asyncio.timeout(ANSWER_S):
        while True:
            line = await process.stdout.readline()
            if not line:
                raise RuntimeError("a host's process ended early")
            number, at_ns = map(int, line.split())
            if number >= incarnation:
                return at_ns


async def trials(store: RegistryStore, seen_by: list[Process], first: int, count: int) -> list[list[float]]:
    """Milliseconds from registration to sight, a list for each of `seen_by`."""
    samples: list[list[float]] = [[] for _ in seen_by]
    probe = msgspec.structs.replace(instance(0, "mainpc", Role.PRIMARY), name=PROBE)
    for number in range(first, first + count):
        await asyncio.sleep(PAUSE_S * (1 + number % 7 / 7))
        start_ns = boottime_ns()
        await store.put_instance(msgspec.structs.replace(probe, incarnation=number))
        for process, its_samples in zip(seen_by, samples, strict=True):
            its_samples.append((await told(process, number) - start_ns) / 1e6)
    return samples


async def settle(store: RegistryStore, seen_by: list[Process]) -> None:
    """The processes need a moment to list and watch: register until every one has answered."""
    deadline_s = time.monotonic() + 20
    probe = msgspec.structs.replace(instance(0, "mainpc", Role.PRIMARY), name=PROBE)
    waiting = [asyncio.create_task(told(process, 1)) for process in seen_by]
    number = 0
    while not all(task.done() for task in waiting):
        if time.monotonic() > deadline_s:
            raise RuntimeError("the hosts' processes did not start watching in 20 s")
        number += 1
        await store.put_instance(msgspec.structs.replace(probe, incarnation=number))
        await asyncio.wait(waiting, timeout=0.2)
    for task in waiting:
        task.result()


async def _measure() -> list[Figure]:
    figures: list[Figure] = []
    with EtcdCluster(3) as cluster:
        m0, m1, m2 = cluster.endpoints
        client = EtcdClient([m0, m1, m2], timeout_s=5.0)
        store = RegistryStore(client, Keys(STACK))
        await cluster.ready(client)
        await cluster.whole(client)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(client.close)
            await stack.enter_async_context(host("discovery", "mainpc", [m0, m1, m2]))
            pc2 = await stack.enter_async_context(host("discovery", "pc2", [m1, m0, m2]))
            bare = await stack.enter_async_context(host("watch", "pc2", [m1, m0, m2]))
            await settle(store, [pc2, bare])
            for label in ("at rest", f"under {LOAD_A_SECOND} registrations a second"):
                if label != "at rest":
                    loader = await stack.enter_async_context(host("load", "mainpc", [m0, m1, m2]))
                    await told(loader, 0)
                first = 100_000 if label == "at rest" else 200_000
                ours_ms, bare_ms = await trials(store, [pc2, bare], first, TRIALS)
                for name, q in (("p50", 0.5), ("p99", 0.99)):
                    figures.append(
                        figure(
                            "propagation",
                            f"registration to resolvable on the other host, {label}, {name}",
                            "ms",
                            quantile(ours_ms, q),
                            quantile(bare_ms, q),
                            "bare etcd watch",
                        )
                    )
    return figures


def measure() -> list[Figure]:
    return asyncio.run(_measure())


if __name__ == "__main__":
    sys.exit(main("propagation", measure))
