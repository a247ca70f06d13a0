"""`threenines report`: finds a run, renders it, answers with the verdict as exit status."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.reports.synthetic import write_run
from threenines.__main__ import run


@pytest.mark.parametrize(("kind", "status"), [("passing", 0), ("failing", 1)])
def test_the_verdict_is_the_exit_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], kind: str, status: int
) -> None:
    folder = write_run(tmp_path, "run-1", kind=kind, plots=False)
    assert run(["report", "run-1", "--out", str(tmp_path)]) == status
    told = capsys.readouterr().out
    assert "RL-3.failover" in told
    assert "Made-up data" in told
    assert "Release: " in told
    assert (folder / "report.html").is_file()
    assert (tmp_path / "latest").resolve() == folder.resolve()


def test_not_proven_is_2(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run-1", kind="passing", plots=False)
    (folder / "plan.json").write_bytes((folder / "plan.json").read_bytes() + b"\n")
    assert run(["report", str(folder), "--no-judge"]) == 2


def test_json_is_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = write_run(tmp_path, "run-1", kind="passing", plots=False)
    assert run(["report", "latest", "--out", str(tmp_path)]) == 64, "not rendered yet: nothing is the latest"
    capsys.readouterr()
    assert run(["report", "run-1", "--json", "--out", str(tmp_path)]) == 0
    printed = capsys.readouterr().out
    assert printed == (folder / "report.json").read_text()
    assert json.loads(printed)["verdict"] == "pass"


@pytest.mark.parametrize(
    ("break_it", "says"),
    [
        (lambda folder: (folder / "verdicts.json").unlink(), "verdicts.json: is missing"),
        (lambda folder: (folder / "run.json").write_bytes(b"{"), "run.json: is damaged"),
        (lambda folder: (folder / "plan.json").write_bytes(b""), "plan.json: is empty"),
    ],
)
def test_a_broken_run_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], break_it: object, says: str
) -> None:
    folder = write_run(tmp_path, "run-1", plots=False)
    break_it(folder)  # type: ignore[operator]
    assert run(["report", str(folder)]) == 64
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert says in told
    assert not (folder / "report.html").exists()


def test_run_ids_are_completed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from reports import store
    from threenines.commands import report

    write_run(tmp_path, "2026-01-01-quick", plots=False)
    monkeypatch.setattr(store, "default_out", lambda: tmp_path)
    assert report._complete("2026") == ["2026-01-01-quick"]
    assert report._complete("") == ["latest", "2026-01-01-quick"]
