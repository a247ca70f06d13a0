"""Arrivals follow the rate, and nothing else."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.schedule import Arrivals, Profile, arrivals, profile_of
from loadtests.shapes import Diurnal, Ramp, Soak, Spike, Steady

rates = st.floats(0.1, 1000.0)
profiles = st.builds(
    lambda steps, values, repeats: Profile(
        tuple(zip(itertools.accumulate(steps, initial=0.0), values, strict=False)), repeats
    ),
    st.lists(st.floats(0.1, 50.0), min_size=1, max_size=5),
    st.lists(rates, min_size=6, max_size=6),
    st.booleans(),
)


def naive(profile: Profile, t_s: float, steps: int = 2000) -> float:
    """The integral by slices."""

    def rate(at: float) -> float:
        end = profile.corners[-1][0]
        at = at % end if profile.repeats else min(at, end)
        for (a, low), (b, high) in itertools.pairwise(profile.corners):
            if a <= at <= b:
                return low + (high - low) * (at - a) / (b - a)
        return profile.corners[-1][1]

    width = t_s / steps
    return sum(rate((n + 0.5) * width) * width for n in range(steps))


@settings(deadline=None, max_examples=40)
@given(profiles, st.floats(0.0, 200.0))
def test_expected_is_the_integral_of_the_rate(profile, t_s):
    width = max(t_s / 2000 * 1000.0 * (t_s / profile.corners[-1][0] + 6), 1e-9)  # each jump is cut in a slice
    assert profile.expected(t_s) == pytest.approx(naive(profile, t_s), rel=0.01, abs=width)


@settings(deadline=None, max_examples=40)
@given(profiles, st.floats(0.0, 20_000.0))
def test_instant_is_the_inverse_of_expected(profile, area):
    assert profile.expected(profile.instant(area)) == pytest.approx(area, rel=1e-6, abs=1e-6)


@settings(deadline=None, max_examples=40)
@given(profiles, st.integers(0, 1000), st.sampled_from(Arrivals), st.integers(1, 4))
def test_arrivals_rise_and_places_share_them(profile, seed, kind, places):
    per_place = [
        list(itertools.islice(arrivals(profile, kind, random.Random(seed), place=n, places=places), 50))
        for n in range(places)
    ]
    for instants in per_place:
        assert instants == sorted(instants)
        assert all(math.isfinite(one) and one >= 0 for one in instants)
    if kind is Arrivals.CONSTANT:
        whole = list(itertools.islice(arrivals(profile, kind, random.Random(0)), 50 * places))
        assert sorted(itertools.chain(*per_place)) == whole
        assert [profile.expected(one) for one in whole] == pytest.approx(range(len(whole)), abs=1e-3)


def test_poisson_arrivals_are_poisson():
    profile = profile_of(Steady().corners(), 50.0, repeats=False)
    instants = list(itertools.islice(arrivals(profile, Arrivals.POISSON, random.Random(7)), 20_000))
    gaps = [after - before for before, after in itertools.pairwise(instants)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert mean == pytest.approx(0.02, rel=0.03)
    assert deviation == pytest.approx(mean, rel=0.03)  # what sets an exponential gap apart
    two = sum(
        len(list(itertools.takewhile(lambda at: at < 100, part)))
        for part in (
            arrivals(profile, Arrivals.POISSON, random.Random(seed), place=seed, places=2) for seed in (0, 1)
        )
    )
    assert two == pytest.approx(5000, abs=5 * math.sqrt(5000))


@pytest.mark.parametrize(
    ("shape", "at_s", "expected"),
    [
        (Steady(), 10.0, 1000.0),
        (Ramp(over_s=10), 10.0, 500.0),
        (Ramp(over_s=10), 20.0, 1500.0),
        (Ramp(over_s=10, from_share=2.0, to_share=1.0), 10.0, 1500.0),
        (Spike(every_s=30, for_s=5, spike_share=5), 25.0, 2500.0),
        (Spike(every_s=30, for_s=5, spike_share=5), 60.0, 10_000.0),
        (Diurnal(low_share=0.5, high_share=1.5), 86_400.0, 8_640_000.0),
        (Soak(for_s=1000, warm_s=10), 10.0, 500.0),
        (Soak(for_s=1000, warm_s=10), 1000.0, 99_500.0),
    ],
)
def test_shapes_hold_the_arrivals_that_they_say(shape, at_s, expected):
    assert shape.problem() is None
    profile = profile_of(shape.corners(), 100.0, repeats=shape.repeats)
    assert profile.expected(at_s) == pytest.approx(expected, rel=0.001)


def test_a_day_is_busiest_at_its_peak():
    profile = profile_of(Diurnal(day_s=2400, peak_s=1400).corners(), 10.0, repeats=True)

    def around(t_s):
        return profile.expected(t_s + 50) - profile.expected(t_s - 50)

    assert max(range(100, 2400, 100), key=around) == 1400
    assert around(1400) / around(200) == pytest.approx(5.0, rel=0.02)
    assert around(1400 + 2400) == pytest.approx(around(1400))


def test_a_ramp_to_nothing_ends():
    profile = Profile(((0.0, 10.0), (10.0, 0.0)))
    assert len(list(arrivals(profile, Arrivals.CONSTANT, random.Random(1)))) == 50
