"""From observations to a verdict, by the plan that was fixed before the trials.

Every estimator is pure. The rules that hold for all of them: without data there is no verdict but
*not measured*; a timeout is an exceedance; a block with too few trials makes the verdict *inconclusive* and
says how many more would decide; the worst block speaks for the criterion.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reports.model import Direction, Verdict
from verification import statistics
from verification.catalogue import CatalogueEntry, Estimator, ProfilePlan
from verification.observations import Observation, Observations


@dataclass(frozen=True)
class Judgement:
    """A verdict with its figures, in the criterion's unit."""

    verdict: Verdict
    reason: str
    estimate: float | None = None
    bound: float | None = None
    n: int | None = None
    exceedances: int | None = None
    trials_to_decide: int | None = None
    facts: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Rule:
    """What the estimators need of a criterion and its plan, nothing of it optional."""

    target: float
    direction: Direction
    n: int
    coverage: float
    confidence: float
    unit: str | None

    @classmethod
    def of(cls, entry: CatalogueEntry, plan: ProfilePlan) -> Rule:
        """The rule of a planned criterion. Raises ValueError for one that no estimator can judge."""
        if entry.target is None or entry.direction is None:
            raise ValueError(f"{entry.id} has no target to be judged by")
        return cls(
            target=entry.target,
            direction=entry.direction,
            n=plan.n or 1,
            coverage=plan.coverage or 0.5,
            confidence=plan.confidence or 0.95,
            unit=entry.unit,
        )

    def kept_by(self, trial: Observation) -> bool:
        """Whether a trial keeps the limit; one that did not end in time does not."""
        if trial.value is None:
            return False
        if trial.kept is not None:
            return trial.kept
        return self.direction.keeps(trial.value, self.target)


def judge(entry: CatalogueEntry, plan: ProfilePlan, found: Observations) -> Judgement:
    """The verdict of one criterion over all of its blocks."""
    rule = Rule.of(entry, plan)
    if not found.trials and not found.counts:
        if found.voids:
            reason = f"all {len(found.voids)} trials are void: {found.voids[0].reason}"
            return Judgement(Verdict.VOID, reason, n=0)
        return Judgement(Verdict.NOT_MEASURED, "the history holds no trial of it", n=0)
    one = _ESTIMATORS.get(entry.estimator)
    if one is None:
        return Judgement(Verdict.NOT_MEASURED, "nothing measures it yet")
    if not plan.blocks:
        return one(rule, found, None)
    return _worst({block: one(rule, found, block) for block in found.blocks()})


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
        facts=tuple((f"{fact} ({block})", value) for block, j in judged.items() for fact, value in j.facts),
    )


def _badness(judgement: Judgement) -> float:
    return math.inf if judgement.bound is None else judgement.bound


def _trials(found: Observations, block: str | None) -> tuple[Observation, ...]:
    return tuple(trial for trial in found.trials if block is None or trial.block == block)


def _finite(value: float | None) -> float | None:
    return None if value is None or math.isinf(value) else value


def _figure(value: float, unit: str | None) -> str:
    shown = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{shown} {unit}" if unit else shown


def _census(rule: Rule, found: Observations, block: str | None) -> Judgement:
    trials = _trials(found, block)
    n, wrong = len(trials), sum(not rule.kept_by(trial) for trial in trials)
    if n == 0:
        return Judgement(Verdict.NOT_MEASURED, "nobody was asked", n=0, exceedances=0)
    size = found.population if found.population is not None else n
    estimate = 100.0 * (n - wrong) / n
    facts = (("right", f"{n - wrong} of {size}"),)
    if wrong:
        names = ", ".join(found.missing[:5]) + (" …" if len(found.missing) > 5 else "")
        reason = f"{wrong} of {n} are wrong" + (f": {names}" if names else "")
        return Judgement(Verdict.FAIL, reason, estimate, estimate, n, wrong, facts=facts)
    if n < size:
        reason = f"only {n} of {size} were asked"
        return Judgement(Verdict.INCONCLUSIVE, reason, estimate, None, n, 0, size - n, facts)
    return Judgement(Verdict.PASS, f"all {n} are right", estimate, estimate, n, 0, facts=facts)


