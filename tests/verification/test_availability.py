"""Outages, budgets, burn rates and projections."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verification import availability
from verification.availability import Cause, Probe, Watched, budget, burn_rates, project, watch
from verification.catalogue import AssumedFault

WEEK = availability.WEEK_S


def probes(*answers: tuple[float, bool]) -> list[Probe]:
    return [Probe(at, at + 0.1, ok) for at, ok in answers]


def spans(watched: Watched | None) -> list[tuple[float, float]]:
    assert watched is not None
    return [(round(one.start_s, 3), round(one.start_s + one.length_s, 3)) for one in watched.episodes]


def test_an_outage_lasts_from_the_last_good_answer_to_the_next():
    asked = probes((0, True), (1, True), (2, False), (3, False), (4, True), (5, True))
    assert spans(watch({"mainpc": asked}, gap_s=2)) == [(1.1, 4.1)]
    assert spans(watch({"mainpc": probes((0, False), (1, True))}, gap_s=2)) == [(0, 1.1)]
    assert spans(watch({"mainpc": probes((0, True), (1, False))}, gap_s=2)) == [(0.1, 1.1)]
    assert watch({"mainpc": []}, gap_s=2) is None


def test_one_probe_that_sees_an_outage_is_enough_and_what_touches_is_one():
    one = probes((0, True), (1, False), (2, True), (3, True), (4, True))
    other = probes((0, True), (1, True), (2, False), (3, True), (4, True))
    found = watch({"mainpc": one, "pc2": other}, gap_s=2)
    assert spans(found) == [(0.1, 3.1)]
    assert found.episodes[0].seen_by == ("mainpc", "pc2")


def test_what_nobody_watched_is_neither_up_nor_down():
    one = probes((0, True), (1, True), (10, True), (11, True))
    found = watch({"mainpc": one}, gap_s=2)
    assert found.episodes == ()
    assert [(gap.start_s, round(gap.length_s, 3)) for gap in found.gaps] == [(1.1, 8.9)]
    assert found.known_s == pytest.approx(2.2)
    covered = watch({"mainpc": one, "pc2": probes(*((t, True) for t in range(12)))}, gap_s=2)
    assert covered.gaps == ()
    # An outage ends where the probe ends: after the gap nothing is known.
    assert spans(watch({"a": probes((0, True), (1, False), (9, True), (10, True))}, gap_s=2)) == [(0.1, 1.1)]


def test_causes_and_planned_outages():
    asked = probes((0, True), (1, False), (2, True), (5, True), (6, False), (7, True))
    found = watch({"a": asked}, gap_s=5, causes=[Cause(0.9, 1.5, "crash of x")])
    assert [(one.cause, one.planned) for one in found.episodes] == [("crash of x", True), ("unknown", False)]
    assert found.down_s() == pytest.approx(2.0)
    assert found.down_s(planned=True) == pytest.approx(4.0)


def test_a_clock_that_goes_back_is_an_error():
    for end in (-1.0, math.nan):
        with pytest.raises(ValueError, match="clock went back"):
            watch({"a": [Probe(0.0, end, True)]}, gap_s=1)


@given(st.lists(st.booleans(), min_size=1, max_size=60))
def test_downtime_is_that_of_a_naive_count(answers):
    found = watch({"a": [Probe(t, t, ok) for t, ok in enumerate(answers)]}, gap_s=5)
    # Second by second: a second is good when both of its ends were.
    naive = sum(not (a and b) for a, b in itertools.pairwise(answers))
    assert found.down_s() == pytest.approx(naive)


def test_prometheus_series_become_probes():
    found = availability.probes_of_prometheus([(15, "1"), (30, "0"), (45, "NaN"), (60, "1")], 15)
    assert [(one.start_s, one.end_s, one.ok) for one in found] == [
        (0, 15, True),
        (15, 30, False),
        (45, 60, True),
    ]


def strip(length_s: float, *outages: tuple[float, float]) -> Watched:
    edges = [0.0, *(t for outage in outages for t in outage), length_s]
    asked = [Probe(t, t, not any(a < t < b for a, b in outages)) for t in edges]
    asked += [Probe((a + b) / 2, (a + b) / 2, False) for a, b in outages]
    found = watch({"a": asked}, gap_s=WEEK)
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("watched", "proven", "reason"),
    [
        (strip(WEEK, (100, 112)), True, "12.0 s of 604.8 s used"),
        (strip(3 * 86400, (100, 112)), None, "day 3.0 of 7: 12.0 s of 604.8 s used"),
        (strip(3 * 86400, (100, 800)), False, "700.0 s of 604.8 s used"),
        (strip(WEEK, (100, 704.8)), True, "604.8 s of 604.8 s used"),
        (strip(WEEK, (100, 705)), False, "604.9 s of 604.8"),
    ],
)
def test_a_budget_can_break_at_any_time_and_is_kept_only_after_its_time(watched, proven, reason):
    found = budget(watched)
    assert found.proven is proven
    assert reason.replace("604.9", "605.0") in found.reason


def test_gaps_that_could_hide_an_outage_leave_it_open():
    asked = [Probe(float(t), float(t), True) for t in range(0, int(WEEK) + 5 * 3600, 3600)]
    asked = [one for one in asked if not 36_000 < one.start_s < 50_000]
    found = budget(watch({"a": asked}, gap_s=4000))
    assert found.proven is None
    assert "nobody watched" in found.reason
    # The gap is no time that passed: seven days after the start it is still the seventh day.
    short = budget(watch({"a": [one for one in asked if one.start_s <= WEEK]}, gap_s=4000))
    assert (short.proven, short.reason) == (None, "day 6.8 of 7: 0.0 s of 604.8 s used")


def test_the_beginning_of_what_was_watched():
    found = watch(
        {"a": probes((0, True), (1, False), (2, True), (9, True), (10, False), (11, True))}, gap_s=2
    )
    half = availability.first(found, 4.0)
    assert (half.end_s, len(half.gaps)) == (pytest.approx(10.9), 1)
    assert spans(half) == [(0.1, 2.1), (9.1, 10.9)]
    assert half.known_s == pytest.approx(4.0)
    start = availability.first(found, 1.0)
    assert (spans(start), start.gaps, start.end_s) == ([(0.1, 1.0)], (), 1.0)
    assert availability.first(found, 100.0) == found


def test_an_answer_that_stays_the_same_is_one_probe():
    found = watch({"a": [Probe(0, 0, True, 60), Probe(61, 61, False, 70), Probe(71, 71, True, 99)]}, gap_s=2)
    assert spans(found) == [(60, 71)]
    assert found.gaps == ()
    since = [Probe(0, 0, True, 60), Probe(61, 61, False, 70, since_s=40.0), Probe(71, 71, True, 99)]
    assert spans(watch({"a": since}, gap_s=2)) == [(40, 71)]
    with pytest.raises(ValueError, match="clock went back"):
        watch({"a": [Probe(5, 5, True, 4)]}, gap_s=2)


def test_burn_rates_need_both_windows():
    # 5 % of the last hour down, all of it in the last five minutes: 50 times the allowed rate, both alert.
    hour = strip(WEEK, (WEEK - 180, WEEK))
    fast = burn_rates(hour)[0]
    assert (fast.rate, fast.alerts) == (pytest.approx(50.0), True)
    # The same outage fifty minutes ago: the short window is clean again.
    assert burn_rates(strip(WEEK, (WEEK - 3180, WEEK - 3000)))[0].alerts is False
    assert not any(burn.alerts for burn in burn_rates(strip(WEEK)))


def fault(**changes) -> AssumedFault:
    told = {
        "fault": "crash",
        "per_week": 20.0,
        "low": 20.0,
        "high": 20.0,
        "source": "s",
        "blocks": ("crash",),
    }
    return AssumedFault(**{**told, **changes})


def test_a_projection_is_rate_times_length_with_room_for_what_was_not_seen():
    found = project({"crash": [1.0] * 2000}, [fault()], criterion="RL-1", longest_s=1.0, seed=1)
    assert found.downtime_s == pytest.approx(20.0, abs=1.0)  # Poisson(20) seconds
    assert found.high_s == pytest.approx(28.0, abs=1.1)
    assert found.confidence == pytest.approx(0.9)
    few = project({"crash": [1.0] * 3}, [fault()], criterion="RL-1", longest_s=60.0, seed=1)
    assert few.high_s > 10 * found.high_s
    assert project({"crash": [1.0]}, [fault()], criterion="x", longest_s=9, seed=1) == project(
        {"crash": [1.0]}, [fault()], criterion="x", longest_s=9, seed=1
    )


def test_bursts_and_uncertain_rates_widen_a_projection_and_keep_its_middle():
    def high(**changes):
        return project({"crash": [1.0] * 2000}, [fault(**changes)], criterion="x", longest_s=1, seed=2)

    plain, bursts, unsure = high(), high(burst=5.0), high(low=5.0, high=80.0)
    assert bursts.high_s > 1.3 * plain.high_s
    assert unsure.high_s > 1.3 * plain.high_s
    for one in (bursts, unsure):
        assert one.downtime_s == pytest.approx(plain.downtime_s, rel=0.15)


def test_a_fault_that_was_never_measured_cannot_be_projected():
    with pytest.raises(ValueError, match="no outage of crash was measured"):
        project({"hang": [1.0]}, [fault()], criterion="x", longest_s=1, seed=1)
