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
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reports.model import Direction, Verdict
from verification import improvement, sequential, statistics
from verification.catalogue import CatalogueEntry, Estimator, ProfilePlan
from verification.observations import Observation, Observations
from verification.sequential import Stage, State

MOST_TRIALS = 10_000_000
"""No verdict advises more trials than that."""


@dataclass(frozen=True)
class Judgement:
    """A verdict with its figures, in the criterion's unit.

    `error` is the p-value of a pass (how often a system at the limit would do as well), `interval` the
    two-sided one around the estimate at `interval_confidence`, `stage` the look that decided, from 1.
    """

    verdict: Verdict
    reason: str
    estimate: float | None = None
    bound: float | None = None
    n: int | None = None
    exceedances: int | None = None
    trials_to_decide: int | None = None
    facts: tuple[tuple[str, str], ...] = ()
    error: float | None = None
    interval: tuple[float, float] | None = None
    interval_confidence: float | None = None
    stage: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Rule:
    """What the estimators need of a criterion and its plan, nothing of it optional."""

    target: float
    direction: Direction
    n: int
    coverage: float
    confidence: float
    fail_confidence: float
    unit: str | None
    stages: tuple[Stage, ...] = ()
    anytime: bool = False

    @classmethod
    def of(cls, entry: CatalogueEntry, plan: ProfilePlan, blocks: int = 1) -> Rule:
        """The rule of a planned criterion. Raises ValueError for one that no estimator can judge."""
        if entry.target is None or entry.direction is None:
            raise ValueError(f"{entry.id} has no target to be judged by")
        return cls(
            target=entry.target,
            direction=entry.direction,
            n=plan.n or 1,
            coverage=plan.coverage or 0.5,
            confidence=plan.confidence or 0.95,
            fail_confidence=1.0 - plan.beta / max(blocks, 1),
            unit=entry.unit,
            stages=plan.stages,
            anytime=plan.anytime,
        )

    @property
    def interval_confidence(self) -> float:
        """Of the interval between two one-sided bounds at `confidence`."""
        return 1.0 - 2.0 * (1.0 - self.confidence)

    @property
    def most_failed(self) -> float:
        """Of a share: the share of failures that the target allows (0 to 1)."""
        share = self.target / 100.0
        return share if self.direction in {Direction.AT_MOST, Direction.BELOW} else 1.0 - share

    def kept_by(self, trial: Observation) -> bool:
        """Whether a trial keeps the limit; one that did not end in time does not."""
        if trial.value is None:
            return False
        if trial.kept is not None:
            return trial.kept
        return self.direction.keeps(trial.value, self.target)


def judge(entry: CatalogueEntry, plan: ProfilePlan, found: Observations) -> Judgement:
    """The verdict of one criterion over all of its blocks."""
    blocks = found.blocks() if plan.blocks else ()
    rule = Rule.of(entry, plan, len(blocks))
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
    if not trials:
        first = rule.stages[0].n if rule.stages else rule.n
        return Judgement(Verdict.NOT_MEASURED, "no trial counts", n=0, exceedances=0, trials_to_decide=first)
    return _staged(rule, trials) if rule.stages else _fixed(rule, trials)


