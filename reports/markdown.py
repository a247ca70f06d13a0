"""`report.md`: fits a comment under a pull request. The answer, the planned criteria, counts of the rest."""

from __future__ import annotations

import re

from reports import figures, scenario_views, words
from reports.model import Criterion, Report, Verdict

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~$@!])")
_MOST_ROWS = 120


def render(report: Report) -> str:
    """The page as text; every value from the run is escaped."""
    answer = words.answer(report)
    sign = figures.SIGNS[report.verdict]
    grade = report.grade.value if report.grade is not None else figures.DASH
    run = report.run
    lines = [f"## {sign} {escape(answer.headline)} · grade {grade}", ""]
    if run.synthetic:
        lines += ["> **Made-up data**: a test fixture, not a run.", ""]
    lines += [
        f"{escape(answer.detail)} {escape(words.scope(report))}",
        "",
        f"**Can we release?** {answer.release}. {escape(answer.release_detail)}",
        "",
    ]
    lines += _to_do(report)
    planned = [c for c in report.criteria if c.planned]
    if planned:
        lines += _table(planned)
    lines += scenario_views.markdown(report.scenarios, report.left_out, escape)
    lines += _categories(report)
    lines += _rest(report)
    lines += [
        f"<sub>Run `{code(run.id)}` · profile {escape(run.profile)} · "
        f"environment {escape(run.environment)} · "
        f"commit `{code((run.commit or figures.DASH)[:12])}` · seed {run.seed} · "
        f"plan `{code(run.plan_sha256[:12])}`</sub>",
        "",
    ]
    return "\n".join(lines)


def _to_do(report: Report) -> list[str]:
    todo = words.to_do(report)
    if not todo:
        return []
    lines = ["### What to do", ""]
    for criterion in todo[:_MOST_ROWS]:
        sign = figures.SIGNS[criterion.verdict]
        remedy = f" {escape(criterion.remedy)}." if criterion.remedy else ""
        name = f"**{sign} {escape(criterion.id)}** {escape(criterion.title)}"
        lines.append(f"- {name}: {escape(words.why(criterion))}{remedy}")
    return [*lines, ""]


def _table(planned: list[Criterion]) -> list[str]:
    lines = [
        "| | criterion | target | measured | bound | trials |",
        "|---|---|---|---|---|---|",
    ]
    for c in planned[:_MOST_ROWS]:
        measured = figures.quantity(c.estimate, c.unit)
        if c.statistic and c.estimate is not None:
            measured = f"{c.statistic} {measured}"
        bound = figures.quantity(c.bound, c.unit)
        if c.bound is not None and c.confidence is not None:
            bound += f" ({figures.share(c.confidence)})"
        trials = figures.count(c.n)
        if c.exceedances:
            trials += f", {c.exceedances} exceeded"
        verdict = f"{figures.SIGNS[c.verdict]} {figures.WORDS[c.verdict].lower()}"
        cells = (verdict, f"{c.id} {c.title}", figures.target(c), measured, bound, trials)
        lines.append(f"| {' | '.join(map(escape, cells))} |")
    if len(planned) > _MOST_ROWS:
        lines += ["", f"{len(planned) - _MOST_ROWS} more in report.html."]
    return [*lines, ""]


def _categories(report: Report) -> list[str]:
    lines = ["| category | proven | needed | verdict | grade |", "|---|---|---|---|---|"]
    for c in report.categories:
        grade = c.grade.value if c.grade is not None else figures.DASH
        cells = (
            c.title,
            f"{c.passed} of {c.rows} rows",
            figures.share(c.threshold),
            f"{figures.SIGNS[c.verdict]} {figures.WORDS[c.verdict].lower()}",
            grade,
        )
        lines.append(f"| {' | '.join(map(escape, cells))} |")
    return [*lines, ""]


def _rest(report: Report) -> list[str]:
    lines = []
    if report.comparison is not None:
        comparison = report.comparison
        lost = ", ".join(r.id for r in comparison.regressions) or "none"
        gained = ", ".join(comparison.mended) or "none"
        which = "the last accepted run" if comparison.accepted else "the newest run; none was accepted yet"
        lines.append(
            f"Beside `{code(comparison.run)}` ({which}): "
            f"{'regressed' if comparison.accepted else 'passed there and fails here'} {escape(lost)}; "
            f"mended {escape(gained)}."
        )
    rest = words.unmeasured(report)
    if rest:
        rows = figures.plural(len(rest), "criterion", "criteria")
        lines.append(f"Not measured and not counted as passed: {rows}.")
    if report.verdict is Verdict.VOID:
        lines.append("This run is void.")
    return [*lines, ""] if lines else []


def escape(text: str) -> str:
    """Text that Markdown shows as it stands: no markup, no mention, no table cell broken."""
    flat = "".join(c if c.isprintable() else " " for c in " ".join(text.split()))
    return _SPECIAL.sub(r"\\\1", flat)


def code(text: str) -> str:
    """Text that may stand between backticks."""
    return "".join(c for c in text if c.isprintable() and c != "`")
