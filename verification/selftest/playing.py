"""Plays every case many times and counts how often each judge was wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from reports.model import SelfTest, SelfTestRate, Verdict
from verification import statistics
from verification.selftest.cases import OURS, Case, cases

FILE = "selftest.json"
CONFIDENCE = 0.95


def run(
    runs: int,
    seed: int,
    *,
    created: str,
    commit: str | None = None,
    chosen: Sequence[Case] | None = None,
    tell: Callable[[Case, int], None] = lambda _case, _runs: None,
) -> SelfTest:
    """Plays each case `runs` times. The same arguments give the same result.

    Raises ValueError for less than one run. `tell` is told of each case that begins.
    """
    if runs < 1:
        raise ValueError(f"the self-test needs at least one run, got {runs}")
    rates: list[SelfTestRate] = []
    for number, case in enumerate(cases() if chosen is None else chosen):
        tell(case, runs)
        chance = np.random.default_rng([seed, number])
        counts: dict[str, Counter[Verdict]] = {}
        for _ in range(runs):
            for judge, verdict in case.play(chance).items():
                counts.setdefault(judge, Counter())[verdict] += 1
        rates += [_rate(case, judge, runs, seen) for judge, seen in counts.items()]
    broken = [f"{rate.estimator}: {rate.system}" for rate in rates if rate.holds is False]
    return SelfTest(
        created=created,
        verdict=Verdict.FAIL if broken else Verdict.PASS,
        runs=runs,
        seed=seed,
        rates=tuple(rates),
        commit=commit,
        detail="; ".join(broken) or None,
    )


def _rate(case: Case, judge: str, runs: int, seen: Counter[Verdict]) -> SelfTestRate:
    passed, failed = seen[Verdict.PASS], seen[Verdict.FAIL]
    wrong = failed if case.keeps else passed
    low = statistics.share_lower(runs, wrong, CONFIDENCE)
    high = statistics.share_upper(runs, wrong, CONFIDENCE)
    ours = judge == OURS
    return SelfTestRate(
        judge=judge,
        estimator=case.estimator,
        system=case.system,
        keeps_target=case.keeps,
        runs=runs,
        passed=passed,
        failed=failed,
        undecided=runs - passed - failed,
        error=wrong / runs,
        low=low,
        high=high,
        limit=case.limit if ours else None,
        holds=holds(low, high, case.limit, keeps=case.keeps) if ours else None,
    )


def holds(low: float, high: float, limit: float, *, keeps: bool) -> bool:
    """Whether an error keeps what the plan claims.

    A false pass must be *shown* to be rare: its upper bound keeps the limit. A false fail, which harms nobody
    but the impatient, must be compatible with its limit.
    """
    return low <= limit if keeps else high <= limit
