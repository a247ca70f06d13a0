"""Runs many histories, on one core or more, and adds up what came of them."""

from __future__ import annotations

import multiprocessing
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

from verification.simulation.history import WEEK_S, Outcome, Parameters, run
from verification.simulation.mutants import BY_NAME, MUTANTS
from verification.simulation.variant import Variant


@dataclass(frozen=True, slots=True)
class Total:
    """Many histories. `weeks` of simulated time, skipped quiet time included; `skipped_s` says how much."""

    seeds: int
    weeks: float
    faults: int
    violations: tuple[Outcome, ...]
    simulated_s: float
    skipped_s: int
    wall_s: float
    counts: Counter[str]

    @property
    def speed(self) -> float:
        """Simulated seconds in one second of wall time."""
        return self.simulated_s / self.wall_s if self.wall_s > 0 else 0.0


@dataclass(frozen=True, slots=True)
class Hunt:
    """How a planted bug fared: `seeds` is how many histories it took (all of them when it escaped)."""

    name: str
    what: str
    seeds: int
    outcome: Outcome | None

    @property
    def caught(self) -> bool:
        return self.outcome is not None


def replay_command(parameters: Parameters, variant: str = Variant.name) -> str:
    """What runs this very history again."""
    words = ["threenines sim", f"--seed {parameters.seed}"]
    if parameters.seconds != WEEK_S:
        words.append(f"--weeks {parameters.seconds / WEEK_S:g}")
    if variant != Variant.name:
        words.append(f"--mutant {variant}")
    return " ".join(words)


def simulate(
    seeds: Iterable[int],
    *,
    seconds: int = WEEK_S,
    faults: int = 52,
    processes: int = 1,
    variant: str = Variant.name,
    told: Callable[[Outcome], None] = lambda _outcome: None,
) -> Total:
    """Every seed one history. `told` hears each outcome, in the order in which they end."""
    began = time.monotonic()
    counts: Counter[str] = Counter()
    broken: list[Outcome] = []
    done = 0
    simulated_s = 0.0
    for outcome in _outcomes(seeds, seconds, faults, processes, variant):
        done += 1
        counts += outcome.counts
        violation = outcome.violation
        simulated_s += seconds if violation is None else violation.at_ns / 1e9
        if violation is not None:
            broken.append(outcome)
        told(outcome)
    broken.sort(key=lambda outcome: outcome.parameters.seed)
    wall_s = time.monotonic() - began
    return Total(
        seeds=done,
        weeks=round(simulated_s / WEEK_S, 3),
        faults=counts["faults"],
        violations=tuple(broken),
        simulated_s=simulated_s,
        skipped_s=counts["skipped s"],
        wall_s=wall_s,
        counts=counts,
    )


def _outcomes(
    seeds: Iterable[int], seconds: int, faults: int, processes: int, variant: str
) -> Iterator[Outcome]:
    one = partial(_one, seconds, faults, variant)
    if processes <= 1:
        yield from map(one, seeds)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap_unordered(one, seeds, chunksize=4)


def _one(seconds: int, faults: int, variant: str, seed: int) -> Outcome:
    return run(Parameters(seed, seconds, faults), BY_NAME[variant]())


def hunt(variant: type[Variant], seeds: Iterable[int]) -> Hunt:
    """Runs histories with a planted bug until a check catches it."""
    tried = 0
    for seed in seeds:
        tried += 1
        outcome = run(Parameters(seed), variant())
        if outcome.violation is not None:
            return Hunt(variant.name, variant.what, tried, outcome)
    return Hunt(variant.name, variant.what, tried, None)


def _hunt_by_name(first: int, seeds: int, name: str) -> Hunt:
    return hunt(BY_NAME[name], range(first, first + seeds))


def hunt_all(first: int, seeds: int, processes: int = 1) -> Iterator[Hunt]:
    """Each planted bug in turn, with at most so many seeds from `first` on."""
    names = [variant.name for variant in MUTANTS]
    one = partial(_hunt_by_name, first, seeds)
    if processes <= 1:
        yield from map(one, names)
        return
    with multiprocessing.get_context("spawn").Pool(processes) as pool:
        yield from pool.imap(one, names)
