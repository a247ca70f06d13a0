"""Against published tables, then against sums that anybody can check."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verification import statistics


@pytest.mark.parametrize(
    ("coverage", "confidence", "sizes"),
    [
        (0.95, 0.95, (59, 93, 124, 153)),
        (0.99, 0.95, (299, 473, 628, 773)),
        (0.99, 0.99, (459, 662, 838, 1001)),
        (0.90, 0.95, (29, 46, 61, 76)),
        (0.90, 0.90, (22, 38, 52, 65)),
    ],
)
def test_sample_sizes_are_those_of_the_published_tables(coverage, confidence, sizes):
    assert tuple(statistics.required_trials(coverage, confidence, c) for c in range(len(sizes))) == sizes
    for exceedances, n in enumerate(sizes):
        assert statistics.allowed_exceedances(n, coverage, confidence) == exceedances
        below = statistics.allowed_exceedances(n - 1, coverage, confidence)
        assert below == (exceedances - 1 if exceedances else None)


@pytest.mark.parametrize(
    ("n", "failures", "confidence", "upper"),
    [
        (10, 0, 0.95, 0.2589),
        (100, 0, 0.95, 0.0295),
        (20, 1, 0.95, 0.2161),
        (50, 5, 0.95, 0.1989),
        (7, 7, 0.95, 1.0),
    ],
)
def test_share_upper_is_that_of_the_published_tables(n, failures, confidence, upper):
    assert statistics.share_upper(n, failures, confidence) == pytest.approx(upper, abs=2e-3)


def test_nothing_tried_bounds_nothing():
    assert statistics.share_upper(0, 0, 0.95) == 1.0
    assert statistics.share_lower(0, 0, 0.95) == 0.0
    assert statistics.tolerance_confidence(0, 0, 0.95) == 0.0


def naive_at_most(n: int, c: int, p: float) -> float:
    return math.fsum(math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(c + 1))


@given(
    n=st.integers(1, 250),
    exceedances=st.integers(0, 20),
    coverage=st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_tolerance_is_the_sum_of_the_binomial(n, exceedances, coverage):
    naive = 1.0 - naive_at_most(n, min(exceedances, n), 1.0 - coverage)
    assert statistics.tolerance_confidence(n, exceedances, coverage) == pytest.approx(naive, abs=1e-9)


@given(n=st.integers(1, 200), data=st.data(), confidence=st.sampled_from([0.9, 0.95, 0.99]))
def test_share_bounds_are_where_the_binomial_says(n, data, confidence):
    failures = data.draw(st.integers(0, n))
    upper = statistics.share_upper(n, failures, confidence)
    lower = statistics.share_lower(n, failures, confidence)
    assert lower <= failures / n <= upper
    if failures < n:
        assert naive_at_most(n, failures, upper) == pytest.approx(1 - confidence, abs=1e-6)
    if failures > 0:
        assert 1 - naive_at_most(n, failures - 1, lower) == pytest.approx(1 - confidence, abs=1e-6)


@given(
    values=st.lists(st.floats(0, 1e6) | st.just(math.inf), min_size=1, max_size=150),
    coverage=st.sampled_from([0.5, 0.9, 0.95]),
)
def test_the_bound_of_a_quantile_leaves_the_allowed_exceedances_above_it(values, coverage):
    allowed = statistics.allowed_exceedances(len(values), coverage, 0.95)
    bound = statistics.quantile_upper(values, coverage, 0.95)
    if allowed is None:
        assert bound is None
        return
    assert bound is not None
    assert sum(value > bound for value in values) <= allowed
    assert sum(value >= bound for value in values) > allowed


@given(st.lists(st.integers(0, 50), min_size=1, max_size=60), st.floats(0.01, 1.0))
def test_quantile_is_the_least_value_that_enough_do_not_exceed(values, share):
    found = statistics.quantile(values, share)
    assert sum(value <= found for value in values) >= share * len(values) - 1e-9
    smaller = [value for value in values if value < found]
    assert len(smaller) < share * len(values) + 1e-9


def test_bounds_of_a_mean():
    # Ten values with mean 5.5 and standard deviation 3.02765; t(0.95, 9) = 1.83311.
    lower, upper = statistics.mean_bounds(list(range(1, 11)), 0.95)
    assert upper == pytest.approx(5.5 + 1.83311 * 3.02765 / math.sqrt(10), abs=1e-4)
    assert lower == pytest.approx(5.5 - 1.83311 * 3.02765 / math.sqrt(10), abs=1e-4)
    assert statistics.mean_bounds([1.0, math.inf], 0.95) == (math.inf, math.inf)
    with pytest.raises(ValueError, match="two values"):
        statistics.mean_bounds([1.0], 0.95)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1, 1.1])
def test_shares_outside_of_their_range_are_refused(share):
    with pytest.raises(ValueError, match="between 0 and 1"):
        statistics.required_trials(share, 0.95)
    with pytest.raises(ValueError, match="between 0 and 1"):
        statistics.share_upper(10, 1, share)


def test_holm_is_that_of_the_textbook():
    # R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
    assert statistics.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert statistics.holm([]) == ()
    assert statistics.holm([0.9, 0.8]) == (1.0, 1.0)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_lies_between_one_claim_and_bonferroni(errors):
    for error, adjusted in zip(errors, statistics.holm(errors), strict=True):
        assert error <= adjusted <= min(1.0, error * len(errors)) + 1e-12


def test_the_bound_of_a_mean_allows_for_a_long_tail():
    import numpy as np

    chance = np.random.default_rng(1)
    below = 0
    for _ in range(1500):
        values = np.exp(chance.standard_normal(300) - 0.5)
        below += statistics.mean_bounds(values.tolist(), 0.95)[1] < 1.0
    assert below / 1500 < 0.085  # Student's t alone: 0.093; five per cent only from a thousand values on


@given(n=st.integers(1, 120), data=st.data())
def test_the_lower_bound_of_a_quantile_is_where_the_binomial_says(n, data):
    coverage = data.draw(st.sampled_from([0.5, 0.9, 0.95]))
    bound = statistics.quantile_lower(list(range(1, n + 1)), coverage, 0.95)
    ranks = [r for r in range(1, n + 1) if 1.0 - naive_at_most(n, r - 1, coverage) >= 0.95]
    assert bound == (max(ranks) if ranks else None)


def test_drift_is_found_and_order_alone_is_none():
    import numpy as np

    chance = np.random.default_rng(2)
    rising = (np.linspace(1, 2, 100) + 0.1 * chance.standard_normal(100)).tolist()
    found = {test.test: test for test in statistics.drift([rising])}
    assert all(test.error < 1e-6 and test.rising for test in found.values())
    assert all(not test.rising for test in statistics.drift([rising[::-1]]))
    hump = [*[1.0 + 0.01 * i for i in range(50)], *[1.5 - 0.01 * i for i in range(50)]]
    tests = {test.test: test.error for test in statistics.drift([hump])}
    assert tests["Mann-Kendall"] > 0.05 > 1e-6 > tests["blocks (Kruskal-Wallis)"]
    shuffled = chance.permutation(rising).tolist()
    assert all(test.error > 0.001 for test in statistics.drift([shuffled]))
    # Two blocks that differ are no drift, and neither is what does not vary.
    assert all(test.error > 0.5 for test in statistics.drift([[1.0, 1.1] * 20, [9.0, 9.1] * 20]))
    assert statistics.drift([[1.0] * 100]) == ()
    assert statistics.drift([[1.0, 2.0] * 5]) == ()
    assert statistics.drift([[*rising[:50], *[math.inf] * 50]])[0].rising
