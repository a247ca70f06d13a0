"""`metrics.prom`: a run's figures as OpenMetrics, so that Prometheus keeps the history of reports.

Every sample carries the time at which the run ended: `promtool tsdb create-blocks-from openmetrics` takes the
file as it is, years later too. Labels name what is compared over time (profile, environment, criterion); the
run itself stands in `threenines_report_info` alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.openmetrics.exposition import generate_latest

from reports import grading, scenario_views
from reports.model import Criterion, Report, Run, Verdict

_SCOPE = ["profile", "environment"]
_CODES = {
    Verdict.FAIL: 0,
    Verdict.PASS: 1,
    Verdict.INCONCLUSIVE: 2,
    Verdict.VOID: 3,
    Verdict.NOT_MEASURED: 4,
}


def render(report: Report) -> bytes:
    """The file's bytes: the same for the same report."""
    text: bytes = generate_latest(_Once(report))  # type: ignore[no-untyped-call]
    return text


def instant(run: Run) -> float:
    """Seconds since 1970 of the run's end (of its start where it has none); 0 for what is no time."""
    for told in (run.ended, run.started):
        try:
            at = datetime.fromisoformat(told or "")
        except ValueError:
            continue
        return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp()
    return 0.0


class _Once:
    """What the exposition asks of a registry."""

    def __init__(self, report: Report) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        report, run = self._report, self._report.run
        at = instant(run)
        scope = [run.profile, run.environment]
        info = GaugeMetricFamily(
            "threenines_report_info",
            "The run; its value is 1.",
            labels=[*_SCOPE, "run", "commit", "synthetic"],
        )
        info.add_metric([*scope, run.id, run.commit or "", str(run.synthetic).lower()], 1, timestamp=at)
        yield info
        codes = ", ".join(f"{code} {verdict.value}" for verdict, code in _CODES.items())
        verdict = GaugeMetricFamily(
            "threenines_report_verdict", f"Of the gate and of the release: {codes}.", labels=[*_SCOPE, "of"]
        )
        for name, value in (("gate", report.verdict), ("release", report.release.verdict)):
            verdict.add_metric([*scope, name], _CODES[value], timestamp=at)
        yield verdict
        rows = GaugeMetricFamily(
            "threenines_report_rows", "Rows of the catalogue by how they stand.", labels=[*_SCOPE, "state"]
        )
        coverage = report.coverage
        for state in ("passed", "failed", "inconclusive", "void", "not_measured"):
            rows.add_metric([*scope, state], getattr(coverage, state), timestamp=at)
        yield rows
        for field, told in (("score", "Proven share of a category's rows."), ("threshold", "Share needed.")):
            family = GaugeMetricFamily(
                f"threenines_report_category_{field}", told, labels=[*_SCOPE, "category"]
            )
            for category in report.categories:
                family.add_metric([*scope, category.id], getattr(category, field), timestamp=at)
            yield family
        yield from self._criteria(scope, at, codes)
        yield from scenario_views.metrics(report.scenarios, report.left_out, scope, _SCOPE, at, _CODES)

    def _criteria(self, scope: list[str], at: float, codes: str) -> Iterator[Metric]:
        shown = [c for c in self._report.criteria if c.planned or c.verdict is not Verdict.NOT_MEASURED]
        labels = [*_SCOPE, "criterion", "category"]
        verdict = GaugeMetricFamily("threenines_criterion_verdict", f"{codes}.", labels=labels)
        passed = GaugeMetricFamily(
            "threenines_criterion_passed", "1 where it counts as passed.", labels=labels
        )
        for c in shown:
            verdict.add_metric([*scope, c.id, c.category], _CODES[c.verdict], timestamp=at)
            passed.add_metric([*scope, c.id, c.category], float(grading.passes(c)), timestamp=at)
        yield verdict
        yield passed
        for field, told in (
            ("estimate", "What was measured, in `unit`."),
            ("bound", "The one-sided confidence bound that is compared with the target, in `unit`."),
            ("target", "The target, in `unit`."),
        ):
            family = GaugeMetricFamily(f"threenines_criterion_{field}", told, labels=[*labels, "unit"])
            for c in shown:
                value = _finite(c, field)
                if value is not None:
                    family.add_metric([*scope, c.id, c.category, c.unit or ""], value, timestamp=at)
            yield family
        for field, told in (("n", "Trials."), ("exceedances", "Trials that broke the limit.")):
            name = "trials" if field == "n" else field
            family = GaugeMetricFamily(f"threenines_criterion_{name}", told, labels=labels)
            for c in shown:
                value = _finite(c, field)
                if value is not None:
                    family.add_metric([*scope, c.id, c.category], value, timestamp=at)
            yield family


def _finite(criterion: Criterion, field: str) -> float | None:
    value: Any = getattr(criterion, field)
    return float(value) if value is not None and math.isfinite(value) else None
