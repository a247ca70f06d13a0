"""metrics.prom holds against two parsers of OpenMetrics and keeps the report's figures; the annotation marks
the run."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from reports import annotation, history, metrics, render
from reports.model import Report, Verdict
from tests.reports.synthetic import HOSTILE, write_run

PROMTOOL = shutil.which("promtool", path=f"{Path(__file__).parents[2] / '.tools' / 'bin'}") or shutil.which(
    "promtool"
)
ENDED = 1795165602.0


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    folder = write_run(tmp_path_factory.mktemp("out"), "run-1", plots=False)
    render.render(folder)
    return history.read(folder)


def samples(report: Report) -> dict[tuple[str, str], float]:
    """Values by metric and by the label that tells them apart."""
    found = {}
    for family in text_string_to_metric_families(metrics.render(report).decode()):
        for sample in family.samples:
            assert float(sample.timestamp) == ENDED, "every sample carries the end of the run"
            of = next(
                (sample.labels[n] for n in ("criterion", "category", "of", "state") if n in sample.labels), ""
            )
            assert (sample.name, of) not in found
            found[sample.name, of] = sample.value
    return found


def test_every_figure_of_the_report_is_there_and_nothing_else(report: Report) -> None:
    found = samples(report)
    for field in ("estimate", "bound", "target"):
        told = {of: value for (name, of), value in found.items() if name == f"threenines_criterion_{field}"}
        assert told == {
            c.id: getattr(c, field)
            for c in report.criteria
            if getattr(c, field) is not None and (c.planned or c.verdict is not Verdict.NOT_MEASURED)
        }
    assert found["threenines_report_verdict", "gate"] == 0
    assert found["threenines_criterion_verdict", "RL-3.failover"] == 0
    assert found["threenines_criterion_passed", "SD-1"] == 1
    assert found["threenines_report_rows", "not_measured"] == report.coverage.not_measured
    assert ("threenines_criterion_verdict", "PF-1") not in found, "what was not measured has no figures"


def test_hostile_names_stay_labels(report: Report) -> None:
    changed = msgspec.structs.replace(
        report, run=msgspec.structs.replace(report.run, profile=HOSTILE + '\n"')
    )
    labels = {
        sample.labels["profile"]
        for family in text_string_to_metric_families(metrics.render(changed).decode())
        for sample in family.samples
    }
    assert labels == {HOSTILE + '\n"'}


def test_a_run_without_a_time_is_of_the_beginning(report: Report) -> None:
    run = msgspec.structs.replace(report.run, started="yesterday", ended=None)
    assert metrics.instant(run) == 0
    assert metrics.instant(msgspec.structs.replace(report.run, ended=None)) == ENDED - 402


@pytest.mark.skipif(PROMTOOL is None, reason="no promtool here; `make setup` brings one")
def test_prometheus_takes_it_into_its_history(report: Report, tmp_path: Path) -> None:
    assert PROMTOOL is not None
    path = tmp_path / "metrics.prom"
    path.write_bytes(metrics.render(report))
    done = subprocess.run(
        [PROMTOOL, "tsdb", "create-blocks-from", "openmetrics", str(path), str(tmp_path / "data")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert list((tmp_path / "data").glob("*/meta.json"))


def test_the_annotation_has_the_fields_that_grafana_reads(report: Report) -> None:
    told = json.loads(annotation.render(report))
    assert set(told) == {"time", "timeEnd", "tags", "text"}
    assert (told["time"], told["timeEnd"]) == ((ENDED - 402) * 1000, ENDED * 1000)
    assert {"threenines", "profile:quick", "verdict:fail"} <= set(told["tags"])
    assert "Can we release? No" in told["text"]


def test_the_annotation_shows_markup_as_text(report: Report) -> None:
    changed = msgspec.structs.replace(report, reason=HOSTILE)
    assert "<" not in json.loads(annotation.render(changed))["text"]
