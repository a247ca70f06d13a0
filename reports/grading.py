"""From verdicts to rows, category scores, the gate, the release and grades. Pure. In words: `RULE`.

Two questions are kept apart, because one number cannot answer both honestly:

- *the gate*: did everything that this profile planned pass? (`Report.verdict`, `Report.grade`)
- *the release*: do all categories of the whole catalogue reach their thresholds? (`Report.release`)

A quick run can pass its gate; it cannot prove a release, and nothing that was not measured counts as passed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from reports.model import (
    Category,
    CategoryScore,
    Coverage,
    CriterionResult,
    Direction,
    Evidence,
    Grade,
    Regression,
    Release,
    RunState,
    Verdict,
    row_of,
)

RULE = (
    "The gate judges what the profile planned, and nothing else: one planned criterion that fails, or one "
    "that passed in the last accepted run and fails now, fails it; one that is undecided, void or missing "
    "leaves it inconclusive; it passes when every planned criterion passes and the run came to its end.",
    "What the hosts of the stack cannot do is left out of the plan before the first trial. It is named with "
    "its reason, it counts neither as passed nor as failed, and it proves no row.",
    "The gate's grade is the share of planned criteria that pass: A all, B 95 %, C 85 %, D 70 %, else F. "
    "With a failure it is C at best. It stands beside the number of rows that it speaks about.",
    "A row is as good as the worst of its parts. It is proven when all of them pass by evidence that the row "
    "accepts: measured, accelerated or imported. A simulation counts only where the requirement is itself "
    "about a simulation, and never as measured.",
    "A category's score is its proven rows over all its rows, measured or not. It passes at its threshold, "
    "fails when its failures put the threshold out of reach, and is open else; then it has no grade.",
    "A release is proven when all categories pass and nothing regressed.",
    "A criterion's grade: A passes and reaches its stretch (or has none), B passes, C undecided with the "
    "estimate on the good side of the target, D undecided else, F fails; none when not measured or void.",
)

COUNTED = frozenset({Evidence.MEASURED, Evidence.ACCELERATED, Evidence.IMPORTED})
_SHARES = ((1.0, Grade.A), (0.95, Grade.B), (0.85, Grade.C), (0.70, Grade.D))
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Row:
    """A row of the catalogue with the criteria that stand under its id."""

    id: str
    category: str
    criteria: tuple[CriterionResult, ...]
    verdict: Verdict
    measured: bool
    partly: bool


def passes(criterion: CriterionResult) -> bool:
    """Whether it counts as passed: the verdict says so and its evidence may carry it."""
    accepted = criterion.accepts or COUNTED
    carried = criterion.evidence in accepted and criterion.evidence is not Evidence.NONE
    return criterion.verdict is Verdict.PASS and carried


def rows_of(criteria: Sequence[CriterionResult]) -> tuple[Row, ...]:
    """Group criteria by row, in order of first appearance."""
    groups: dict[str, list[CriterionResult]] = {}
    for criterion in criteria:
        groups.setdefault(row_of(criterion.id), []).append(criterion)
    return tuple(_row(name, tuple(group)) for name, group in groups.items())


def _row(name: str, group: tuple[CriterionResult, ...]) -> Row:
    counted = [c.verdict is not Verdict.NOT_MEASURED and c.evidence in COUNTED for c in group]
    return Row(
        id=name,
        category=group[0].category,
        criteria=group,
        verdict=_row_verdict(group),
        measured=all(counted),
        partly=any(counted) and not all(counted),
    )


def _row_verdict(group: Sequence[CriterionResult]) -> Verdict:
    verdicts = {c.verdict for c in group}
    if Verdict.FAIL in verdicts:
        return Verdict.FAIL
    if verdicts == {Verdict.PASS}:
        return Verdict.PASS if all(map(passes, group)) else Verdict.INCONCLUSIVE
    if len(verdicts) == 1:
        return verdicts.pop()
    return Verdict.INCONCLUSIVE


def grade_share(share: float, *, failed: bool) -> Grade:
    """The grade of a share of passes (0 to 1)."""
    grade = next((g for least, g in _SHARES if share >= least - _TOLERANCE), Grade.F)
    return Grade.C if failed and grade in {Grade.A, Grade.B} else grade


def good_side(value: float, target: float, direction: Direction | None) -> bool:
    """Whether `value` keeps `target`. Without a direction nothing is known to be good."""
    return direction is not None and direction.keeps(value, target)


def grade_criterion(criterion: CriterionResult) -> Grade | None:
    """A to F for one criterion, `None` when there is nothing to grade."""
    match criterion.verdict:
        case Verdict.PASS:
            if criterion.stretch is None:
                return Grade.A
            value = criterion.bound if criterion.bound is not None else criterion.estimate
            reached = value is not None and good_side(value, criterion.stretch, criterion.direction)
            return Grade.A if reached else Grade.B
        case Verdict.FAIL:
            return Grade.F
        case Verdict.INCONCLUSIVE:
            if criterion.estimate is None or criterion.target is None:
                return Grade.D
            good = good_side(criterion.estimate, criterion.target, criterion.direction)
            return Grade.C if good else Grade.D
        case Verdict.NOT_MEASURED | Verdict.VOID:
            return None


def score_category(category: Category, rows: Sequence[Row], planned: frozenset[str]) -> CategoryScore:
    """A category over all its rows; `planned` are ids of rows."""
    mine = [row for row in rows if row.category == category.id]
    passed = sum(row.verdict is Verdict.PASS for row in mine)
    failed = sum(row.verdict is Verdict.FAIL for row in mine)
    needed = category.threshold * len(mine) - _TOLERANCE
    touched = any(row.measured or row.partly for row in mine)
    if not mine:
        verdict = Verdict.NOT_MEASURED
    elif passed >= needed:
        verdict = Verdict.PASS
    elif len(mine) - failed < needed:
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.INCONCLUSIVE if touched else Verdict.NOT_MEASURED
    score = passed / len(mine) if mine else 0.0
    decided = verdict in {Verdict.PASS, Verdict.FAIL}
    return CategoryScore(
        id=category.id,
        title=category.title,
        threshold=category.threshold,
        score=score,
        verdict=verdict,
        grade=grade_share(score, failed=failed > 0) if decided else None,
        rows=len(mine),
        planned=sum(row.id in planned for row in mine),
        measured=sum(row.measured for row in mine),
        passed=passed,
        failed=failed,
    )


def coverage_of(rows: Sequence[Row], planned: frozenset[str]) -> Coverage:
    """Count rows, and the planned criteria; `planned` are ids of criteria."""
    planned_rows = {row_of(name) for name in planned}
    ours = [c for row in rows for c in row.criteria if c.id in planned]

    def count(verdict: Verdict) -> int:
        return sum(row.verdict is verdict for row in rows)

    return Coverage(
        rows=len(rows),
        planned=sum(row.id in planned_rows for row in rows),
        measured=sum(row.measured for row in rows),
        partly=sum(row.partly for row in rows),
        passed=count(Verdict.PASS),
        failed=count(Verdict.FAIL),
        inconclusive=count(Verdict.INCONCLUSIVE),
        void=count(Verdict.VOID),
        not_measured=count(Verdict.NOT_MEASURED),
        criteria_planned=len(planned),
        criteria_passed=sum(map(passes, ours)),
        criteria_failed=sum(c.verdict is Verdict.FAIL for c in ours),
    )


@dataclass(frozen=True)
class Gate:
    """The answer about what the profile planned."""

    verdict: Verdict
    grade: Grade | None
    reason: str


def judge_gate(
    planned: Sequence[CriterionResult],
    *,
    state: RunState,
    plan_intact: bool,
    regressions: Sequence[Regression] = (),
) -> Gate:
    """The gate's verdict over the planned criteria (one for each, missing ones as *not measured*)."""
    if not plan_intact:
        return Gate(
            Verdict.VOID,
            None,
            "plan.json is not the plan that was hashed before the first trial; nothing counts",
        )
    if not planned:
        return Gate(Verdict.NOT_MEASURED, None, "this run planned nothing")
    passed = [c for c in planned if passes(c)]
    failed = [c.id for c in planned if c.verdict is Verdict.FAIL]
    lost = [r.id for r in regressions if r.id not in failed]
    open_ids = [c.id for c in planned if c not in passed and c.verdict is not Verdict.FAIL]
    grade = grade_share(len(passed) / len(planned), failed=bool(failed or lost))
    if failed or lost:
        parts = ([f"{_named(failed)} failed"] if failed else []) + (
            [f"{_named(lost)} passed in the last accepted run and failed now"] if lost else []
        )
        return Gate(Verdict.FAIL, grade, "; ".join(parts))
    if state is not RunState.FINISHED:
        return Gate(Verdict.INCONCLUSIVE, None, f"the run did not finish ({state.value})")
    if open_ids:
        return Gate(Verdict.INCONCLUSIVE, grade, f"{_named(open_ids)} could not be decided")
    number = (
        "the one planned criterion passes"
        if len(planned) == 1
        else f"all {len(planned)} planned criteria pass"
    )
    return Gate(Verdict.PASS, grade, number)


