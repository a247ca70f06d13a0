"""`threenines compare`: what changed between two runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from reports.render import render
from tests.reports.synthetic import write_run
from threenines.__main__ import run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for name, kind in (("run-1", "passing"), ("run-2", "failing")):
        render(write_run(tmp_path, name, kind=kind, plots=False))
    return tmp_path


def test_a_regression_is_a_failure(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "run-1", "run-2", "--json", "--out", str(out)]) == 1
    found = json.loads(capsys.readouterr().out)
    assert found["regressions"] == ["RL-3.failover"]
    assert found["mended"] == []
    assert {row["id"] for row in found["criteria"]} == {
        "SD-1", "SD-2", "SD-4", "SD-6", "RL-3", "RL-3.detect", "RL-3.failover",
    }  # fmt: skip


def test_a_mended_criterion_is_told(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "run-2", "run-1", "--json", "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["mended"] == ["RL-3.failover"]


def test_people_get_a_table(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["compare", "run-1", "--out", str(out)]) == 1
    assert "regressed: RL-3.failover" in capsys.readouterr().out


def test_a_run_without_report_says_how_to_make_one(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "run-1" / "report.json").unlink()
    assert run(["compare", "run-1", "run-2", "--out", str(out)]) == 64
    assert "`threenines report run-1`" in capsys.readouterr().err
