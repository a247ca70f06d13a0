"""Runs many histories, on one core or more, and adds up what came of them."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from multiprocessing import resource_tracker
from multiprocessing.pool import Pool

from verification.simulation.benign import BENIGN
from verification.simulation.coverage import Coverage, coverage
from verification.simulation.history import WEEK_S, Outcome, Parameters, run
from verification.simulation.journal import Batch, Finding, Journal
from verification.simulation.liveness import gaps_ms
from verification.simulation.mutants import BY_NAME, MUTANTS
from verification.simulation.variant import Variant

FAULTS = 52
"""Drawn for each week; faults that belong together may make it some more."""
BATCH = 8
NIGHTLY_SEEDS = 10_000
CI_SEEDS = 200


@dataclass(frozen=True, slots=True)
class Total:
    """Many histories. `weeks` of simulated time, skipped quiet time included; `skipped_s` says how much."""

    seeds: int
    weeks: float
    faults: int
    findings: tuple[Finding, ...]
    simulated_s: float
    skipped_s: int
    wall_s: float
    counts: Counter[str]

    @property
    def speed(self) -> float:
        """Simulated seconds in one second of wall time."""
        return self.simulated_s / self.wall_s if self.wall_s > 0 else 0.0

    @property
    def coverage(self) -> Coverage:
        """What happened, and what did not."""
        return coverage(self.counts)

    @property
    def gaps_ms(self) -> list[tuple[int, int]]:
        """How long agents were without an owner although somebody could: length in ms, how many."""
        return gaps_ms(self.counts)


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
    faults: int = FAULTS,
    processes: int = 1,
    variant: str = Variant.name,
    journal: Journal | None = None,
    told: Callable[[Finding], None] = lambda _finding: None,
    progress: Callable[[Total], None] = lambda _total: None,
) -> Total:
    """Every seed one history. `told` hears of each broken promise, `progress` of each batch.

    What `journal` has already is not run again, and counts as if it had been.
    """
    adding = _Adding()
    for batch in journal.batches if journal is not None else ():
        adding.add(batch)
    done = frozenset[int]() if journal is None else journal.done
    before = time.monotonic()
    for batch in _batches((seed for seed in seeds if seed not in done), seconds, faults, processes, variant):
        now = time.monotonic()
        timed = Batch(batch.seeds, batch.counts, batch.simulated_s, batch.findings, now - before)
        before = now
        if journal is not None:
            journal.add(timed)
        adding.add(timed)
        for finding in timed.findings:
            told(finding)
        progress(adding.total())
    return adding.total()


class _Adding:
    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._findings: list[Finding] = []
        self._seeds = 0
        self._simulated_s = 0.0
        self._wall_s = 0.0

    def add(self, batch: Batch) -> None:
        self._counts.update(batch.counts)
        self._findings += batch.findings
        self._seeds += len(batch.seeds)
        self._simulated_s += batch.simulated_s
        self._wall_s += batch.wall_s

    def total(self) -> Total:
        return Total(
            seeds=self._seeds,
            weeks=round(self._simulated_s / WEEK_S, 3),
            faults=self._counts["faults"],
            findings=tuple(sorted(self._findings, key=lambda finding: finding.seed)),
            simulated_s=self._simulated_s,
            skipped_s=self._counts["skipped s"],
            wall_s=self._wall_s,
            counts=self._counts,
        )


def _batches(
    seeds: Iterator[int], seconds: int, faults: int, processes: int, variant: str
) -> Iterator[Batch]:
    one = partial(_batch, seconds, faults, variant)
    groups = iter(lambda: tuple(islice(seeds, BATCH)), ())
    if processes <= 1:
        yield from map(one, groups)
        return
    with _workers(processes) as pool:
        yield from pool.imap_unordered(one, groups)


@contextmanager
def _workers(processes: int) -> Iterator[Pool]:
    """Processes that are gone when this ends. What stops a run is this process's business, not theirs: they
    never hear Ctrl-C, and soon nothing that is sent to the whole group."""
    stopping = {signal.SIGINT, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, stopping)  # who is started meanwhile keeps them blocked
    try:
        resource_tracker.ensure_running()
        signal.pthread_sigmask(signal.SIG_BLOCK, stopping)  # again: the tracker's start unblocks SIGINT
        pool = multiprocessing.get_context("spawn").Pool(processes, initializer=_stand_apart)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
    try:
        yield pool
    finally:
        pool.terminate()
        pool.join()


def _stand_apart() -> None:
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    os.setpgid(0, 0)


def _batch(seconds: int, faults: int, variant: str, seeds: Sequence[int]) -> Batch:
    counts: Counter[str] = Counter()
    findings: list[Finding] = []
    simulated_s = 0.0
    with _uncollected():
        for seed in seeds:
            outcome = run(Parameters(seed, seconds, faults), BY_NAME[variant]())
            counts.update(outcome.counts)
            violation = outcome.violation
            simulated_s += seconds if violation is None else violation.at_ns / 1e9
            if violation is not None:
                findings.append(Finding(seed, violation.check, violation.at_ns, violation.detail))
    return Batch(tuple(seeds), dict(counts), simulated_s, tuple(findings))


@contextmanager
def _uncollected() -> Iterator[None]:
    """A history is one big circle of objects: looking for smaller ones costs a quarter of the time."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        if was:
            gc.enable()


def hunt(variant: type[Variant], seeds: Iterable[int]) -> Hunt:
    """Runs histories with a planted bug until a check catches it."""
    tried = 0
    for seed in seeds:
        tried += 1
        with _uncollected():
            outcome = run(Parameters(seed), variant())
        if outcome.violation is not None:
            return Hunt(variant.name, variant.what, tried, outcome)
    return Hunt(variant.name, variant.what, tried, None)


def _hunt_by_name(first: int, seeds: int, name: str) -> Hunt:
    return hunt(BY_NAME[name], range(first, first + seeds))


def hunt_all(first: int, seeds: int, processes: int = 1) -> Iterator[Hunt]:
    """Each planted bug in turn, with at most so many seeds from `first` on."""
    yield from _hunt_each(MUTANTS, first, seeds, processes)


def try_benign(first: int, seeds: int, processes: int = 1) -> Iterator[Hunt]:
    """Each harmless change in turn: here `caught` means that the checks see ghosts."""
    yield from _hunt_each(BENIGN, first, seeds, processes)


def _hunt_each(variants: Sequence[type[Variant]], first: int, seeds: int, processes: int) -> Iterator[Hunt]:
    names = [variant.name for variant in variants]
    one = partial(_hunt_by_name, first, seeds)
    if processes <= 1:
        yield from map(one, names)
        return
    with _workers(processes) as pool:
        yield from pool.imap(one, names)
