"""Verdicts to rows, categories, gate, release and grades: tables, then laws against a naive count."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import grading
from reports.model import Category, CriterionResult, Direction, Evidence, Grade, Regression, RunState, Verdict

P, F, OPEN, N, V = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.NOT_MEASURED, Verdict.VOID
MEASURED, SIMULATED, NONE = Evidence.MEASURED, Evidence.SIMULATED, Evidence.NONE


def result(
    identifier: str, verdict: Verdict, *, evidence: Evidence | None = None, **figures: object
) -> CriterionResult:
    carried = (NONE if verdict is N else MEASURED) if evidence is None else evidence
    return CriterionResult(
        id=identifier, title=identifier, category="c", claim="x", verdict=verdict, evidence=carried, **figures
    )  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("parts", "verdict", "measured", "partly"),
    [
        ([P], P, True, False),
        ([P, P], P, True, False),
        ([P, F], F, True, False),
        ([F, N], F, False, True),
        ([P, N], OPEN, False, True),
        ([P, OPEN], OPEN, True, False),
        ([OPEN, V], OPEN, True, False),
        ([V], V, True, False),
        ([V, V], V, True, False),
        ([N], N, False, False),
        ([N, N], N, False, False),
    ],
)
def test_a_row_is_as_good_as_the_worst_of_its_parts(
    parts: list[Verdict], verdict: Verdict, measured: bool, partly: bool
) -> None:
    (row,) = grading.rows_of([result(f"RL-3.p{i}", v) for i, v in enumerate(parts)])
    assert (row.id, row.verdict, row.measured, row.partly) == ("RL-3", verdict, measured, partly)


@pytest.mark.parametrize(
    ("evidence", "accepts", "counts"),
    [
        (MEASURED, (), True),
        (Evidence.ACCELERATED, (), True),
        (Evidence.IMPORTED, (), True),
        (SIMULATED, (), False),
        (SIMULATED, (SIMULATED,), True),
        (Evidence.ACCELERATED, (MEASURED,), False),
        (NONE, (), False),
        (NONE, (NONE,), False),
    ],
)
def test_only_accepted_evidence_carries_a_pass(
    evidence: Evidence, accepts: tuple[Evidence, ...], counts: bool
) -> None:
    one = result("EV-2", P, evidence=evidence, accepts=accepts)
    assert grading.passes(one) is counts
    (row,) = grading.rows_of([one])
    assert row.verdict is (P if counts else OPEN)
    if evidence in {SIMULATED, NONE}:
        assert not row.measured, "a simulation is never a measurement"


@pytest.mark.parametrize(
    ("verdicts", "expected", "grade"),
    [
        ([P, P, P, P], P, Grade.A),
        ([P, P, P, F], F, Grade.D),
        ([P, F], F, Grade.F),
        ([P, P, P, OPEN], OPEN, Grade.D),
        ([P, V], OPEN, Grade.F),
        ([P, N], OPEN, Grade.F),
        ([N], OPEN, Grade.F),
        ([F], F, Grade.F),
        ([], N, None),
    ],
)
def test_the_gate_judges_what_was_planned(
    verdicts: list[Verdict], expected: Verdict, grade: Grade | None
) -> None:
    gate = grading.judge_gate(
        [result(f"SD-{i}", v) for i, v in enumerate(verdicts)], state=RunState.FINISHED, plan_intact=True
    )
    assert (gate.verdict, gate.grade) == (expected, grade)


def test_a_failure_is_at_best_a_c() -> None:
    verdicts = [P] * 99 + [F]
    gate = grading.judge_gate(
        [result(f"SD-{i}", v) for i, v in enumerate(verdicts)], state=RunState.FINISHED, plan_intact=True
    )
    assert gate.grade is Grade.C


@pytest.mark.parametrize("state", [RunState.RUNNING, RunState.INTERRUPTED, RunState.BROKEN])
def test_a_run_that_did_not_finish_cannot_pass_but_can_fail(state: RunState) -> None:
    passed = grading.judge_gate([result("SD-1", P)], state=state, plan_intact=True)
    failed = grading.judge_gate([result("SD-1", F)], state=state, plan_intact=True)
    assert (passed.verdict, failed.verdict) == (OPEN, F)
    assert state.value in passed.reason


def test_another_plan_than_the_hashed_one_voids_the_run() -> None:
    gate = grading.judge_gate([result("SD-1", P)], state=RunState.FINISHED, plan_intact=False)
    assert (gate.verdict, gate.grade) == (V, None)


def test_a_regression_outside_of_the_plan_fails_the_gate() -> None:
    gate = grading.judge_gate(
        [result("SD-1", P)],
        state=RunState.FINISHED,
        plan_intact=True,
        regressions=[Regression(id="RL-1", title="Uptime")],
    )
    assert gate.verdict is F
    assert "RL-1" in gate.reason


@pytest.mark.parametrize(
    ("verdicts", "threshold", "expected", "graded"),
    [
        ([P] * 20, 0.95, P, True),
        ([P] * 19 + [F], 0.95, P, True),
        ([P] * 18 + [F, F], 0.95, F, True),
        ([P] * 18 + [F, N], 0.95, OPEN, False),
        ([P] * 4 + [N] * 4, 0.95, OPEN, False),
        ([N] * 8, 0.95, N, False),
        ([F] + [N] * 7, 0.99, F, True),
        ([F] + [N] * 9, 0.90, OPEN, False),
        ([], 0.95, N, False),
    ],
)
def test_a_category_is_scored_over_all_its_rows(
    verdicts: list[Verdict], threshold: float, expected: Verdict, graded: bool
) -> None:
    rows = grading.rows_of([result(f"SD-{i}", v) for i, v in enumerate(verdicts)])
    score = grading.score_category(Category(id="c", title="C", threshold=threshold), rows, frozenset())
    assert score.verdict is expected
    assert (score.grade is not None) is graded
    assert score.score == (sum(v is P for v in verdicts) / len(verdicts) if verdicts else 0.0)


@given(
    st.lists(st.sampled_from(list(Verdict)), min_size=1, max_size=40), st.sampled_from([90, 95, 99, 100, 50])
)
def test_category_against_a_count_in_fractions(verdicts: list[Verdict], percent: int) -> None:
    rows = grading.rows_of([result(f"SD-{i}", v) for i, v in enumerate(verdicts)])
    score = grading.score_category(Category(id="c", title="C", threshold=percent / 100), rows, frozenset())
    passed, failed, all_rows = verdicts.count(P), verdicts.count(F), len(verdicts)
    need = Fraction(percent, 100)
    if Fraction(passed, all_rows) >= need:
        assert score.verdict is P
    elif Fraction(all_rows - failed, all_rows) < need:
        assert score.verdict is F
    else:
        assert score.verdict in {OPEN, N}
    assert (score.verdict is N) == (set(verdicts) == {N})


@given(st.lists(st.tuples(st.integers(1, 9), st.sampled_from(list(Verdict))), min_size=1, max_size=30))
def test_coverage_counts_every_row_once(pairs: list[tuple[int, Verdict]]) -> None:
    criteria = [result(f"SD-{row}.p{i}", verdict) for i, (row, verdict) in enumerate(pairs)]
    rows = grading.rows_of(criteria)
    planned = frozenset(c.id for c in criteria[::2])
    coverage = grading.coverage_of(rows, planned)
    told = coverage.passed + coverage.failed + coverage.inconclusive + coverage.void + coverage.not_measured
    assert coverage.rows == told == len({row for row, _ in pairs})
    assert coverage.criteria_planned == len(planned)
    assert coverage.criteria_passed == sum(v is P for _, v in pairs[::2])
    assert coverage.measured + coverage.partly <= coverage.rows
    assert coverage.passed <= coverage.measured


@pytest.mark.parametrize(
    ("figures", "verdict", "grade"),
    [
        ({}, P, Grade.A),
        ({"stretch": 50, "bound": 40, "direction": Direction.BELOW}, P, Grade.A),
        ({"stretch": 50, "bound": 60, "direction": Direction.BELOW}, P, Grade.B),
        ({"stretch": 50, "estimate": 40, "bound": 60, "direction": Direction.BELOW}, P, Grade.B),
        ({"stretch": 50, "estimate": 40, "direction": Direction.BELOW}, P, Grade.A),
        ({"stretch": 60, "bound": 61, "direction": Direction.AT_LEAST}, P, Grade.A),
        ({"stretch": 50}, P, Grade.B),
        ({"target": 100, "estimate": 40, "direction": Direction.BELOW}, OPEN, Grade.C),
        ({"target": 100, "estimate": 140, "direction": Direction.BELOW}, OPEN, Grade.D),
        ({"target": 100}, OPEN, Grade.D),
        ({}, F, Grade.F),
        ({}, N, None),
        ({}, V, None),
    ],
)
def test_a_criterion_is_graded_by_its_bound(
    figures: dict[str, object], verdict: Verdict, grade: Grade | None
) -> None:
    assert grading.grade_criterion(result("SD-1", verdict, **figures)) is grade


def test_a_release_needs_every_category_and_the_gate() -> None:
    rows = grading.rows_of([result("SD-1", P)])
    category = grading.score_category(Category(id="c", title="C", threshold=1.0), rows, frozenset({"SD-1"}))
    coverage = grading.coverage_of(rows, frozenset({"SD-1"}))
    passed = grading.Gate(P, Grade.A, "")
    assert grading.judge_release([category], coverage, passed, ()).verdict is P
    assert grading.judge_release([category], coverage, grading.Gate(OPEN, None, ""), ()).verdict is OPEN
    assert grading.judge_release([], coverage, passed, ()).verdict is OPEN
    lost = (Regression(id="SD-1", title="x"),)
    assert grading.judge_release([category], coverage, passed, lost).verdict is F