def judge_release(
    categories: Sequence[CategoryScore],
    coverage: Coverage,
    gate: Gate,
    regressions: Sequence[Regression],
) -> Release:
    """Whether this one report proves a release."""
    failed = [c.title for c in categories if c.verdict is Verdict.FAIL]
    if regressions or failed:
        what = (
            f"{_named(failed)} cannot reach the threshold any more"
            if failed
            else f"{_named([r.id for r in regressions])} regressed"
        )
        share = coverage.passed / coverage.rows if coverage.rows else 0.0
        return Release(verdict=Verdict.FAIL, grade=grade_share(share, failed=True), reason=what)
    if categories and all(c.verdict is Verdict.PASS for c in categories) and gate.verdict is Verdict.PASS:
        share = coverage.passed / coverage.rows
        return Release(
            verdict=Verdict.PASS,
            grade=grade_share(share, failed=coverage.failed > 0),
            reason="all categories reach their thresholds and nothing regressed",
        )
    reason = f"{coverage.passed} of {coverage.rows} rows are proven"
    if coverage.not_measured:
        reason += f", {coverage.not_measured} were not measured"
    verdict = Verdict.INCONCLUSIVE if coverage.measured or coverage.partly else Verdict.NOT_MEASURED
    return Release(verdict=verdict, grade=None, reason=reason)


def _named(names: Sequence[str]) -> str:
    shown = list(names[:4])
    if len(names) > len(shown):
        return f"{', '.join(shown)} and {len(names) - len(shown)} more"
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"
