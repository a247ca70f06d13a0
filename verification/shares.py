"""Shares: how many of a population are right, how many operations fail."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from reports.model import Direction, Verdict
from verification import sequential, statistics
from verification.observations import Counts, Observations
from verification.rules import MOST_TRIALS, Judgement, Rule, figure, trials_of


def census(rule: Rule, found: Observations, block: str | None) -> Judgement:
    """Every member of a population is asked; one that is wrong fails."""
    trials = trials_of(found, block)
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


def rate(rule: Rule, found: Observations, block: str | None) -> Judgement:
    """No operation may fail, and the bound of their share keeps the target."""
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
            reason=f"none of {n} failed: at most {figure(bound, rule.unit)} do "
            f"with {rule.confidence:.0%} confidence",
        )
    more = max(rule.n - n, statistics.trials_for_share(rule.target / 100.0, 0, rule.confidence) - n, 1)
    return replace(judged, reason=f"none of {n} failed, too few to prove it", trials_to_decide=more)


def share(rule: Rule, found: Observations, block: str | None) -> Judgement:
    """The share of failures (or of successes) keeps the target by its bound."""
    wanted = [counts for name, counts in found.counts if block is None or name == block]
    trials = trials_of(found, block)
    n = sum(c.total for c in wanted) + len(trials)
    failed = sum(c.failed for c in wanted) + sum(not rule.kept_by(trial) for trial in trials)
    if n == 0:
        return Judgement(Verdict.NOT_MEASURED, "nothing was tried", n=0, exceedances=0)
    sample = _effective(wanted, n, failed)
    lower, upper = _share_bounds(rule, sample, rule.confidence)
    good = rule.direction in {Direction.AT_LEAST, Direction.ABOVE}
    shown = [100.0 * (1.0 - share if good else share) for share in (failed / n, upper, lower)]
    judged = Judgement(
        Verdict.INCONCLUSIVE,
        "",
        shown[0],
        shown[1],
        n,
        failed,
        facts=(
            ("tried", f"{n:,}"),
            ("failed", f"{failed:,}"),
            *((("worth as much as", f"{sample.n:,.0f} independent ones"),) if sample.n < n else ()),
        ),
        error=None if rule.anytime else statistics.share_error(sample.n, sample.failed, rule.most_failed),
        interval=(min(shown[1:]), max(shown[1:])),
        interval_confidence=rule.confidence if rule.anytime else rule.interval_confidence,
    )
    limit = f"{100.0 * rule.most_failed:g} %"
    if _share_bounds(rule, sample, rule.fail_confidence)[0] > rule.most_failed:
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
        trials_to_decide=_more_of_a_share(rule, n, sample),
    )


BATCHES = 8
"""From so many batches of a block on, their spread tells whether failures come in clusters."""


@dataclass(frozen=True)
class _Sample:
    """A sample of independent operations that tells as much as the one that was taken."""

    n: float
    failed: float


def _effective(batches: Sequence[Counts], n: int, failed: int) -> _Sample:
    """Failures that come in clusters tell less than their number says.

    Where the counts come in batches: E. L. Korn, B. I. Graubard, "Confidence intervals for proportions with
    small expected number of positive counts", Survey Methodology 24 (1998): the size divided by the design
    effect. Theirs allows for its own error by Student's t; with few bursts that is too little (the self-test
    showed 5.7 % false passes for 5 %), so here it is the upper 95 % bound of the design effect.
    """
    k, share = len(batches), failed / n
    if k < BATCHES or not 0.0 < share < 1.0 or sum(c.total for c in batches) != n:
        return _Sample(n, failed)
    variance = k / (k - 1) * math.fsum((c.failed - share * c.total) ** 2 for c in batches) / n**2
    effect = variance / (share * (1.0 - share) / n) * statistics.spread_upper(k - 1)
    return _Sample(n, failed) if effect <= 1.0 else _Sample(n / effect, failed / effect)


def _share_bounds(rule: Rule, sample: _Sample, confidence: float) -> tuple[float, float]:
    if rule.anytime:
        return sequential.sequence_bounds(sample.n, sample.failed, confidence)
    return (
        statistics.share_lower(sample.n, sample.failed, confidence),
        statistics.share_upper(sample.n, sample.failed, confidence),
    )


def _more_of_a_share(rule: Rule, n: int, sample: _Sample) -> int | None:
    """About how many more would decide at the rate seen so far; None when it lies too near the limit."""
    worth, rate = sample.n / n, sample.failed / sample.n

    def decides(total: int) -> bool:
        lower, upper = _share_bounds(rule, _Sample(total * worth, total * worth * rate), rule.confidence)
        return lower > rule.most_failed or upper <= rule.most_failed

    low, high = n, max(n + 1, rule.n)
    while not decides(high):
        low, high = high, 2 * high
        if high > MOST_TRIALS:
            return None
    while high - low > max(1, low // 20):
        middle = (low + high) // 2
        low, high = (low, middle) if decides(middle) else (middle, high)
    return high - n