def _quantile(rule: Rule, found: Observations, block: str | None) -> Judgement:
    trials = _trials(found, block)
    n, over = len(trials), sum(not rule.kept_by(trial) for trial in trials)
    if n == 0:
        return Judgement(Verdict.NOT_MEASURED, "no trial counts", n=0, exceedances=0, trials_to_decide=rule.n)
    values = [math.inf if trial.value is None else trial.value for trial in trials]
    estimate = statistics.quantile(values, rule.coverage)
    bound = statistics.quantile_upper(values, rule.coverage, rule.confidence)
    facts = _spread(values, rule.unit)
    share = f"{rule.coverage:.0%}"
    allowed = statistics.allowed_exceedances(n, rule.coverage, rule.confidence)
    judged = Judgement(Verdict.INCONCLUSIVE, "", _finite(estimate), _finite(bound), n, over, facts=facts)
    if statistics.share_lower(n, over, rule.confidence) > 1.0 - rule.coverage:
        return replace(
            judged,
            verdict=Verdict.FAIL,
            reason=f"{over} of {n} trials break the limit: fewer than {share} keep it "
            f"with {rule.confidence:.0%} confidence",
        )
    if allowed is not None and over <= allowed and n >= rule.n:
        return replace(
            judged,
            verdict=Verdict.PASS,
            reason=f"{over} of {n} trials break the limit: at least {share} keep it "
            f"with {rule.confidence:.0%} confidence",
        )
    more = max(statistics.required_trials(rule.coverage, rule.confidence, over), rule.n) - n
    more = max(more, 1)
    return replace(
        judged,
        reason=f"{over} of {n} trials break the limit, which neither proves nor refutes it",
        trials_to_decide=more,
    )


def _mean(rule: Rule, found: Observations, block: str | None) -> Judgement:
    trials = _trials(found, block)
    n, over = len(trials), sum(not rule.kept_by(trial) for trial in trials)
    if n < 2:
        verdict = Verdict.INCONCLUSIVE if n else Verdict.NOT_MEASURED
        reason = "one trial has no spread" if n else "no trial counts"
        return Judgement(verdict, reason, n=n, exceedances=over, trials_to_decide=rule.n - n)
    values = [math.inf if trial.value is None else trial.value for trial in trials]
    mean = math.inf if any(map(math.isinf, values)) else math.fsum(values) / n
    lower, upper = statistics.mean_bounds(values, rule.confidence)
    facts = _spread(values, rule.unit)
    judged = Judgement(Verdict.INCONCLUSIVE, "", _finite(mean), _finite(upper), n, over, facts=facts)
    if not rule.direction.keeps(lower, rule.target):
        what = "trials without an answer have no mean" if math.isinf(lower) else "the mean breaks the limit"
        return replace(judged, verdict=Verdict.FAIL, reason=f"{what}, {over} of {n} trials do")
    if rule.direction.keeps(upper, rule.target) and n >= rule.n:
        return replace(
            judged,
            verdict=Verdict.PASS,
            reason=f"the mean of {n} trials keeps the limit with {rule.confidence:.0%} confidence",
        )
    more = max(rule.n - n, 1)
    return replace(judged, reason=f"{n} trials do not decide", trials_to_decide=more)


def _rate(rule: Rule, found: Observations, block: str | None) -> Judgement:
    wanted = [counts for name, counts in found.counts if block is None or name == block]
    n, failed = sum(c.total for c in wanted), sum(c.failed for c in wanted)
    if n == 0:
        return Judgement(Verdict.NOT_MEASURED, "nothing was tried", n=0, exceedances=0)
    estimate = 100.0 * failed / n
    bound = 100.0 * statistics.share_upper(n, failed, rule.confidence)
    facts = (("operations", f"{n:,}"), ("failed", f"{failed:,}"))
    judged = Judgement(Verdict.INCONCLUSIVE, "", estimate, bound, n, failed, facts=facts)
    if failed:
        return replace(judged, verdict=Verdict.FAIL, reason=f"{failed} of {n} failed; none may")
    if rule.direction.keeps(bound, rule.target) and n >= rule.n:
        return replace(
            judged,
            verdict=Verdict.PASS,
            reason=f"none of {n} failed: at most {_figure(bound, rule.unit)} do "
            f"with {rule.confidence:.0%} confidence",
        )
    more = max(rule.n - n, statistics.trials_for_share(rule.target / 100.0, 0, rule.confidence) - n, 1)
    return replace(judged, reason=f"none of {n} failed, too few to prove it", trials_to_decide=more)


def _spread(values: Sequence[float], unit: str | None) -> tuple[tuple[str, str], ...]:
    def shown(value: float) -> str:
        return "no answer" if math.isinf(value) else _figure(value, unit)

    return tuple(
        (name, shown(statistics.quantile(values, share)))
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
    )


_ESTIMATORS: dict[Estimator, Callable[[Rule, Observations, str | None], Judgement]] = {
    Estimator.CENSUS: _census,
    Estimator.QUANTILE: _quantile,
    Estimator.MEAN: _mean,
    Estimator.RATE: _rate,
}
