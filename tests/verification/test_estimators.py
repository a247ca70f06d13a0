"""From observations to verdicts: the rules that no estimator may break."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.model import Verdict
from verification import statistics
from verification.catalogue import load_catalogue
from verification.estimators import judge
from verification.observations import Counts, Observation, Observations, VoidTrial

CATALOGUE = load_catalogue()


def judged(name: str, found: Observations):
    entry = CATALOGUE.entry(name)
    return judge(entry, entry.plans["quick"], found)


def trials(values, block="crash"):
    return tuple(Observation(value, block=block) for value in values)


@pytest.mark.parametrize(
    ("values", "verdict", "more"),
    [
        ([4.9] * 59, Verdict.PASS, None),
        ([101.0] * 59, Verdict.FAIL, None),
        ([4.9] * 58 + [101.0], Verdict.INCONCLUSIVE, 34),
        ([4.9] * 58 + [None], Verdict.INCONCLUSIVE, 34),
        ([4.9] * 58, Verdict.INCONCLUSIVE, 1),
        ([4.9] * 10, Verdict.INCONCLUSIVE, 49),
        ([None] * 59, Verdict.FAIL, None),
        ([4.9] * 93, Verdict.PASS, None),
        ([4.9] * 92 + [500.0], Verdict.PASS, None),
        ([99.9] * 59, Verdict.PASS, None),
        ([100.0] * 59, Verdict.FAIL, None),
    ],
)
def test_a_tail_is_judged_by_its_exceedances(values, verdict, more):
    found = judged("SD-2.cold", Observations(trials=trials(values)))
    assert (found.verdict, found.trials_to_decide) == (verdict, more)
    assert found.n == len(values)


@given(st.lists(st.none() | st.floats(0, 200), max_size=130))
def test_a_pass_is_always_proven_and_a_fail_always_refuted(values):
    found = judged("SD-2.cold", Observations(trials=trials(values)))
    over = sum(value is None or value >= 100 for value in values)
    proven = statistics.tolerance_confidence(len(values), over, 0.95) >= 0.95 and len(values) >= 59
    refuted = statistics.share_lower(len(values), over, 0.95) > 1.0 - 0.95
    if not values:
        assert found.verdict is Verdict.NOT_MEASURED
    elif refuted:
        assert found.verdict is Verdict.FAIL
    else:
        assert found.verdict is (Verdict.PASS if proven else Verdict.INCONCLUSIVE)
    if found.verdict is Verdict.PASS:
        assert found.bound is not None
        assert found.bound < 100
    if found.verdict is Verdict.INCONCLUSIVE:
        longer = trials([*values, *[1.0] * found.trials_to_decide])
        assert judged("SD-2.cold", Observations(trials=longer)).verdict is Verdict.PASS


@pytest.mark.parametrize(
    "name", ["SD-1", "SD-2", "SD-2.mean", "SD-3.run", "SD-4", "SD-6", "RL-3", "OB-1.targets"]
)
def test_no_data_never_passes(name):
    assert judged(name, Observations()).verdict is Verdict.NOT_MEASURED
    expected = Observations(expected=("mainpc", "pc2"))
    assert judged(name, expected).verdict is Verdict.NOT_MEASURED
    void = Observations(voids=(VoidTrial("crash-000", "it did not die"),))
    assert judged(name, void).verdict is Verdict.VOID


def test_a_block_without_data_never_passes():
    found = Observations(trials=trials([1.0] * 10_000, "mainpc"), expected=("mainpc", "pc2"))
    for name in ("SD-2", "SD-2.mean"):
        assert judged(name, found).verdict is Verdict.INCONCLUSIVE
    counts = Observations(
        counts=(("mainpc", Counts(20_000, 0)), ("pc2", Counts(0, 0))), expected=("mainpc", "pc2")
    )
    assert judged("SD-3.run", counts).verdict is Verdict.INCONCLUSIVE


def test_the_worst_block_speaks():
    good, bad = trials([1.0] * 10_000, "mainpc"), trials([500.0] * 10_000, "pc2")
    found = judged("SD-2", Observations(trials=good + bad, expected=("mainpc", "pc2")))
    assert found.verdict is Verdict.FAIL
    assert found.reason.startswith("pc2: ")
    assert (found.estimate, found.n, found.exceedances) == (500.0, 20_000, 10_000)
    assert dict(found.facts)["p50 (mainpc)"] == "1 ms"


def test_a_census_wants_everybody():
    def census(right: int, wrong: int, population: int = 77) -> Observations:
        answers = [Observation(100.0, block="mainpc", kept=True)] * right
        answers += [Observation(0.0, block="mainpc", kept=False)] * wrong
        return Observations(trials=tuple(answers), population=population, missing=("a from mainpc",) * wrong)

    assert judged("SD-1", census(77, 0)).verdict is Verdict.PASS
    assert judged("SD-1", census(77, 0)).estimate == 100.0
    short = judged("SD-1", census(76, 0))
    assert (short.verdict, short.trials_to_decide) == (Verdict.INCONCLUSIVE, 1)
    wrong = judged("SD-1", census(76, 1))
    assert wrong.verdict is Verdict.FAIL
    assert "a from mainpc" in wrong.reason


@pytest.mark.parametrize(
    ("total", "failed", "verdict"),
    [
        (20_000, 0, Verdict.PASS),
        (20_000, 1, Verdict.FAIL),
        (2_000, 0, Verdict.INCONCLUSIVE),
        (9_999, 0, Verdict.INCONCLUSIVE),
        (10_000, 0, Verdict.PASS),
        (1, 1, Verdict.FAIL),
    ],
)
def test_a_rate_wants_none_failed_and_enough_tried(total, failed, verdict):
    counts = tuple((host, Counts(total, failed)) for host in ("mainpc", "pc2"))
    assert judged("SD-3.run", Observations(counts=counts)).verdict is verdict


def test_a_mean_is_judged_by_its_bound():
    def mean(values):
        return judged("SD-2.mean", Observations(trials=trials(values, "mainpc"))).verdict

    assert mean([1.0, 2.0] * 5000) is Verdict.PASS
    assert mean([101.0, 102.0] * 5000) is Verdict.FAIL
    assert mean([1.0, 2.0] * 100) is Verdict.INCONCLUSIVE
    assert mean([1.0] * 9999 + [None]) is Verdict.FAIL
    assert mean([99.9, 100.1] * 5000) is Verdict.INCONCLUSIVE
    assert mean([1.0]) is Verdict.INCONCLUSIVE


def test_directions():
    from reports.model import Direction

    table = {
        Direction.AT_MOST: (True, True, False),
        Direction.BELOW: (True, False, False),
        Direction.AT_LEAST: (False, True, True),
        Direction.ABOVE: (False, False, True),
        Direction.EXACTLY: (False, True, False),
    }
    for direction, expected in table.items():
        assert tuple(direction.keeps(value, 2.0) for value in (1.0, 2.0, 3.0)) == expected
    assert not Direction.BELOW.keeps(math.inf, 2.0)
