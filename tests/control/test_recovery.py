"""The validation that ends a failover."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.recovery import (
    TABLE,
    UNDER_WAY,
    Checked,
    Do,
    Recovery,
    RecoveryPolicy,
    Report,
    Stage,
    begin,
    judge,
    recovery_step,
)

MS = 1_000_000
POLICY = RecoveryPolicy()


def told(recovery: Recovery, *reports: Report | None, at_ms: int = 0) -> tuple[Recovery, list[Do]]:
    done: list[Do] = []
    for report in reports:
        recovery, effects = recovery_step(recovery, report, at_ms * MS, POLICY)
        done += effects
    return recovery, done


def test_a_recovery_that_goes_well() -> None:
    recovery, done = told(begin("a", 3, 50, 0, POLICY), Report.READY, Report.PROMOTED, Report.PASSED)
    assert recovery.stage is Stage.RECOVERED
    assert done == [Do.PROMOTE, Do.CHECK, Do.ANNOUNCE]


@pytest.mark.parametrize(
    ("checked", "report"),
    [
        (Checked(3, True, 50), Report.PASSED),
        (Checked(3, True, 49), Report.FAILED),  # loaded before the unit was ours
        (Checked(2, True, 50), Report.FAILED),
        (Checked(3, False, 50), Report.FAILED),
    ],
)
def test_what_counts_as_recovered(checked: Checked, report: Report) -> None:
    assert judge(begin("a", 3, 50, 0, POLICY), checked) is report


def test_a_step_that_takes_too_long_is_tried_again_and_then_given_up() -> None:
    recovery, done = told(begin("a", 3, 50, 0, POLICY), Report.READY)
    for attempt in range(2, POLICY.attempts + 1):
        assert recovery.deadline_ns is not None
        assert told(recovery, None, at_ms=0)[1] == [], "not yet due"
        recovery, done = told(recovery, None, at_ms=recovery.deadline_ns // MS)
        assert done == [Do.PROMOTE]
        assert recovery.attempts == attempt
    assert recovery.deadline_ns is not None
    recovery, done = told(recovery, None, at_ms=recovery.deadline_ns // MS)
    assert (recovery.stage, done) == (Stage.GIVEN_UP, [Do.REPORT_LOSS])


def test_missing_dependencies_delay_a_recovery_and_do_not_stop_it() -> None:
    recovery, done = told(begin("a", 3, 50, 0, POLICY), None, at_ms=POLICY.wait_ns // MS)
    assert (recovery.stage, done) == (Stage.PROMOTING, [Do.PROMOTE])


@given(st.lists(st.sampled_from((*Report, None)), max_size=30))
def test_every_recovery_under_way_has_a_deadline_and_ends(reports: list[Report | None]) -> None:
    recovery, now_ns = begin("a", 3, 50, 0, POLICY), 0
    for report in reports:
        recovery, _ = recovery_step(recovery, report, now_ns, POLICY)
        assert (recovery.deadline_ns is not None) == (recovery.stage in UNDER_WAY)
    for _ in range(2 * POLICY.attempts + 2):
        if recovery.deadline_ns is None:
            break
        now_ns = recovery.deadline_ns
        recovery, _ = recovery_step(recovery, None, now_ns, POLICY)
    assert recovery.stage not in UNDER_WAY


def test_a_lost_unit_ends_it_at_every_stage() -> None:
    for stage in Stage:
        if stage is not Stage.ENDED:
            assert TABLE[stage, Report.LOST].to is Stage.ENDED
