"""From the files of a run to its `Report`. Pure: the same files give the same report."""

from __future__ import annotations

import msgspec

from reports import grading, scenario_views
from reports.history import compare
from reports.model import (
    Criterion,
    CriterionResult,
    PlannedCriterion,
    Report,
    ScenarioResult,
    Verdict,
    row_of,
)
from reports.store import RunError, RunFiles


def assemble(files: RunFiles, earlier: Report | None = None) -> Report:
    """Grade a run. Raises `RunError` when its files contradict each other."""
    plans = {p.id: p for p in files.plan.criteria}
    results = _complete(files, plans)
    rows = grading.rows_of(list(results.values()))
    row_verdicts = {row.id: row.verdict for row in rows}
    planned_ids = frozenset(plans)
    planned_rows = frozenset(row_of(name) for name in plans)
    comparison = compare(earlier, results) if earlier is not None else None
    regressions = comparison.regressions if comparison is not None and comparison.accepted else ()
    categories = tuple(grading.score_category(c, rows, planned_rows) for c in files.plan.categories)
    coverage = grading.coverage_of(rows, planned_ids)
    gate = grading.judge_gate(
        [results[name] for name in plans],
        state=files.run.state,
        plan_intact=files.plan_intact,
        regressions=regressions,
    )
    scenarios = _scenarios(files)
    gate = scenario_views.with_scenarios(
        gate, sum(grading.passes(results[name]) for name in plans), len(plans), scenarios
    )
    gate = scenario_views.with_left_out(gate, scenarios, files.plan.left_out)
    before = {c.id: c for c in earlier.criteria} if earlier is not None else {}
    return Report(
        run=files.run,
        verdict=gate.verdict,
        grade=gate.grade,
        reason=gate.reason,
        coverage=coverage,
        release=grading.judge_release(categories, coverage, gate, regressions),
        categories=categories,
        criteria=tuple(
            _criterion(result, plans.get(name), row_verdicts[row_of(name)], before.get(name))
            for name, result in results.items()
        ),
        comparison=comparison,
        voids=files.verdicts.voids,
        deviations=files.verdicts.deviations,
        instruments=files.verdicts.instruments,
        projections=files.verdicts.projections,
        scenarios=scenarios,
        left_out=files.plan.left_out,
        selftest=files.selftest,
        notes=files.notes,
        grading_rule=grading.RULE,
    )


def _complete(files: RunFiles, plans: dict[str, PlannedCriterion]) -> dict[str, CriterionResult]:
    """Results by id, with a *not measured* one for whatever was planned and then never judged."""
    path = str(files.folder / "verdicts.json")
    categories = {c.id for c in files.plan.categories}
    if len(plans) != len(files.plan.criteria):
        raise RunError(str(files.folder / "plan.json"), "names a criterion twice", "run it again")
    results: dict[str, CriterionResult] = {}
    homes: dict[str, str] = {}
    for result in files.verdicts.criteria:
        if result.id in results:
            raise RunError(path, f"judges {result.id} twice", "judge it again, or run it again")
        if result.category not in categories:
            raise RunError(
                path, f"{result.id} is of category {result.category!r}, which plan.json lacks", "run it again"
            )
        if homes.setdefault(row_of(result.id), result.category) != result.category:
            raise RunError(
                path, f"{row_of(result.id)} is in two categories", "judge it again, or run it again"
            )
        results[result.id] = result
    for name, plan in plans.items():
        if name in results:
            continue
        home = homes.get(row_of(name))
        if home is None:
            raise RunError(path, f"knows nothing of {name}, which plan.json plans", "judge it again")
        results[name] = CriterionResult(
            id=name, title=name, category=home, claim=plan.claim, reason="planned, but never judged"
        )
    return results


def _scenarios(files: RunFiles) -> tuple[ScenarioResult, ...]:
    """In the plan's order, with a *not measured* one for whatever was planned and then never judged."""
    judged = {one.name: one for one in files.verdicts.scenarios}
    unplanned = set(judged) - {one.name for one in files.plan.scenarios}
    if unplanned or len(judged) != len(files.verdicts.scenarios):
        path = str(files.folder / "verdicts.json")
        name = next(iter(sorted(unplanned)), "a scenario")
        raise RunError(path, f"judges {name}, which plan.json does not plan once", "judge it again")
    return tuple(
        judged.get(one.name)
        or ScenarioResult(
            name=one.name,
            title=one.title,
            rows=one.rows,
            expected=one.expected,
            why=("planned, but never judged",),
        )
        for one in files.plan.scenarios
    )


def _criterion(
    result: CriterionResult,
    plan: PlannedCriterion | None,
    row_verdict: Verdict,
    before: Criterion | None,
) -> Criterion:
    fields = {name: getattr(result, name) for name in CriterionResult.__struct_fields__}
    return Criterion(
        **fields,
        planned=plan is not None,
        row_verdict=row_verdict,
        grade=grading.grade_criterion(result),
        plan=plan,
        previous=before.verdict if before is not None else None,
        previous_estimate=before.estimate if before is not None else None,
        previous_bound=before.bound if before is not None else None,
        previous_n=before.n if before is not None else None,
    )


def exit_status(report: Report) -> int:
    """0 pass, 1 fail, 2 not proven."""
    return {Verdict.PASS: 0, Verdict.FAIL: 1}.get(report.verdict, 2)


def encode(report: Report) -> bytes:
    """`report.json`, the schema's name first."""
    plain: dict[str, object] = msgspec.to_builtins(report)
    ordered = {"schema": plain.pop("schema"), **plain}
    return msgspec.json.format(msgspec.json.encode(ordered), indent=2) + b"\n"
