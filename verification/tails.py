"""Tails and means: whether a quantile, or the mean, of what trials took keeps its limit."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from reports.model import Verdict
from verification import sequential, statistics
from verification.observations import Observation, Observations
from verification.rules import MOST_TRIALS, Judgement, Rule, finite, spread, trials_of
from verification.sequential import State


def quantile(rule: Rule, found: Observations, block: str | None) -> Judgement:
    """At least `coverage` of the population keeps the target (Wilks), at once or by the looks of a plan."""
    trials = trials_of(found, block)
    if not trials:
        first = rule.stages[0].n if rule.stages else rule.n
        return Judgement(Verdict.NOT_MEASURED, "no trial counts", n=0, exceedances=0, trials_to_decide=first)
    return _staged(rule, trials) if rule.stages else _fixed(rule, trials)


def _tail(rule: Rule, trials: Sequence[Observation]) -> Judgement:
    """The figures of a tail over these trials, without a verdict."""
    n, over = len(trials), sum(not rule.kept_by(trial) for trial in trials)
    values = [math.inf if trial.value is None else trial.value for trial in trials]
    upper = finite(statistics.quantile_upper(values, rule.coverage, rule.confidence))
    lower = finite(statistics.quantile_lower(values, rule.coverage, rule.confidence))
    return Judgement(
        Verdict.INCONCLUSIVE,
        "",
        finite(statistics.quantile(values, rule.coverage)),
        upper,
        n,
        over,
        facts=spread(values, rule.unit),
        error=statistics.share_error(n, over, 1.0 - rule.coverage),
        interval=None if upper is None or lower is None else (lower, upper),
        interval_confidence=None if upper is None or lower is None else rule.interval_confidence,
    )


def _fixed(rule: Rule, trials: Sequence[Observation]) -> Judgement:
    judged = _tail(rule, trials)
    n, over, share = judged.n or 0, judged.exceedances or 0, f"{rule.coverage:.0%}"
    allowed = statistics.allowed_exceedances(n, rule.coverage, rule.confidence)
    if statistics.share_lower(n, over, rule.fail_confidence) > 1.0 - rule.coverage:
        return replace(
            judged,
            verdict=Verdict.FAIL,
            reason=f"{over} of {n} trials break the limit: fewer than {share} keep it "
            f"with {rule.fail_confidence:.3g} confidence",
        )
    if allowed is not None and over <= allowed and n >= rule.n:
        return replace(
            judged,
            verdict=Verdict.PASS,
            reason=f"{over} of {n} trials break the limit: at least {share} keep it "
            f"with {rule.confidence:.0%} confidence",
        )
    more = max(statistics.required_trials(rule.coverage, rule.confidence, over), rule.n) - n
    return replace(
        judged,
        reason=f"{over} of {n} trials break the limit, which neither proves nor refutes it",
        trials_to_decide=max(more, 1),
    )


def _staged(rule: Rule, trials: Sequence[Observation]) -> Judgement:
    """By the looks of the plan alone: what came after the deciding one is told and changes no pass."""
    look = sequential.next_stage(rule.stages, [not rule.kept_by(trial) for trial in trials])
    judged = replace(
        _tail(rule, trials), error=sequential.stagewise_error(rule.stages, look, 1 - rule.coverage)
    )
    n, over, share = judged.n or 0, judged.exceedances or 0, f"{rule.coverage:.0%}"
    told = f"{look.exceedances} of the first {look.n} trials break the limit"
    if look.state is State.CONTINUE:
        return replace(
            judged,
            error=1.0,
            reason=f"{told}, the plan's next look is not reached",
            trials_to_decide=look.more,
        )
    if look.state is State.UNDECIDED:
        return replace(
            judged,
            reason=f"{told}: the plan's last look neither proves nor refutes it",
            trials_to_decide=_fresh_trials(rule, n, over),
        )
    number = None if look.stage is None else look.stage + 1
    facts = (("look", f"{number} of {len(rule.stages)}, after {look.n} trials"), *judged.facts)
    if look.state is State.FAIL:
        return replace(
            judged, verdict=Verdict.FAIL, stage=number, facts=facts, reason=f"{told}: too many at that look"
        )
    later = n - look.n
    if later and statistics.share_lower(n, over, rule.fail_confidence) > 1.0 - rule.coverage:
        return replace(
            judged, error=1.0, facts=facts, reason=f"{told}, but {over} of all {n} do: the system changed"
        )
    values = [math.inf if trial.value is None else trial.value for trial in trials[: look.n]]
    bound = finite(sorted(values)[look.n - 1 - rule.stages[look.stage or 0].pass_at_most])
    return replace(
        judged,
        verdict=Verdict.PASS,
        stage=number,
        bound=bound,
        interval=None
        if judged.interval is None or bound is None
        else (min(judged.interval[0], bound), bound),
        facts=facts,
        reason=f"{told}: at least {share} keep it with {rule.confidence:.0%} confidence over all looks",
        notes=(f"{later} trials came after the deciding look",) if later else (),
    )


def _fresh_trials(rule: Rule, n: int, over: int) -> int | None:
    """Trials of a new campaign that would pass at the rate seen here; None when that rate cannot pass."""
    rate = over / n
    if rate >= 1.0 - rule.coverage:
        return None

    def passes(wanted: int) -> bool:
        allowed = statistics.allowed_exceedances(wanted, rule.coverage, rule.confidence)
        return allowed is not None and allowed >= rate * wanted

    low, high = 0, n
    while not passes(high):
        low, high = high, 2 * high
        if high > MOST_TRIALS:
            return None
    while high - low > max(1, low // 20):
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle, high)
    return high


def mean(rule: Rule, found: Observations, block: str | None) -> Judgement:
    """The mean keeps the target by its one-sided bound (Student's t)."""
    trials = trials_of(found, block)
    n, over = len(trials), sum(not rule.kept_by(trial) for trial in trials)
    if n < 2:
        verdict = Verdict.INCONCLUSIVE if n else Verdict.NOT_MEASURED
        reason = "one trial has no spread" if n else "no trial counts"
        return Judgement(verdict, reason, n=n, exceedances=over, trials_to_decide=rule.n - n)
    values = [math.inf if trial.value is None else trial.value for trial in trials]
    middle = math.inf if any(map(math.isinf, values)) else math.fsum(values) / n
    lower, upper = statistics.mean_bounds(values, rule.confidence)
    judged = Judgement(
        Verdict.INCONCLUSIVE,
        "",
        finite(middle),
        finite(upper),
        n,
        over,
        facts=spread(values, rule.unit),
        error=statistics.mean_error(values, rule.target),
        interval=None if math.isinf(upper) else (lower, upper),
        interval_confidence=None if math.isinf(upper) else rule.interval_confidence,
    )
    lower = statistics.mean_bounds(values, rule.fail_confidence)[0]
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
