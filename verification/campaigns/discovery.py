"""Look-ups of every kind, from every host at once."""

from __future__ import annotations

import asyncio
import random

from loadtests.protocol import AnyCommand, Calibrate, Census, Cold, Done, LookUps
from verification.campaigns.bench import Bench, require

CENSUS_NAMES_AT_ONCE = 500
LOOK_UPS_PER_S = 1000.0
LOOK_UPS_AT_ONCE = 1000
COLD_AT_ONCE = 5


async def calibrate(bench: Bench) -> None:
    """How good the clock and the waking of each probe are, before anything else runs."""
    from loadtests.record import Kind, Record, now_ns, raw

    bench.progress.phase("measuring the instruments")
    begun = {host: now_ns() for host in bench.probes}
    answers = await _everywhere(bench, Calibrate())
    for host, told in answers.items():
        process = f"calibrate-{host}"
        for kind, value, at in ((Kind.INVOKE, None, begun[host]), (Kind.OK, told.calibration, now_ns())):
            bench.nemesis.record(
                Record(
                    process=process,
                    type=kind,
                    f="calibrate",
                    key=host,
                    value=raw(value),
                    time_ns=at,
                    host=host,
                )
            )


async def census(bench: Bench) -> None:
    """Every name, once from each host."""
    names = tuple(agent.name for agent in bench.plan.agents)
    bench.progress.phase("census of names", len(names))
    for at in range(0, len(names), CENSUS_NAMES_AT_ONCE):
        part = names[at : at + CENSUS_NAMES_AT_ONCE]
        await _everywhere(bench, Census(names=part))
        bench.progress.tick(at + len(part))


async def warm(bench: Bench, n: int) -> None:
    """`n` warm look-ups from each host, names in random order."""
    bench.progress.phase("warm look-ups", n)
    names = [agent.name for agent in bench.plan.agents]
    chance = random.Random(f"{bench.plan.seed}/warm")
    for at in range(0, n, LOOK_UPS_AT_ONCE):
        part = tuple(chance.choice(names) for _ in range(min(LOOK_UPS_AT_ONCE, n - at)))
        await _everywhere(bench, LookUps(names=part, per_s=LOOK_UPS_PER_S))
        bench.progress.tick(at + len(part))


async def cold(bench: Bench, n: int, timeout_s: float) -> None:
    """`n` first look-ups of fresh processes from each host."""
    bench.progress.phase("cold look-ups", n)
    names = [agent.name for agent in bench.plan.agents]
    chance = random.Random(f"{bench.plan.seed}/cold")
    for at in range(0, n, COLD_AT_ONCE):
        part = tuple(chance.choice(names) for _ in range(min(COLD_AT_ONCE, n - at)))
        await _everywhere(bench, Cold(names=part, timeout_s=timeout_s))
        bench.progress.tick(at + len(part))


async def _everywhere(bench: Bench, command: AnyCommand) -> dict[str, Done]:
    answers = await asyncio.gather(*(probe.ask(command) for probe in bench.probes.values()))
    for host, told in zip(bench.probes, answers, strict=True):
        require(told.error, host)
    return dict(zip(bench.probes, answers, strict=True))
