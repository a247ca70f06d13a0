"""`threenines verify`: wrong budgets and runs that cannot go on, told in one line; nothing is touched."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.reports.synthetic import write_run
from threenines.__main__ import run


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    status = run(["verify", *arguments])
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.count("\n") == 1, shown.err
    assert "Traceback" not in shown.err
    return status, shown.err


@pytest.mark.parametrize("budget", ["soon", "-5m", "0", "90 parsecs", "nan", "inf", ""])
def test_a_budget_that_is_no_time(tmp_path: Path, capsys: pytest.CaptureFixture[str], budget: str) -> None:
    status, line = told(capsys, "--profile", "nightly", f"--budget={budget}", "--out", str(tmp_path))
    assert status == 64
    assert line.startswith("threenines: --budget")


@pytest.mark.parametrize("option", [("--budget", "5m"), ("--resume", "latest")])
def test_other_profiles_have_neither(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, str]
) -> None:
    status, line = told(capsys, *option, "--out", str(tmp_path))
    assert status == 64
    assert line == f"threenines: {option[0]}: profile quick has none; add --profile nightly\n"


@pytest.mark.parametrize("name", ["latest", "2026-01-01T000000Z-nightly", "/no/such/run"])
def test_a_run_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    status, line = told(capsys, "--profile", "nightly", "--resume", name, "--out", str(tmp_path))
    assert status == 64
    assert str(tmp_path) in line or name in line


def test_a_run_that_is_no_night(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path, "run-1", plots=False)
    status, line = told(capsys, "--profile", "nightly", "--resume", "run-1", "--out", str(tmp_path))
    assert status == 64
    assert str(folder) in line


def test_a_run_that_was_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path, "run-1", plots=False)
    (folder / "run.json").write_bytes((folder / "run.json").read_bytes()[:100])
    status, line = told(capsys, "--profile", "nightly", "--resume", "run-1", "--out", str(tmp_path))
    assert status == 64
    assert "run.json: is damaged" in line


def test_a_seed_of_its_own_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ("--profile", "nightly", "--resume", "latest", "--seed", "1", "--out", str(tmp_path))
    status, line = told(capsys, *arguments)
    assert (status, line.split(":")[1]) == (64, " --seed")
