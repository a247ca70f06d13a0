"""From observations to verdicts: the rules that no estimator may break."""

from __future__ import annotations

import math
from dataclasses import replace

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports.model import Direction, Verdict
from verification import sequential, statistics
from verification.catalogue import Estimator, ProfilePlan, load_catalogue
from verification.estimators import judge
from verification.observations import Counts, Observation, Observations, Pair, VoidTrial

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


def made_up(estimator, target, direction, unit="%", **plan):
    entry = msgspec.structs.replace(
        CATALOGUE.entry("SD-4"), estimator=estimator, target=target, direction=direction, unit=unit
    )
    return entry, ProfilePlan(population="made up", confidence=0.95, timeout_s=10.0, **plan)


def batches(*failed: int, size: int):
    return Observations(counts=tuple(("all", Counts(size, one)) for one in failed))


@pytest.mark.parametrize(
    ("failed", "direction", "target", "verdict"),
    [
        (170, Direction.BELOW, 1.0, Verdict.PASS),
        (185, Direction.BELOW, 1.0, Verdict.INCONCLUSIVE),
        (250, Direction.BELOW, 1.0, Verdict.FAIL),
        (0, Direction.BELOW, 1.0, Verdict.PASS),
        (20_000, Direction.BELOW, 1.0, Verdict.FAIL),
        (800, Direction.ABOVE, 95.0, Verdict.PASS),
        (990, Direction.ABOVE, 95.0, Verdict.INCONCLUSIVE),
        (1100, Direction.ABOVE, 95.0, Verdict.FAIL),
    ],
)
def test_a_share_is_judged_by_its_bound(failed, direction, target, verdict):
    found = judge(*made_up(Estimator.SHARE, target, direction, n=1000), batches(failed, size=20_000))
    assert found.verdict is verdict
    good = 100.0 * (1 - failed / 20_000)
    assert found.estimate == pytest.approx(good if direction is Direction.ABOVE else 100.0 - good)
    assert found.interval[0] <= found.estimate <= found.interval[1]
    if verdict is Verdict.PASS:
        assert direction.keeps(found.bound, target)
        assert found.error <= 0.05


def test_failures_in_bursts_tell_less():
    entry, plan = made_up(Estimator.SHARE, 1.0, Direction.BELOW, n=1000)
    spread = judge(entry, plan, batches(*[8, 9] * 10, size=1000))
    bursts = judge(entry, plan, batches(*[0, 0, 0, 0, 85] * 2, *[0] * 10, size=1000))
    assert spread.exceedances == bursts.exceedances == 170
    assert (spread.verdict, bursts.verdict) == (Verdict.PASS, Verdict.INCONCLUSIVE)
    assert "independent" in dict(bursts.facts)["worth as much as"]


def test_a_share_at_any_time_asks_for_more_than_one_at_a_planned_time():
    at_once = made_up(Estimator.SHARE, 1.0, Direction.BELOW, n=300)
    any_time = made_up(Estimator.SHARE, 1.0, Direction.BELOW, n=300, anytime=True)
    clean = batches(0, size=400)
    assert judge(*at_once, clean).verdict is Verdict.PASS
    found = judge(*any_time, clean)
    assert found.verdict is Verdict.INCONCLUSIVE
    longer = batches(0, size=400 + found.trials_to_decide)
    assert judge(*any_time, longer).verdict is Verdict.PASS


