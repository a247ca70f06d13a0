"""Look-up by name in an agent: our snapshot, etcd over its API, Redis; interleaved in one run.

    python -m benchmarks.lookup

Every side decodes the same record into the same structs over connections that are open already.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import redis

from benchmarks.harness import Figure, figure, main, quantile
from benchmarks.registry_fixture import agent_name, fleet
from benchmarks.servers import memory_folder, redis_server
from benchmarks.snapshot_publisher import publisher
from services.registry.model import Entry
from services.registry.snapshot import SnapshotReader
from tests.registry.etcd_cluster import EtcdCluster

AGENTS = 77
ROUNDS = 10
OURS_A_ROUND = 10_000
REDIS_A_ROUND = 1_000
ETCD_A_ROUND = 200
CHANGES_A_ROUND = 30


def timed_us(call: Callable[[str], object], count: int) -> list[float]:
    samples = []
    for number in range(count):
        name = agent_name(number * 31 % AGENTS)
        start = time.perf_counter_ns()
        call(name)
        samples.append((time.perf_counter_ns() - start) / 1000)
    return samples


async def _measure() -> list[Figure]:
    entries = fleet(AGENTS)
    warm: list[float] = []
    after_change: list[float] = []
    from_redis: list[float] = []
    from_etcd: list[float] = []
    with (
        tempfile.TemporaryDirectory(dir=memory_folder()) as folder,
        publisher(Path(folder) / "discovery.snap", AGENTS) as writer,
        redis_server() as port,
        EtcdCluster(1) as cluster,
    ):
        reader = SnapshotReader(Path(folder) / "discovery.snap", host="mainpc")
        client = redis.Redis(port=port)
        etcd = cluster.client(timeout_s=5.0)
        await cluster.ready(etcd)
        for name, entry in entries.items():
            client.set(name, msgspec.msgpack.encode(entry))
            await etcd.put(name, msgspec.json.encode(entry))

        def redis_get(name: str) -> Entry:
            raw = client.get(name)
            assert isinstance(raw, bytes)
            return msgspec.msgpack.decode(raw, type=Entry)

        assert redis_get(agent_name(3)).name == reader.entry(agent_name(3)).name
        for turn in range(ROUNDS):
            warm += timed_us(reader.resolve, OURS_A_ROUND)
            from_redis += timed_us(redis_get, REDIS_A_ROUND)
            for number in range(ETCD_A_ROUND):
                name = agent_name(number * 31 % AGENTS)
                start = time.perf_counter_ns()
                kv = await etcd.get(name)
                assert kv is not None
                msgspec.json.decode(kv.value, type=Entry)
                from_etcd.append((time.perf_counter_ns() - start) / 1000)
            for number in range(CHANGES_A_ROUND):  # the first look-ups after a publication
                writer.publish(turn * CHANGES_A_ROUND + number)
                after_change += timed_us(reader.resolve, 5)
        client.close()
        await etcd.close()
        reader.close()
    figures = []
    for label, q in (("p50", 0.5), ("p99", 0.99)):
        ours = quantile(warm, q)
        etcd_us, redis_us = quantile(from_etcd, q), quantile(from_redis, q)
        figures += [
            figure(
                "lookup", f"{label}, against etcd", "us", ours, etcd_us, "etcd range, JSON API, kept alive"
            ),
            figure("lookup", f"{label}, against Redis", "us", ours, redis_us, "Redis GET, kept alive"),
            figure("lookup", f"{label}, entry just changed", "us", quantile(after_change, q)),
        ]
    return figures


def measure() -> list[Figure]:
    return asyncio.run(_measure())


if __name__ == "__main__":
    sys.exit(main("lookup", measure))
