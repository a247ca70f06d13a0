"""Sets up a measuring bench: probes on every host, files for what they tell, the load."""

from __future__ import annotations

import asyncio
import contextlib
from pathlib import Path

from infra.substrates.base import Substrate
from loadtests.raw import Raw
from verification.campaigns.bench import Bench
from verification.campaigns.guarded import Guarded
from verification.history import Journal
from verification.links import LoadLink, ProbeLink
from verification.plan import RunPlan
from verification.progress import Progress

LOAD_LIMIT_S = {"quick": 1200}
"""The load ends by itself after so long, should the harness be killed."""
DEFAULT_LOAD_LIMIT_S = 4 * 3600
RAW_PROFILES = ("quick",)
"""Profiles whose load writes every operation; of the others' load, its seconds and its failures are kept."""


def unused(folder: Path, stem: str) -> Path:
    """`stem.jsonl`, or `stem.2.jsonl`, … where a bench before has written: a cut file stays as it is."""
    number = 1
    while True:
        path = folder / (f"{stem}.jsonl" if number == 1 else f"{stem}.{number}.jsonl")
        if not path.exists():
            return path
        number += 1


async def open_bench(
    plan: RunPlan,
    substrate: Substrate,
    guarded: Guarded,
    folder: Path,
    progress: Progress,
    stack: contextlib.AsyncExitStack,
) -> Bench:
    """A bench for the run in `folder`; what it started ends with `stack`. Raises LinkError."""
    progress.phase("starting probes")
    history = folder / "history"
    nemesis, prometheus = (
        stack.enter_context(Journal(unused(history, name))) for name in ("nemesis", "prometheus")
    )
    journal = stack.enter_context(Journal(unused(folder, "journal")))

    async def start_probe(host: str) -> ProbeLink:
        path = unused(history, f"probe-{host}")
        written = stack.enter_context(Journal(path))
        probe = await ProbeLink.start(substrate, host, written, folder / "logs" / f"{path.stem}.log")
        stack.push_async_callback(probe.close)
        return probe

    return Bench(
        plan=plan,
        substrate=substrate,
        probes={host: await start_probe(host) for host in plan.hosts},
        nemesis=nemesis,
        prometheus=prometheus,
        journal=journal,
        progress=progress,
        folder=folder,
        start_probe=start_probe,
        guarded=guarded,
    )


async def start_load(bench: Bench, stack: contextlib.AsyncExitStack) -> list[LoadLink]:
    """The plan's load on every host; it ends with `stack` at the latest. Raises LinkError."""
    bench.progress.phase("starting the load")
    plan = bench.plan

    async def start(host: str) -> LoadLink:
        path = unused(bench.folder / "history", f"load-{host}")
        load = await LoadLink.start(
            bench.substrate,
            host,
            workload=plan.load.workload,
            users=plan.load.users,
            seed=plan.seed,
            raw=Raw.ALL if plan.profile in RAW_PROFILES else Raw.FAILURES,
            run_s=LOAD_LIMIT_S.get(plan.profile, DEFAULT_LOAD_LIMIT_S),
            history=path,
            log=bench.folder / "logs" / f"{path.stem}.log",
        )
        stack.push_async_callback(load.stop)
        return load

    return list(await asyncio.gather(*(start(host) for host in plan.hosts)))
