"""Sequential campaigns: their errors, against played campaigns and against published sizes."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verification import sequential, statistics
from verification.sequential import Stage, State, design, next_stage, operating, sequence_bounds

NEVER = 10**6


def stage(n: int, pass_at_most: int, fail_from: int = NEVER) -> Stage:
    return Stage(n=n, pass_at_most=pass_at_most, fail_from=fail_from)


def test_one_stage_is_the_fixed_sample():
    for coverage, n, allowed in ((0.95, 59, 0), (0.95, 93, 1), (0.99, 628, 2)):
        found = operating([stage(n, allowed)], 1 - coverage)
        expected = 1 - statistics.tolerance_confidence(n, allowed, coverage)
        assert found.passed == pytest.approx(expected, abs=1e-12)
        assert (found.failed, found.trials) == (0.0, pytest.approx(n))


def test_taking_whichever_published_size_comes_first_breaks_the_promise():
    found = operating([stage(59, 0), stage(93, 1), stage(124, 2)], 0.05)
    assert found.passed == pytest.approx(0.0926, abs=1e-4)


@pytest.mark.parametrize(
    ("coverage", "sizes"),
    [(0.95, [(69, 0, 8), (110, 1, 11), (146, 2, 13)]), (0.99, [(349, 0, 8), (562, 1, 11), (747, 2, 14)])],
)
def test_a_designed_plan_keeps_both_errors_and_could_not_be_smaller(coverage, sizes):
    stages = design(coverage, 0.05, 0.05, spend=(0.6, 0.25, 0.15))
    assert [(s.n, s.pass_at_most, s.fail_from) for s in stages] == sizes
    assert sequential.problems(stages, coverage, 0.05, 0.05) == []
    for index, share in enumerate(itertools.accumulate((0.6, 0.25, 0.15))):
        smaller = [*stages[:index], Stage(n=stages[index].n - 1, pass_at_most=index, fail_from=NEVER)]
        assert operating(smaller, 1 - coverage).passed > 0.05 * share


@pytest.mark.parametrize("share", [0.0, 0.01, 0.05, 0.1, 0.3, 1.0])
def test_the_chances_are_those_of_played_campaigns(share):
    stages = design(0.95, 0.05, 0.05)
    chance = np.random.default_rng(1)
    runs = 4000
    found = [next_stage(stages, flags) for flags in chance.random((runs, stages[-1].n)) < share]
    expected = operating(stages, share)
    for state, probability in (
        (State.PASS, expected.passed),
        (State.FAIL, expected.failed),
        (State.UNDECIDED, expected.undecided),
    ):
        seen = sum(look.state is state for look in found) / runs
        assert seen == pytest.approx(probability, abs=4.5 * math.sqrt(0.25 / runs))
    assert sum(look.n for look in found) / runs <= expected.trials + 1


@given(st.floats(0.0, 0.5), st.floats(0.0, 0.5))
def test_more_exceedances_pass_less_and_fail_more(one, other):
    stages = design(0.95, 0.05, 0.05)
    low, high = operating(stages, min(one, other)), operating(stages, max(one, other))
    assert low.passed >= high.passed - 1e-9
    assert low.failed <= high.failed + 1e-9
    for found in (low, high):
        assert found.passed + found.failed + found.undecided == pytest.approx(1.0)


STAGES = (stage(69, 0, 8), stage(110, 1, 11), stage(146, 2, 13))


@pytest.mark.parametrize(
    ("exceeded", "state", "more"),
    [
        ([], State.CONTINUE, 69),
        ([False] * 68, State.CONTINUE, 1),
        ([False] * 69, State.PASS, 0),
        ([False] * 68 + [True], State.CONTINUE, 41),
        ([True] + [False] * 109, State.PASS, 0),
        ([True] * 2 + [False] * 108, State.CONTINUE, 36),
        ([True] * 2 + [False] * 144, State.PASS, 0),
        ([True] * 3 + [False] * 143, State.UNDECIDED, 0),
        ([True] * 8, State.FAIL, 0),
        ([False] * 69 + [True] * 60, State.PASS, 0),  # decided before they came
    ],
)
def test_looks(exceeded, state, more):
    found = next_stage(STAGES, exceeded)
    assert (found.state, found.more) == (state, more)


def test_a_campaign_for_several_criteria_goes_on_until_all_are_decided():
    clean, one = [False] * 69, [True] + [False] * 68
    assert sequential.trials_wanted([(STAGES, clean), (STAGES, one)]) == 41
    assert sequential.trials_wanted([(STAGES, clean)]) == 0
    assert sequential.trials_wanted([]) == 0


@given(st.lists(st.booleans(), max_size=160), st.integers(0, 160))
def test_what_is_decided_stays_decided(exceeded, cut):
    before = next_stage(STAGES, exceeded[:cut])
    if before.state in {State.PASS, State.FAIL}:
        assert next_stage(STAGES, exceeded) == before


def test_the_error_of_a_pass_grows_from_look_to_look_and_stays_within_the_plan():
    errors = [
        sequential.stagewise_error(STAGES, next_stage(STAGES, [True] * n + [False] * 150), 0.05)
        for n in range(3)
    ]
    assert errors == sorted(errors)
    assert errors[0] == pytest.approx(0.95**69)
    assert errors[2] == pytest.approx(operating(STAGES, 0.05).passed)
    assert sequential.stagewise_error(STAGES, next_stage(STAGES, [True] * 20), 0.05) == 1.0


@pytest.mark.parametrize(
    ("stages", "problem"),
    [
        ([stage(59, 0), stage(93, 1), stage(124, 2)], "would pass a system at the limit in 0.0926"),
        ([stage(69, 0, 2)], "would fail a system at the limit"),
        ([stage(69, 0), stage(69, 1)], "larger than the one before"),
        ([stage(69, 3, 3)], "pass_at_most below fail_from"),
    ],
)
def test_plans_that_break_their_promise_are_told(stages, problem):
    assert problem in "; ".join(sequential.problems(stages, 0.95, 0.05, 0.05))


def test_shares_of_the_error_must_fit():
    with pytest.raises(ValueError, match="add up to 1"):
        design(0.95, 0.05, 0.05, spend=(0.5, 0.2, 0.1))
    with pytest.raises(ValueError, match="rise"):
        design(0.95, 0.05, 0.05, exceedances=(0, 0, 1))


def test_a_confidence_sequence_holds_at_every_moment_together():
    chance = np.random.default_rng(2)
    share, outside, paths = 0.05, 0, 400
    for flags in chance.random((paths, 1500)) < share:
        failures = np.cumsum(flags)
        looks = [*range(1, 60), *range(60, 1500, 40)]
        outside += any(
            not low <= share <= high
            for low, high in (sequence_bounds(n, int(failures[n - 1]), 0.95) for n in looks)
        )
    assert outside / paths < 0.05


@given(st.integers(0, 400), st.data())
def test_a_confidence_sequence_is_wider_than_a_fixed_interval(n, data):
    failures = data.draw(st.integers(0, n))
    low, high = sequence_bounds(n, failures, 0.95)
    assert 0.0 <= low <= high <= 1.0
    if n:
        assert low <= failures / n <= high
        assert high >= statistics.share_upper(n, failures, 0.95) - 1e-9
        assert low <= statistics.share_lower(n, failures, 0.95) + 1e-9


def test_a_confidence_sequence_refuses_nonsense():
    assert sequence_bounds(0, 0, 0.95) == (0.0, 1.0)
    for n, failures, confidence in ((-1, 0, 0.95), (3, 4, 0.95), (3, 1, 1.0)):
        with pytest.raises(ValueError, match=r"failures|confidence"):
            sequence_bounds(n, failures, confidence)
