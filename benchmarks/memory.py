"""`memory`: proportional set size per agent after `BENCH_LOAD_S` seconds of load (60) and a collection.

The baseline is one interpreter per agent, `BENCH_BASELINE_AGENTS` of them (12 unless said otherwise), loaded
at the same rate per agent at the same time.
"""

from __future__ import annotations

import asyncio
import os
import random
import statistics
import sys
from collections.abc import Sequence

from benchmarks.fleet import HOST, Fleet, fleet, reference_specs
from benchmarks.harness import Figure, figure, main, pss_kb
from infra.topology import AgentSpec
from services.agent.client import Client

BASELINE_AGENTS = int(os.environ.get("BENCH_BASELINE_AGENTS", "12"))
LOAD_S = float(os.environ.get("BENCH_LOAD_S", "60"))
CALLS_PER_AGENT_S = 2.0
SEED = 20


def measure() -> Sequence[Figure]:
    """The figures."""
    return asyncio.run(_measure())


async def _measure() -> Sequence[Figure]:
    specs = reference_specs()
    few = _closed(specs[:BASELINE_AGENTS])
    async with fleet(zygote=True) as ours, fleet(zygote=False) as theirs:
        await ours.fork(specs)
        processes = theirs.spawn(few)
        for one, its in ((ours, specs), (theirs, few)):
            await one.ready(one.pids)
            one.publish(its)
        await asyncio.gather(_load(ours, specs), _load(theirs, few))
        mine, other = await _settled(ours), await _settled(theirs)
        assert ours.zygote_pid is not None
        zygote_mb = pss_kb(ours.zygote_pid) / 1024
        theirs.close()
        for process in processes:
            process.wait()
    name = f"one interpreter each, {len(few)} of them"
    mean, worst = statistics.fmean(mine), max(mine)
    return (
        figure("memory", f"PSS per agent, mean of {len(specs)}", "MiB", mean, statistics.fmean(other), name),
        figure("memory", "PSS of the largest agent", "MiB", worst, max(other), name),
        figure("memory", "PSS of the zygote", "MiB", zygote_mb),
    )


def _closed(specs: Sequence[AgentSpec]) -> list[AgentSpec]:
    """The agents with only those dependencies that are among them."""
    from msgspec.structs import replace

    names = {spec.name for spec in specs}
    return [replace(spec, depends_on=tuple(n for n in spec.depends_on if n in names)) for spec in specs]


async def _load(one: Fleet, specs: Sequence[AgentSpec]) -> None:
    """Calls spread over the agents at a fixed rate, open loop; every failure ends the benchmark."""
    chance = random.Random(SEED)
    loop = asyncio.get_running_loop()
    async with Client(one.run, HOST) as client:
        running: set[asyncio.Task[object]] = set()
        number, every_s = int(LOAD_S * CALLS_PER_AGENT_S * len(specs)), 1 / (CALLS_PER_AGENT_S * len(specs))
        began = loop.time()
        for index in range(number):
            await asyncio.sleep(max(0.0, began + index * every_s - loop.time()))
            name = chance.choice(specs).name
            text = " ".join(chance.choices(("where", "is", "the", "train", "of", "today"), k=60))
            task = loop.create_task(client.call(name, "ask", {"text": text, "depth": 2}, timeout_s=30))
            running.add(task)
            done = {one for one in running if one.done()}
            running -= done
            for finished in done:
                finished.result()
        await asyncio.gather(*running)


async def _settled(one: Fleet) -> list[float]:
    """MiB of every agent, each after a forced collection."""
    async with Client(one.run, HOST) as client:
        for name in one.pids:
            await client.call(name, "_collect", timeout_s=30)
    return [pss_kb(pid) / 1024 for pid in one.pids.values()]


if __name__ == "__main__":
    sys.exit(main("memory", measure))
