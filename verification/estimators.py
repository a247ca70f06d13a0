"""From observations to a verdict, by the plan that was fixed before the trials.

Every estimator is pure. The rules that hold for all of them: without data there is no verdict but
*not measured*; a timeout is an exceedance; a figure that cannot be (NaN, a negative duration) makes the
criterion *void*; a block with too few trials makes the verdict *inconclusive* and says how many more would
decide; the worst block speaks for the criterion.

All blocks must pass, each at the plan's confidence, so a false pass of the criterion is no more frequent
than one of its worst block. A fail of one block suffices, so their chances of a false fail add up: each block
gets its share of that error (Bonferroni).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from reports.model import Verdict
from verification import availability, improvement, shares, tails
from verification.catalogue import AssumedFault, CatalogueEntry, Estimator, ProfilePlan
from verification.observations import Observations
from verification.rules import Judgement, Rule, figure

__all__ = ["Judgement", "Rule", "judge", "project"]


def judge(
    entry: CatalogueEntry,
    plan: ProfilePlan,
    found: Observations,
    assumed: tuple[AssumedFault, ...] = (),
    seed: int = 0,
) -> Judgement:
    """The verdict of one criterion over all its blocks; a projection needs the `assumed` rates."""
    blocks = found.blocks() if plan.blocks else ()
    rule = replace(Rule.of(entry, plan, len(blocks)), assumed=assumed, seed=seed)
    impossible = _impossible(entry, found)
    if impossible is not None:
        return Judgement(Verdict.VOID, impossible)
    if not found.trials and not found.counts and not found.pairs:
        if found.voids:
            reason = f"all {len(found.voids)} trials are void: {found.voids[0].reason}"
            return Judgement(Verdict.VOID, reason, n=0)
        return Judgement(Verdict.NOT_MEASURED, "the history holds no trial of it", n=0)
    one = _ESTIMATORS.get(entry.estimator)
    if one is None:
        return Judgement(Verdict.NOT_MEASURED, "nothing measures it yet")
    if not plan.blocks:
        return one(rule, found, None)
    return _worst({block: one(rule, found, block) for block in blocks})


_NEVER_NEGATIVE = frozenset({"ns", "µs", "ms", "s", "B", "KB", "MB", "GB", "%"})


def _impossible(entry: CatalogueEntry, found: Observations) -> str | None:
    """A figure that no working instrument gives, in a sentence; None when there is none."""
    positive = entry.unit in _NEVER_NEGATIVE
    for trial in found.trials:
        if trial.value is not None and not math.isfinite(trial.value):
            return f"trial {trial.label or '?'} has {trial.value} for a figure: the instrument is broken"
        if positive and trial.value is not None and trial.value < 0.0:
            return f"trial {trial.label or '?'} took {trial.value:g} {entry.unit}: its clock went back"
    for block, counts in found.counts:
        if not 0 <= counts.failed <= counts.total:
            return f"{block} counts {counts.failed} failures of {counts.total}: the instrument is broken"
    for pair in found.pairs:
        if not (0.0 < pair.baseline < math.inf and 0.0 < pair.candidate < math.inf):
            told = f"{pair.baseline:g} and {pair.candidate:g}"
            return f"a pair has the costs {told}, which must be above zero: the instrument is broken"
    return None


_SEVERITY = (Verdict.FAIL, Verdict.VOID, Verdict.NOT_MEASURED, Verdict.INCONCLUSIVE, Verdict.PASS)


def _worst(judged: dict[str, Judgement]) -> Judgement:
    """The worst block's figures, the counts of all."""
    name, worst = min(judged.items(), key=lambda item: (_SEVERITY.index(item[1].verdict), -_badness(item[1])))
    more = [j.trials_to_decide for j in judged.values() if j.trials_to_decide is not None]
    missing = worst.verdict is Verdict.NOT_MEASURED and any(
        one.verdict is not Verdict.NOT_MEASURED for one in judged.values()
    )
    return replace(
        worst,
        verdict=Verdict.INCONCLUSIVE if missing else worst.verdict,
        reason=worst.reason if worst.verdict is Verdict.PASS else f"{name}: {worst.reason}",
        n=sum(j.n or 0 for j in judged.values()),
        exceedances=sum(j.exceedances or 0 for j in judged.values()),
        trials_to_decide=sum(more) if more else None,
        error=max((j.error for j in judged.values() if j.error is not None), default=None),
        notes=tuple(f"{block}: {note}" for block, j in judged.items() for note in j.notes),
        facts=tuple((f"{fact} ({block})", value) for block, j in judged.items() for fact, value in j.facts),
    )


