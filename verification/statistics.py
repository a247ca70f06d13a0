"""The statistics behind verdicts: tolerance bounds, intervals of shares, bounds of means.

All are one-sided. SciPy does the arithmetic; the tests hold it against published tables and naive sums.

- Tolerance by order statistics: S. S. Wilks, "Determination of sample sizes for setting tolerance limits",
  Ann. Math. Statist. 12 (1941). With `n` trials of which at most `c` exceed a limit, at least `coverage` of
  the population keeps the limit with confidence `1 - P(Bin(n, 1 - coverage) <= c)`.
- Share of failures: C. J. Clopper, E. S. Pearson, Biometrika 26 (1934), one-sided.
- Several claims at once: S. Holm, "A simple sequentially rejective multiple test procedure", Scand. J.
  Statist. 6 (1979).
- Drift over the order of the trials: H. B. Mann, Econometrica 13 (1945) and M. G. Kendall (a trend); W. H.
  Kruskal, W. A. Wallis, J. Amer. Statist. Assoc. 47 (1952) (stretches that differ).
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special, stats


def _check_share(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie between 0 and 1, got {value!r}")


def tolerance_confidence(n: int, exceedances: int, coverage: float) -> float:
    """Confidence with which these trials show that `coverage` of the population keeps the limit."""
    _check_share("coverage", coverage)
    if n <= 0:
        return 0.0
    if exceedances >= n:
        return 0.0
    return float(special.bdtrc(exceedances, n, 1.0 - coverage))


def allowed_exceedances(n: int, coverage: float, confidence: float) -> int | None:
    """The most exceedances with which `n` trials still show `coverage`; None when `n` is too small."""
    _check_share("confidence", confidence)
    if tolerance_confidence(n, 0, coverage) < confidence:
        return None
    # The largest c with P(Bin(n, 1 - coverage) <= c) <= 1 - confidence.
    low, high = 0, n  # allowed, not allowed
    while high - low > 1:
        middle = (low + high) // 2
        if tolerance_confidence(n, middle, coverage) >= confidence:
            low = middle
        else:
            high = middle
    return low


def required_trials(coverage: float, confidence: float, exceedances: int = 0) -> int:
    """The fewest trials that show `coverage` at `confidence` when `exceedances` of them exceed the limit.

    95/95: 59, 93, 124 for 0, 1, 2 exceedances; 99/95: 299, 473, 628; 99/99: 459, 662, 838.
    """
    _check_share("coverage", coverage)
    _check_share("confidence", confidence)
    low, high = exceedances, max(2 * (exceedances + 1), 2)
    while tolerance_confidence(high, exceedances, coverage) < confidence:
        low, high = high, high * 2
    while high - low > 1:
        middle = (low + high) // 2
        if tolerance_confidence(middle, exceedances, coverage) >= confidence:
            high = middle
        else:
            low = middle
    return high


def share_upper(n: float, failures: float, confidence: float) -> float:
    """Clopper-Pearson upper bound of the share of failures; 1 when nothing was tried.

    Fractions are sizes of an effective sample.
    """
    _check_share("confidence", confidence)
    _check_counts(n, failures)
    if failures == n:
        return 1.0
    return float(special.betaincinv(failures + 1, n - failures, confidence))


def share_lower(n: float, failures: float, confidence: float) -> float:
    """Clopper-Pearson lower bound of the share of failures; 0 when nothing was tried."""
    _check_share("confidence", confidence)
    _check_counts(n, failures)
    if failures == 0:
        return 0.0
    return float(special.betaincinv(failures, n - failures + 1, 1.0 - confidence))


def trials_for_share(limit: float, failures: int, confidence: float) -> int:
    """The fewest trials that show a share of at most `limit` when `failures` of them failed."""
    return required_trials(1.0 - limit, confidence, failures)


def quantile_upper(values: Sequence[float], coverage: float, confidence: float) -> float | None:
    """The order statistic that is an upper bound of the `coverage` quantile; None with too few values.

    An infinite value stands for a trial that timed out; the bound can then be infinite.
    """
    allowed = allowed_exceedances(len(values), coverage, confidence)
    if allowed is None:
        return None
    return sorted(values)[len(values) - 1 - allowed]


def quantile_lower(values: Sequence[float], coverage: float, confidence: float) -> float | None:
    """The order statistic that is a lower bound of the `coverage` quantile; None with too few values."""
    n = len(values)
    low, high = 0, n + 1  # the largest rank r with P(Bin(n, coverage) >= r) >= confidence
    while high - low > 1:
        middle = (low + high) // 2
        if float(special.bdtrc(middle - 1, n, coverage)) >= confidence:
            low = middle
        else:
            high = middle
    return sorted(values)[low - 1] if low else None


def quantile(values: Sequence[float], share: float) -> float:
    """The `share` quantile of the sample: the smallest value that at least that share does not exceed."""
    if not values:
        raise ValueError("a quantile of nothing")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def mean_bounds(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """One-sided lower and upper bound of the mean, each at `confidence`.

    Student's t with N. J. Johnson's correction for skewness (J. Amer. Statist. Assoc. 73 (1978)): what takes
    time has a long tail to the right, and without it the upper bound of 300 log-normal values (sigma 1) lies
    below the mean in 9 % of the samples instead of 5 % (with it 7 %, and from 1,000 values on 5 %).
    An infinite value (a trial without an answer) makes both infinite. Raises ValueError below two values.
    """
    _check_share("confidence", confidence)
    if len(values) < 2:
        raise ValueError(f"bounds of a mean need two values, got {len(values)}")
    if any(math.isinf(value) for value in values):
        return math.inf, math.inf
    mean, deviation, skewness = _moments(values)
    n = len(values)
    reach = float(special.stdtrit(n - 1, confidence))
    middle = mean + deviation * skewness * (1.0 + 2.0 * reach * reach) / (6.0 * n)
    return middle - reach * deviation / math.sqrt(n), middle + reach * deviation / math.sqrt(n)


def mean_error(values: Sequence[float], limit: float) -> float:
    """The p-value of "the mean is below `limit`", to `mean_bounds` at 95 %; 1 with an infinite value."""
    n = len(values)
    if n < 2 or any(math.isinf(value) for value in values):
        return 1.0
    lower, upper = mean_bounds(values, 0.95)
    deviation = _moments(values)[1]
    if deviation == 0.0:
        return 0.0 if upper < limit else 1.0
    return float(special.stdtr(n - 1, ((lower + upper) / 2.0 - limit) / deviation * math.sqrt(n)))


def _moments(values: Sequence[float]) -> tuple[float, float, float]:
    """Mean, standard deviation and skewness."""
    drawn = np.asarray(values, dtype=float)
    mean = float(drawn.mean())
    centred = drawn - mean
    deviation = float(np.sqrt(np.dot(centred, centred) / (len(drawn) - 1)))
    # Values that differ by rounding alone have no spread, and no skewness either.
    if deviation <= 1e-12 * abs(mean):
        return mean, 0.0, 0.0
    return mean, deviation, float((centred**3).mean()) / deviation**3


def holm(errors: Sequence[float]) -> tuple[float, ...]:
    """Holm's adjusted p-values, in the order given: a claim stands among all of them while its own is small.

    Claims whose adjusted value is at most 5 % hold *together* with 95 % confidence, however they depend.
    """
    order = sorted(range(len(errors)), key=errors.__getitem__)
    adjusted = [0.0] * len(errors)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(errors) - rank) * errors[index]))
        adjusted[index] = largest
    return tuple(adjusted)


def share_error(n: float, failures: float, limit: float) -> float:
    """The p-value of "the share of failures is below `limit`": so few or fewer at the limit itself."""
    _check_share("limit", limit)
    _check_counts(n, failures)
    return float(special.betainc(n - failures, failures + 1, 1.0 - limit)) if failures < n else 1.0


def spread_upper(freedom: int, confidence: float = 0.95) -> float:
    """The upper bound of a variance over its estimate, by the chi-squared distribution."""
    return float(freedom / special.chdtri(freedom, confidence))


@dataclass(frozen=True)
class Drift:
    """A test of values against the order in which they came; `rising`: later ones are larger."""

    test: str
    statistic: float
    error: float
    rising: bool


DRIFT_POINTS = 200
"""More values than that are drawn together to medians of consecutive ones: neighbours in time are alike,
and with ten thousand of them a difference that nobody cares about would count as proven."""
DRIFT_STRETCHES = 5
DRIFT_LEAST = 20


def drift(blocks: Sequence[Sequence[float]]) -> tuple[Drift, ...]:
    """Tests for a trend and for differing stretches over the order of each block's values; () with too few.

    Blocks (hosts, kinds of fault) are compared by rank within themselves, so that their difference is no
    drift. An infinite value (no answer) ranks highest.
    """
    times: list[float] = []
    ranks: list[float] = []
    for values in blocks:
        points = _medians(values)
        if len(points) < DRIFT_LEAST:
            continue
        times += [(i + 0.5) / len(points) for i in range(len(points))]
        ranks += [float(rank) / len(points) for rank in stats.rankdata(points)]
    if not times or len(set(ranks)) < 2:
        return ()
    trend = stats.kendalltau(times, ranks)
    stretches: list[list[float]] = [[] for _ in range(DRIFT_STRETCHES)]
    for time, rank in zip(times, ranks, strict=True):
        stretches[min(int(time * DRIFT_STRETCHES), DRIFT_STRETCHES - 1)].append(rank)
    rising = float(trend.statistic) > 0
    found = [Drift("Mann-Kendall", float(trend.statistic), float(trend.pvalue), rising)]
    differing = stats.kruskal(*stretches)
    later = math.fsum(stretches[-1]) / len(stretches[-1]) > math.fsum(stretches[0]) / len(stretches[0])
    found.append(Drift("blocks (Kruskal-Wallis)", float(differing.statistic), float(differing.pvalue), later))
    return tuple(found)


def _medians(values: Sequence[float]) -> list[float]:
    if len(values) <= DRIFT_POINTS:
        return list(values)
    edges = [round(i * len(values) / DRIFT_POINTS) for i in range(DRIFT_POINTS + 1)]
    return [quantile(values[a:b], 0.5) for a, b in itertools.pairwise(edges)]


def _check_counts(n: float, failures: float) -> None:
    if n < 0 or not 0 <= failures <= n:
        raise ValueError(f"{failures} failures of {n} trials")