def _tail(rule: Rule, trials: Sequence[Observation]) -> Judgement:
    """The figures of a tail over these trials, without a verdict."""
    n, over = len(trials), sum(not rule.kept_by(trial) for trial in trials)
    values = [math.inf if trial.value is None else trial.value for trial in trials]
    upper = _finite(statistics.quantile_upper(values, rule.coverage, rule.confidence))
    lower = _finite(statistics.quantile_lower(values, rule.coverage, rule.confidence))
    return Judgement(
        Verdict.INCONCLUSIVE,
        "",
        _finite(statistics.quantile(values, rule.coverage)),
        upper,
        n,
        over,
        facts=_spread(values, rule.unit),
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
    bound = _finite(sorted(values)[look.n - 1 - rule.stages[look.stage or 0].pass_at_most])
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
    wanted = n
    while wanted < MOST_TRIALS:
        allowed = statistics.allowed_exceedances(wanted, rule.coverage, rule.confidence)
        if allowed is not None and allowed >= rate * wanted:
            return wanted
        wanted = math.ceil(wanted * 1.05)
    return None


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
    judged = Judgement(
        Verdict.INCONCLUSIVE,
        "",
        _finite(mean),
        _finite(upper),
        n,
        over,
        facts=_spread(values, rule.unit),
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


def _rate(rule: Rule, found: Observations, block: str | None) -> Judgement:
    wanted = [counts for name, counts in found.counts if block is None or name == block]
    n, failed = sum(c.total for c in wanted), sum(c.failed for c in wanted)
    if n == 0:
        return Judgement(Verdict.NOT_MEASURED, "nothing was tried", n=0, exceedances=0)
    estimate = 100.0 * failed / n
    bound = 100.0 * statistics.share_upper(n, failed, rule.confidence)
    facts = (("operations", f"{n:,}"), ("failed", f"{failed:,}"))
    judged = Judgement(
        Verdict.INCONCLUSIVE,
        "",
        estimate,
        bound,
        n,
        failed,
        facts=facts,
        error=statistics.share_error(n, failed, rule.most_failed),
        interval=(100.0 * statistics.share_lower(n, failed, rule.confidence), bound),
        interval_confidence=rule.interval_confidence,
    )
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


def _share(rule: Rule, found: Observations, block: str | None) -> Judgement:
    wanted = [counts for name, counts in found.counts if block is None or name == block]
    trials = _trials(found, block)
    n = sum(c.total for c in wanted) + len(trials)
    failed = sum(c.failed for c in wanted) + sum(not rule.kept_by(trial) for trial in trials)
    if n == 0:
        return Judgement(Verdict.NOT_MEASURED, "nothing was tried", n=0, exceedances=0)
    lower, upper = _share_bounds(rule, n, failed, rule.confidence)
    good = rule.direction in {Direction.AT_LEAST, Direction.ABOVE}
    shown = [100.0 * (1.0 - share if good else share) for share in (failed / n, upper, lower)]
    judged = Judgement(
        Verdict.INCONCLUSIVE,
        "",
        shown[0],
        shown[1],
        n,
        failed,
        facts=(("tried", f"{n:,}"), ("failed", f"{failed:,}")),
        error=None if rule.anytime else statistics.share_error(n, failed, rule.most_failed),
        interval=(min(shown[1:]), max(shown[1:])),
        interval_confidence=rule.confidence if rule.anytime else rule.interval_confidence,
    )
    limit = f"{100.0 * rule.most_failed:g} %"
    if _share_bounds(rule, n, failed, rule.fail_confidence)[0] > rule.most_failed:
        return replace(
            judged, verdict=Verdict.FAIL, reason=f"{failed:,} of {n:,} failed: certainly more than {limit}"
        )
    if n >= rule.n and rule.direction.keeps(shown[1], rule.target):
        return replace(
            judged,
            verdict=Verdict.PASS,
            reason=f"{failed:,} of {n:,} failed: at most {100.0 * upper:.3g} % do "
            f"with {rule.confidence:.0%} confidence" + (" at every moment" if rule.anytime else ""),
        )
    return replace(
        judged,
        reason=f"{failed:,} of {n:,} failed, which neither proves nor refutes {limit}",
        trials_to_decide=_more_of_a_share(rule, n, failed),
    )


def _share_bounds(rule: Rule, n: int, failed: int, confidence: float) -> tuple[float, float]:
    if rule.anytime:
        return sequential.sequence_bounds(n, failed, confidence)
    return (
        statistics.share_lower(n, failed, confidence),
        statistics.share_upper(n, failed, confidence),
    )


def _more_of_a_share(rule: Rule, n: int, failed: int) -> int | None:
    """About how many more would decide at the rate seen so far; None when it lies too near the limit."""
    rate, total = failed / n, max(n, rule.n)
    while total < MOST_TRIALS:
        lower, upper = _share_bounds(rule, total, round(rate * total), rule.confidence)
        if total > n and (lower > rule.most_failed or upper <= rule.most_failed):
            return total - n
        total = math.ceil(total * 1.05) + 1
    return None


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
    limit = _figure(rule.target, rule.unit)
    if not rule.direction.keeps(improvement.gain(pairs, rule.fail_confidence).upper, rule.target):
        return replace(
            judged, verdict=Verdict.FAIL, reason=f"the gain over {n} pairs is certainly below {limit}"
        )
    if rule.direction.keeps(told.lower, rule.target) and n >= rule.n:
        return replace(
            judged,
            verdict=Verdict.PASS,
            reason=f"the gain over {n} interleaved pairs is at least {_figure(told.lower, rule.unit)} "
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
    Estimator.SHARE: _share,
    Estimator.GAIN: _gain,
}
