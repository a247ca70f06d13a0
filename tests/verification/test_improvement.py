"""Gains over a baseline: the bound decides, the order of the runs does not."""

from __future__ import annotations

import math
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verification import improvement
from verification.improvement import Side, combined, gain, schedule
from verification.observations import Pair


def test_known_gains():
    exact = [Pair(10.0, 8.0), Pair(100.0, 80.0)]
    found = gain(exact, 0.95)
    assert (found.estimate, found.lower, found.upper) == (pytest.approx(20.0),) * 3
    told = gain([Pair(10.0, 8.0), Pair(10.0, 9.0), Pair(10.0, 7.0)], 0.95)
    logs = [math.log(0.8), math.log(0.9), math.log(0.7)]
    mean, deviation = np.mean(logs), np.std(logs, ddof=1)
    assert told.estimate == pytest.approx(-100 * math.expm1(mean))
    # t(0.95, 2) = 2.91999; without the small correction for skewness.
    plain = -100 * math.expm1(mean + 2.91999 * deviation / math.sqrt(3))
    assert told.lower == pytest.approx(plain, abs=1.5)


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=2, max_size=40))
def test_the_side_called_baseline_does_not_matter(costs):
    there = gain([Pair(a, b) for a, b in costs], 0.95)
    back = gain([Pair(b, a) for a, b in costs], 0.95)
    assert (1 - there.estimate / 100) * (1 - back.estimate / 100) == pytest.approx(1.0)
    assert there.lower <= there.estimate + 1e-9 or there.upper >= there.estimate - 1e-9
    assert (1 - there.lower / 100) * (1 - back.upper / 100) == pytest.approx(1.0)


def test_what_both_halves_of_a_pair_saw_cancels():
    chance = random.Random(1)
    costs = [(chance.uniform(0.9, 1.1), chance.uniform(0.7, 0.9)) for _ in range(30)]
    slow = [math.exp(i / 10) for i in range(30)]
    plain = gain([Pair(a, b) for a, b in costs], 0.95)
    drifting = gain([Pair(a * s, b * s) for (a, b), s in zip(costs, slow, strict=True)], 0.95)
    assert drifting.lower == pytest.approx(plain.lower)


def test_each_order_within_a_pair_comes_equally_often():
    order = schedule(100, random.Random(3))
    assert Counter(first for first, _ in order) == {Side.BASELINE: 50, Side.CANDIDATE: 50}
    assert order != schedule(100, random.Random(4))


def test_several_measures_are_one_by_their_geometric_mean():
    latency, memory = [Pair(10, 5), Pair(10, 5)], [Pair(4, 4), Pair(8, 8)]
    assert gain(combined([latency, memory]), 0.95).estimate == pytest.approx(100 * (1 - math.sqrt(0.5)))
    with pytest.raises(ValueError, match="same runs"):
        combined([latency, memory[:1]])


@pytest.mark.parametrize("bad", [Pair(0.0, 1.0), Pair(1.0, -1.0), Pair(math.nan, 1.0), Pair(1.0, math.inf)])
def test_costs_that_cannot_be_are_refused(bad):
    with pytest.raises(ValueError, match="above zero"):
        gain([Pair(1.0, 1.0), bad], 0.95)


def test_how_many_pairs_would_decide():
    chance = np.random.default_rng(1)
    pairs = [Pair(1.0, float(0.75 * math.exp(0.2 * x))) for x in chance.standard_normal(20)]
    needed = improvement.pairs_needed(pairs, 20.0, 0.95)
    assert needed is not None
    assert 2 <= needed <= 500
    wider = [Pair(1.0, one.candidate**2 / 0.75) for one in pairs]
    assert improvement.pairs_needed(wider, 20.0, 0.95) > needed
    assert improvement.pairs_needed([Pair(1.0, 0.9), Pair(1.0, 0.91)], 20.0, 0.95) is None