@pytest.mark.parametrize(
    ("ratio", "noise", "verdict"),
    [
        (0.70, 0.1, Verdict.PASS),
        (0.79, 0.1, Verdict.INCONCLUSIVE),
        (0.90, 0.1, Verdict.FAIL),
        (0.79, 0.001, Verdict.PASS),
        (1.0, 0.01, Verdict.FAIL),
    ],
)
def test_a_gain_is_judged_by_its_bound(ratio, noise, verdict):
    pairs = tuple(
        Pair(10.0, 10.0 * ratio * math.exp(noise * wave))
        for wave in (-1.2, -0.4, 0.4, 1.2)
        for _ in range(10)
    )
    found = judge(*made_up(Estimator.GAIN, 20.0, Direction.AT_LEAST, n=30), Observations(pairs=pairs))
    assert found.verdict is verdict
    assert found.estimate == pytest.approx(100 * (1 - ratio), abs=1e-6)
    assert found.bound <= found.estimate
    few = judge(*made_up(Estimator.GAIN, 20.0, Direction.AT_LEAST, n=50), Observations(pairs=pairs))
    assert few.verdict is not Verdict.PASS


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (Observations(trials=(Observation(math.nan, label="t-1"),)), "trial t-1 has nan"),
        (Observations(trials=(Observation(math.inf, label="t-1"),)), "trial t-1 has inf"),
        (Observations(trials=(Observation(-3.0, label="t-1"),)), "t-1 took -3 ms: its clock went back"),
        (Observations(counts=(("pc2", Counts(3, 4)),)), "pc2 counts 4 failures of 3"),
        (Observations(counts=(("pc2", Counts(-1, -1)),)), "pc2 counts"),
        (Observations(pairs=(Pair(1.0, 0.0),)), "must be above zero"),
        (Observations(pairs=(Pair(math.nan, 1.0),)), "must be above zero"),
    ],
)
def test_figures_that_cannot_be_make_the_criterion_void(found, why):
    good = Observations(trials=trials([1.0] * 300), counts=(("pc2", Counts(9, 0)),))
    both = replace(found, trials=good.trials + found.trials)
    for one in (found, both):
        judged_one = judge(*made_up(Estimator.QUANTILE, 100, Direction.BELOW, "ms", n=59, coverage=0.95), one)
        assert judged_one.verdict is Verdict.VOID
        assert why in judged_one.reason


def test_stages_pass_at_their_looks_alone():
    entry = CATALOGUE.entry("RL-3.detect")
    stages = entry.plans["quick"].stages

    def look(values):
        return judge(entry, entry.plans["quick"], Observations(trials=trials(values)))

    one_over = look([5000.0] + [4.9] * 109)
    assert (one_over.verdict, one_over.stage, one_over.bound) == (Verdict.PASS, 2, 4.9)
    assert one_over.error == pytest.approx(
        sequential.stagewise_error(stages, next_stage_of(stages, 1, 110), 0.05)
    )
    # One clean trial more or less than a look changes nothing.
    assert look([5000.0] + [4.9] * 108).verdict is Verdict.INCONCLUSIVE
    assert look([5000.0] + [4.9] * 110).verdict is Verdict.PASS
    three = look([5000.0] * 3 + [4.9] * 143)
    assert three.verdict is Verdict.INCONCLUSIVE
    assert three.trials_to_decide > 146
    assert look([5000.0] * 8).verdict is Verdict.FAIL
    late = look([4.9] * 69 + [5000.0] * 60)
    assert late.verdict is Verdict.INCONCLUSIVE
    assert "the system changed" in late.reason


def next_stage_of(stages, over, n):
    return sequential.next_stage(stages, [True] * over + [False] * (n - over))


def test_a_fail_of_one_of_many_blocks_needs_more():
    entry, plan = made_up(Estimator.QUANTILE, 100, Direction.BELOW, "ms", n=59, coverage=0.95)
    several = msgspec.structs.replace(plan, blocks=("host",))
    bad = trials([1.0] * 52 + [500.0] * 7, "a")
    clean = tuple(t for name in "bcde" for t in trials([1.0] * 59, name))
    assert judge(entry, plan, Observations(trials=bad)).verdict is Verdict.FAIL
    assert judge(entry, several, Observations(trials=bad + clean)).verdict is Verdict.INCONCLUSIVE


def test_a_projection_needs_outages_of_every_assumed_fault():
    entry = CATALOGUE.entry("RL-1.projected")
    crashes = tuple(Observation(0.06, block="crash") for _ in range(69))
    hangs = tuple(Observation(0.7, block="hang") for _ in range(69))
    assumed = tuple(one for one in CATALOGUE.assumed_faults if set(one.blocks) <= {"crash", "hang"})
    found = judge(entry, entry.plans["quick"], Observations(trials=crashes + hangs), assumed, 7)
    assert found.verdict is Verdict.PASS
    assert found.projection.high_s == found.bound < 604.8
    assert "not observed" in found.reason
    short = judge(entry, entry.plans["quick"], Observations(trials=crashes), assumed, 7)
    assert short.verdict is Verdict.INCONCLUSIVE
    assert "no outage was measured of hang" in short.reason
    endless = tuple(Observation(900.0, block=kind) for kind in ("crash", "hang"))
    assert judge(entry, entry.plans["quick"], Observations(trials=endless), assumed, 7).verdict is (
        Verdict.INCONCLUSIVE
    )
