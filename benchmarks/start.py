"""`start`: how long until a fleet answers, forked from the zygote and as interpreters of their own.

The baseline starts `BENCH_BASELINE_AGENTS` agents (12 unless said otherwise; 77 takes about a minute on two
cores), so the comparison is per agent.
"""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Sequence

from benchmarks.fleet import fleet, reference_specs
from benchmarks.harness import Figure, figure, main

BASELINE_AGENTS = int(os.environ.get("BENCH_BASELINE_AGENTS", "12"))
ROUNDS = 3


def measure() -> Sequence[Figure]:
    """The figures."""
    return asyncio.run(_measure())


async def _measure() -> Sequence[Figure]:
    specs = reference_specs()
    few = specs[:BASELINE_AGENTS]
    forked, zygote_ready, spawned = [], [], []
    for _ in range(ROUNDS):  # interleaved: a busy machine is busy for both
        began = time.perf_counter()
        async with fleet(zygote=True) as ours:
            zygote_ready.append(time.perf_counter() - began)
            began = time.perf_counter()
            await ours.fork(specs)
            await ours.ready(ours.pids)
            forked.append(time.perf_counter() - began)
        async with fleet(zygote=False) as theirs:
            began = time.perf_counter()
            processes = theirs.spawn(few)
            await theirs.ready(theirs.pids)
            spawned.append(time.perf_counter() - began)
            theirs.close()
            for process in processes:
                process.wait()
    name = f"one interpreter each, {len(few)} at once"
    best, each = min(forked), 1000 / len(specs)
    return (
        figure("start", f"fleet of {len(specs)} SDK agents ready, worst of {ROUNDS}", "s", max(forked)),
        figure("start", "zygote ready", "s", min(zygote_ready)),
        figure("start", "ready, per agent", "ms", best * each, min(spawned) * 1000 / len(few), name),
    )


if __name__ == "__main__":
    sys.exit(main("start", measure))