def _badness(judgement: Judgement) -> float:
    return math.inf if judgement.bound is None else judgement.bound


def _gain(rule: Rule, found: Observations, block: str | None) -> Judgement:
    pairs = [pair for pair in found.pairs if block is None or pair.block == block]
    n = len(pairs)
    if n < 2:
        verdict = Verdict.INCONCLUSIVE if n else Verdict.NOT_MEASURED
        reason = "one pair has no spread" if n else "no pair of runs counts"
        return Judgement(verdict, reason, n=n, trials_to_decide=rule.n - n)
    told = improvement.gain(pairs, rule.confidence)
    behind = sum(100.0 * (1.0 - pair.candidate / pair.baseline) < rule.target for pair in pairs)
    judged = Judgement(
        Verdict.INCONCLUSIVE,
        "",
        told.estimate,
        told.lower,
        n,
        behind,
        error=improvement.error(pairs, rule.target),
        interval=(told.lower, told.upper),
        interval_confidence=rule.interval_confidence,
        facts=(("pairs", f"{n}"), ("pairs behind the target", f"{behind}")),
    )
    limit = figure(rule.target, rule.unit)
    if not rule.direction.keeps(improvement.gain(pairs, rule.fail_confidence).upper, rule.target):
        return replace(
            judged, verdict=Verdict.FAIL, reason=f"the gain over {n} pairs is certainly below {limit}"
        )
    if rule.direction.keeps(told.lower, rule.target) and n >= rule.n:
        return replace(
            judged,
            verdict=Verdict.PASS,
            reason=f"the gain over {n} interleaved pairs is at least {figure(told.lower, rule.unit)} "
            f"with {rule.confidence:.0%} confidence",
        )
    needed = improvement.pairs_needed(pairs, rule.target, rule.confidence)
    return replace(
        judged,
        reason=f"{n} pairs neither prove nor refute a gain of {limit}",
        trials_to_decide=None
        if needed is None
        else max(needed, rule.n) - n
        if needed > n or rule.n > n
        else 1,
    )


def _projection(rule: Rule, found: Observations, block: str | None) -> Judgement:
    return project(rule, found)


def project(rule: Rule, found: Observations) -> Judgement:
    """A week's downtime from the measured outages (blocks: kinds of fault, values: seconds): pass or open."""
    outages_s: dict[str, list[float]] = {}
    for trial in found.trials:
        outages_s.setdefault(trial.block, []).append(rule.longest_s if trial.value is None else trial.value)
    n = len(found.trials)
    missing = [fault.fault for fault in rule.assumed if not any(outages_s.get(kind) for kind in fault.blocks)]
    if missing or not rule.assumed:
        told = ", ".join(missing) or "any fault: no rate is stated"
        return Judgement(Verdict.INCONCLUSIVE, f"no outage was measured of {told}", n=n)
    projected = availability.project(
        outages_s,
        rule.assumed,
        criterion="",
        longest_s=rule.longest_s,
        seed=rule.seed,
        confidence=rule.confidence,
        budget_s=rule.target,
        draws=rule.draws,
    )
    kept = rule.direction.keeps(projected.high_s, rule.target)
    return Judgement(
        Verdict.PASS if kept else Verdict.INCONCLUSIVE,
        f"projected, not observed: {rule.confidence:.0%} of weeks lose at most "
        f"{figure(projected.high_s, rule.unit)} of {figure(rule.target, rule.unit)}",
        estimate=projected.downtime_s,
        bound=projected.high_s,
        n=n,
        interval=(projected.low_s, projected.high_s),
        interval_confidence=projected.confidence,
        projection=projected,
    )


_ESTIMATORS: dict[Estimator, Callable[[Rule, Observations, str | None], Judgement]] = {
    Estimator.CENSUS: shares.census,
    Estimator.QUANTILE: tails.quantile,
    Estimator.MEAN: tails.mean,
    Estimator.RATE: shares.rate,
    Estimator.SHARE: shares.share,
    Estimator.GAIN: _gain,
    Estimator.PROJECTION: _projection,
}
