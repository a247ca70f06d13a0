"""The statistics behind verdicts: tolerance bounds, intervals of shares, bounds of means.

All are one-sided. SciPy does the arithmetic; the tests hold it against published tables and naive sums.

- Tolerance by order statistics: S. S. Wilks, "Determination of sample sizes for setting tolerance limits",
  Ann. Math. Statist. 12 (1941). With `n` trials of which at most `c` exceed a limit, at least `coverage` of
  the population keeps the limit with confidence `1 - P(Bin(n, 1 - coverage) <= c)`.
- Share of failures: C. J. Clopper, E. S. Pearson, Biometrika 26 (1934), one-sided.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from scipy import stats


def _check_share(name: str, value: float) -> None:
    if not 0.0 < value < 1.0:
        raise ValueError(f"{name} must lie between 0 and 1, got {value!r}")


def tolerance_confidence(n: int, exceedances: int, coverage: float) -> float:
    """Confidence with which these trials show that `coverage` of the population keeps the limit."""
    _check_share("coverage", coverage)
    if n <= 0:
        return 0.0
    return float(stats.binom.sf(exceedances, n, 1.0 - coverage))


def allowed_exceedances(n: int, coverage: float, confidence: float) -> int | None:
    """The most exceedances with which `n` trials still show `coverage`; None when `n` is too small."""
    _check_share("confidence", confidence)
    if tolerance_confidence(n, 0, coverage) < confidence:
        return None
    # The largest c with P(Bin(n, 1 - coverage) <= c) <= 1 - confidence; ppf gives the first c to reach it.
    guess = int(stats.binom.ppf(1.0 - confidence, n, 1.0 - coverage)) + 1
    while guess > 0 and tolerance_confidence(n, guess, coverage) < confidence:
        guess -= 1
    return guess


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


def share_upper(n: int, failures: int, confidence: float) -> float:
    """Clopper-Pearson upper bound of the share of failures; 1 when nothing was tried."""
    _check_share("confidence", confidence)
    _check_counts(n, failures)
    if failures == n:
        return 1.0
    return float(stats.beta.ppf(confidence, failures + 1, n - failures))


def share_lower(n: int, failures: int, confidence: float) -> float:
    """Clopper-Pearson lower bound of the share of failures; 0 when nothing was tried."""
    _check_share("confidence", confidence)
    _check_counts(n, failures)
    if failures == 0:
        return 0.0
    return float(stats.beta.ppf(1.0 - confidence, failures, n - failures + 1))


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


def quantile(values: Sequence[float], share: float) -> float:
    """The `share` quantile of the sample: the smallest value that at least that share does not exceed."""
    if not values:
        raise ValueError("a quantile of nothing")
    ordered = sorted(values)
    return ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def mean_bounds(values: Sequence[float], confidence: float) -> tuple[float, float]:
    """One-sided lower and upper bound of the mean, each at `confidence` (Student's t).

    An infinite value (a trial without an answer) makes both infinite. Raises ValueError below two values.
    """
    _check_share("confidence", confidence)
    n = len(values)
    if n < 2:
        raise ValueError(f"bounds of a mean need two values, got {n}")
    if any(math.isinf(value) for value in values):
        return math.inf, math.inf
    mean = math.fsum(values) / n
    variance = math.fsum((value - mean) ** 2 for value in values) / (n - 1)
    reach = float(stats.t.ppf(confidence, n - 1)) * math.sqrt(variance / n)
    return mean - reach, mean + reach


def _check_counts(n: int, failures: int) -> None:
    if n < 0 or not 0 <= failures <= n:
        raise ValueError(f"{failures} failures of {n} trials")
