"""The systems of the self-test: each with a truth that is known because it was made so."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from scipy import special

from reports.model import Direction, Evidence, Verdict
from verification import availability, drift, estimators, sequential
from verification.availability import Probe
from verification.catalogue import AssumedFault, CatalogueEntry, Estimator, ProfilePlan
from verification.observations import Counts, Observation, Observations, Pair
from verification.rules import Rule
from verification.selftest.pipeline import Pipeline
from verification.sequential import Stage, State

OURS = "threenines"
ALPHA = BETA = 0.05
LIMIT_MS = 5000.0
SPREAD = 0.3
"""Of the logarithm of what a failover takes: a p95 of 4.9 s has a median of 3 s."""

Chance = np.random.Generator
Play = Callable[[Chance], Mapping[str, Verdict]]


@dataclass(frozen=True)
class Case:
    """A synthetic system. `keeps`: it truly keeps the target; `limit`: the error that the plan claims."""

    estimator: str
    system: str
    keeps: bool
    limit: float
    play: Play


def cases() -> tuple[Case, ...]:
    """All of them, in the order of the report."""
    return (
        *_staged(),
        *_fixed(),
        *_means(),
        *_rates(),
        *_shares(),
        *_gains(),
        *_outages(),
        *_projections(),
        *_drifts(),
        *_censuses(),
    )


def _plan(**changes: object) -> ProfilePlan:
    base = ProfilePlan(population="synthetic", confidence=1.0 - ALPHA, beta=BETA, timeout_s=10.0)
    return msgspec.structs.replace(base, **changes)


def _entry(estimator: Estimator, target: float, direction: Direction, unit: str) -> CatalogueEntry:
    return CatalogueEntry(
        id="SD-4",
        title="synthetic",
        category="service-discovery",
        claim="synthetic",
        estimator=estimator,
        accepts=(Evidence.MEASURED,),
        remedy="none",
        unit=unit,
        target=target,
        direction=direction,
    )


def _said(kept: bool) -> Verdict:
    return Verdict.PASS if kept else Verdict.FAIL


# ------------------------------------------------------------------------------------- tails of failovers


def _tail(p_ms: float, coverage: float) -> Callable[[Chance, int], np.ndarray]:
    """Failover times in ms whose quantile at `coverage` is `p_ms`."""
    median = math.log(p_ms) - SPREAD * float(special.ndtri(coverage))
    return lambda chance, n: np.exp(median + SPREAD * chance.standard_normal(n))


STAGES = sequential.design(0.95, ALPHA, BETA, spend=(0.6, 0.25, 0.15))
PUBLISHED = tuple(
    Stage(n=n, pass_at_most=allowed, fail_from=10**6) for allowed, n in enumerate((59, 93, 124))
)


def _staged() -> list[Case]:
    entry = _entry(Estimator.QUANTILE, LIMIT_MS, Direction.BELOW, "ms")
    plan = _plan(n=STAGES[0].n, coverage=0.95, stages=STAGES)
    pipeline = Pipeline(entry, plan)

    def play(draw: Callable[[Chance, int], np.ndarray]) -> Play:
        def once(chance: Chance) -> dict[str, Verdict]:
            values = draw(chance, STAGES[-1].n)
            look = sequential.next_stage(STAGES, values >= LIMIT_MS)
            whole = next(stage.n for stage in STAGES if stage.n >= look.n)
            naive = sequential.next_stage(PUBLISHED, values >= LIMIT_MS).state
            return {
                OURS: pipeline.verdict(values[:whole]),
                "mean": _said(bool(values[:59].mean() < LIMIT_MS)),
                "sample p95": _said(bool(np.quantile(values[:59], 0.95) < LIMIT_MS)),
                "59, 93 or 124 trials, whichever passes first": _said(naive is State.PASS),
            }

        return once

    name = "quantile in stages, 95/95, from raw history"
    return [
        Case(name, f"failover p95 {p_ms / 1000:g} s against < 5 s", keeps, ALPHA, play(_tail(p_ms, 0.95)))
        for p_ms, keeps in ((3500.0, True), (4900.0, True), (5100.0, False), (6000.0, False))
    ]


def _fixed() -> list[Case]:
    entry = _entry(Estimator.QUANTILE, LIMIT_MS, Direction.BELOW, "ms")
    plan = _plan(n=299, coverage=0.99)

    def play(draw: Callable[[Chance, int], np.ndarray]) -> Play:
        def once(chance: Chance) -> dict[str, Verdict]:
            values = draw(chance, 299)
            trials = tuple(Observation(value) for value in values.tolist())
            return {
                OURS: estimators.judge(entry, plan, Observations(trials=trials)).verdict,
                "mean": _said(bool(values.mean() < LIMIT_MS)),
                "sample p99": _said(bool(np.quantile(values, 0.99) < LIMIT_MS)),
                "30 trials": _said(bool(values[:30].max() < LIMIT_MS)),
            }

        return once

    return [
        Case(
            "quantile (Wilks 99/95)",
            f"failover p99 {p_ms / 1000:g} s against < 5 s",
            keeps,
            ALPHA,
            play(_tail(p_ms, 0.99)),
        )
        for p_ms, keeps in ((4000.0, True), (4900.0, True), (5100.0, False))
    ]


def _means() -> list[Case]:
    entry = _entry(Estimator.MEAN, 100.0, Direction.BELOW, "ms")
    plan = _plan(n=1000)

    def play(mean: float, sigma: float) -> Play:
        def once(chance: Chance) -> dict[str, Verdict]:
            values = mean * np.exp(sigma * chance.standard_normal(1000) - sigma * sigma / 2.0)
            trials = tuple(Observation(value) for value in values.tolist())
            return {
                OURS: estimators.judge(entry, plan, Observations(trials=trials)).verdict,
                "mean": _said(bool(values.mean() < 100.0)),
            }

        return once

    name = "mean (Student's t, corrected for skewness)"
    return [
        Case(name, f"mean {mean:g} ms against < 100 ms, long tail", keeps, ALPHA, play(mean, 1.0))
        for mean, keeps in ((90.0, True), (102.0, False))
    ]


# --------------------------------------------------------------------------------------------- shares


def _rates() -> list[Case]:
    entry = _entry(Estimator.RATE, 0.1, Direction.AT_MOST, "%")
    n = 3000
    plan = _plan(n=n)

    def play(share: float) -> Play:
        def once(chance: Chance) -> dict[str, Verdict]:
            failed = int(chance.binomial(n, share))
            found = Observations(counts=(("all", Counts(n, failed)),))
            return {
                OURS: estimators.judge(entry, plan, found).verdict,
                "sample share": _said(failed <= 0.001 * n),
            }

        return once

    return [
        Case("rate, none may fail", f"{100 * share:g} % fail against ≤ 0.1 %", keeps, ALPHA, play(share))
        for share, keeps in ((0.0, True), (0.0011, False))
    ]


ALERTS, BATCHES = 20_000, 40


def _shares() -> list[Case]:
    entry = _entry(Estimator.SHARE, 1.0, Direction.BELOW, "%")

    def counts(failed: np.ndarray, size: int) -> Observations:
        return Observations(counts=tuple(("all", Counts(size, int(one))) for one in failed))

    def alone(share: float) -> Play:
        def once(chance: Chance) -> dict[str, Verdict]:
            size = ALERTS // BATCHES
            failed = chance.binomial(size, share, BATCHES)
            return _judged_share(entry, _plan(n=ALERTS), counts(failed, size), int(failed.sum()))

        return once

    def clustered(share: float) -> Play:
        """False alerts come in bursts of 20 in the mean."""

        def once(chance: Chance) -> dict[str, Verdict]:
            size = ALERTS // BATCHES
            bursts = chance.poisson(size * share / 20.0, BATCHES)
            extra = chance.negative_binomial(np.maximum(bursts, 1), 1.0 / 20.0)
            failed = np.minimum(bursts + np.where(bursts > 0, extra, 0), size)
            return _judged_share(entry, _plan(n=ALERTS), counts(failed, size), int(failed.sum()))

        return once

    def anytime(share: float) -> Play:
        """Looked at eight times, stopped at the first verdict."""
        size = ALERTS // 8
        plan = _plan(n=size, anytime=True)

        def once(chance: Chance) -> dict[str, Verdict]:
            failed = np.cumsum(chance.binomial(size, share, 8))
            ours = fixed = Verdict.INCONCLUSIVE
            for look, seen in enumerate(failed.tolist(), 1):
                found = Observations(counts=(("all", Counts(size * look, seen)),))
                if ours is Verdict.INCONCLUSIVE:
                    ours = estimators.judge(entry, plan, found).verdict
                if fixed is Verdict.INCONCLUSIVE:
                    fixed = estimators.judge(entry, _plan(n=size), found).verdict
            return {OURS: ours, "Clopper-Pearson at every look": fixed}

        return once

    def some(name: str, play: Callable[[float], Play], what: str) -> list[Case]:
        return [
            Case(name, f"{100 * share:g} % false positives{what} against < 1 %", keeps, ALPHA, play(share))
            for share, keeps in ((0.009, True), (0.011, False))
        ]

    return [
        *some("share (Clopper-Pearson)", alone, ""),
        *some("share of bursts (Korn-Graubard)", clustered, " in bursts"),
        *some("share at any time (confidence sequence)", anytime, ""),
    ]


def _judged_share(
    entry: CatalogueEntry, plan: ProfilePlan, found: Observations, failed: int
) -> dict[str, Verdict]:
    pooled = Observations(counts=(("all", Counts(ALERTS, failed)),))
    return {
        OURS: estimators.judge(entry, plan, found).verdict,
        "sample share": _said(failed < 0.01 * ALERTS),
        "Clopper-Pearson over all": estimators.judge(entry, plan, pooled).verdict,
    }


# ---------------------------------------------------------------------------------------- improvements


def _gains() -> list[Case]:
    n = 100

    def play(true: float, target: float, direction: Direction) -> Play:
        """The machine drifts by a third during the run, and every measurement is 10 % off."""
        entry = _entry(Estimator.GAIN, target, direction, "%")
        plan = _plan(n=n)
        ratio = math.log1p(-true / 100.0)

        def once(chance: Chance) -> dict[str, Verdict]:
            noise = 0.1 * chance.standard_normal((2, n))
            drifting = np.linspace(0.0, 0.3, n)
            base, other = np.exp(drifting + noise[0]), np.exp(ratio + drifting + noise[1])
            pairs = tuple(itertools.starmap(Pair, zip(base.tolist(), other.tolist(), strict=True)))
            # The other order: all of the candidate, then all of the baseline, while the machine slows down.
            first = np.exp(ratio + np.linspace(0.0, 0.15, n) + noise[1])
            second = np.exp(np.linspace(0.15, 0.3, n) + noise[0])
            return {
                OURS: estimators.judge(entry, plan, Observations(pairs=pairs)).verdict,
                "means, one side after the other": _said(
                    100.0 * (1.0 - float(first.mean() / second.mean())) > target
                ),
            }

        return once

    name = "gain (interleaved pairs, t on log ratios)"
    return [
        Case(name, "21 % less against ≥ 20 %", True, BETA, play(21.0, 20.0, Direction.AT_LEAST)),
        Case(name, "30 % less against ≥ 20 %", True, BETA, play(30.0, 20.0, Direction.AT_LEAST)),
        Case(name, "19 % less against ≥ 20 %", False, ALPHA, play(19.0, 20.0, Direction.AT_LEAST)),
        Case(name, "A/A: nothing against ≥ 5 %", False, ALPHA, play(0.0, 5.0, Direction.AT_LEAST)),
    ]


# ----------------------------------------------------------------------------------------- availability


def _outages() -> list[Case]:
    """A week of probes on two hosts; outages in clusters, their true sum known."""
    week = availability.WEEK_S

    def play(total_s: float) -> Play:
        def once(chance: Chance) -> dict[str, Verdict]:
            parts = chance.dirichlet(np.ones(12)) * total_s
            # Three clusters; within one, outages follow each other after a minute of service.
            starts = (np.array([0.1, 0.4, 0.7]) + chance.uniform(0.0, 0.2, 3)) * week
            outages = []
            for cluster, first in enumerate(starts):
                at = float(first)
                for part in parts[4 * cluster : 4 * cluster + 4]:
                    outages.append((at, at + float(part)))
                    at += float(part) + 60.0
            probes = {host: _probes(chance, outages, week) for host in ("mainpc", "pc2")}
            watched = availability.watch(probes, gap_s=7200.0)
            assert watched is not None
            proven = availability.budget(watched).proven
            ups = [probe.ok for asked in probes.values() for probe in asked]
            return {
                OURS: Verdict.INCONCLUSIVE if proven is None else _said(proven),
                "share of good probes": _said(sum(ups) / len(ups) >= 0.999),
            }

        return once

    name = "observed availability (outage episodes)"
    return [
        Case(name, f"{total:g} s of clustered outages in 7 days against ≤ 604.8 s", keeps, ALPHA, play(total))
        for total, keeps in ((590.0, True), (620.0, False))
    ]


def _probes(chance: Chance, outages: list[tuple[float, float]], week: float) -> list[Probe]:
    """One an hour, and around each outage one just before, within, and just after it."""
    times = [*np.arange(0.0, week, 3600.0).tolist(), week]
    for start, end in outages:
        late = chance.uniform(0.0, 0.1, 4)
        times += [start - late[0], min(start + late[1], end), max(end - late[2], start), end + late[3]]
    return [Probe(at, at, not any(start <= at <= end for start, end in outages)) for at in sorted(times)]


DRAWS = 400


def _projections() -> list[Case]:
    """Crashes at a known rate in bursts, each without service for a log-normal time."""
    fault = AssumedFault(
        fault="crash", per_week=40, low=40, high=40, burst=4.0, source="known", blocks=("crash",)
    )
    chance = np.random.default_rng(0)
    bursts = chance.poisson(fault.per_week / fault.burst, 40_000)
    extra = chance.negative_binomial(np.maximum(bursts, 1), 1.0 / fault.burst)
    faults = bursts + np.where(bursts > 0, extra, 0)
    weeks = np.array([np.exp(0.5 * chance.standard_normal(n)).sum() for n in faults])
    truth = float(np.quantile(weeks, 0.95))

    def play(target: float) -> Play:
        entry = _entry(Estimator.PROJECTION, target, Direction.AT_MOST, "s")
        plan = _plan(timeout_s=5.0)
        rule = replace(Rule.of(entry, plan), assumed=(fault,), draws=DRAWS)

        def once(chance: Chance) -> dict[str, Verdict]:
            lengths = np.exp(0.5 * chance.standard_normal(69))
            trials = tuple(Observation(value, block="crash") for value in lengths.tolist())
            judged = estimators.project(
                replace(rule, seed=int(chance.integers(2**31))), Observations(trials=trials)
            )
            return {
                OURS: judged.verdict,
                "rate times mean": _said(fault.per_week * float(lengths.mean()) <= target),
            }

        return once

    name = "projected availability (Monte-Carlo)"
    return [
        Case(name, "95 % of weeks lose 0.8 of the budget, in bursts", True, BETA, play(truth / 0.8)),
        Case(name, "95 % of weeks lose 1.05 of the budget, in bursts", False, ALPHA, play(truth / 1.05)),
    ]


# ------------------------------------------------------------------------------------- drift and census


def _drifts() -> list[Case]:
    def play(rise: float) -> Play:
        def once(chance: Chance) -> dict[str, Verdict]:
            values = np.exp(SPREAD * chance.standard_normal(146) + np.linspace(0.0, rise, 146))
            trials = tuple(Observation(value) for value in values.tolist())
            tests = drift.run_order(Observations(trials=trials))
            half = values.size // 2
            return {
                OURS: _said(not any(test.drifts for test in tests)),
                "second half took longer": _said(bool(values[half:].mean() <= values[:half].mean())),
            }

        return once

    name = "drift (Mann-Kendall and blocks)"
    return [
        Case(name, "a system that stays as it is", True, drift.ALPHA, play(0.0)),
        Case(name, "a system that takes twice as long at the end", False, ALPHA, play(math.log(2.0))),
    ]


def _censuses() -> list[Case]:
    entry = _entry(Estimator.CENSUS, 100.0, Direction.EXACTLY, "%")

    def play(right: int) -> Play:
        def once(chance: Chance) -> dict[str, Verdict]:
            kept = chance.permutation(77) < right
            trials = tuple(Observation(100.0 if one else 0.0, kept=bool(one)) for one in kept)
            found = Observations(trials=trials, population=77)
            asked = chance.permutation(77)[:30]
            return {
                OURS: estimators.judge(entry, _plan(), found).verdict,
                "30 agents asked": _said(bool(kept[asked].all())),
            }

        return once

    return [
        Case("census", f"{right} of 77 agents registered", right == 77, ALPHA, play(right))
        for right in (77, 76)
    ]
