"""`threenines report` on a stored run: judged and rendered again without a stack, to the same bytes."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from loadtests.record import encode_line
from reports import model
from reports.model import Run
from tests.reports.past import remember
from tests.verification.stories import faults, plan
from threenines.__main__ import run as command_line

WRITTEN = (
    "verdicts.json", "series.json", "report.html", "report.json", "report.md", "junit.xml", "metrics.prom",
    "annotation.json",
)  # fmt: skip


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of crashes and hangs as verification would have left it: no verdicts, no report."""
    folder = tmp_path_factory.mktemp("stored") / "2026-01-31T120000Z-quick"
    (folder / "history").mkdir(parents=True)
    encoded = plan().encode()
    (folder / "plan.json").write_bytes(encoded)
    run = Run(
        id=folder.name,
        started="2026-01-31T12:00:00Z",
        ended="2026-01-31T12:05:00Z",
        profile="quick",
        environment="local",
        seed=7,
        plan_sha256=hashlib.sha256(encoded).hexdigest(),
    )
    (folder / "run.json").write_bytes(model.encode(run))
    records = faults(59) + faults(9, fault="hang", agent="agent-1", left_ms=(300.0, 700.0))
    (folder / "history" / "all.jsonl").write_bytes(b"".join(map(encode_line, records)))
    return folder


def rendered(folder: Path, hash_seed: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "threenines", "report", str(folder)],
        env={**os.environ, "PYTHONHASHSEED": hash_seed, "TZ": "UTC" if hash_seed == "1" else "Asia/Tokyo"},
        cwd=folder.parent,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )


@pytest.mark.timeout(600)
def test_two_renderings_differ_in_no_byte(stored: Path, tmp_path: Path) -> None:
    copies = [tmp_path / side / stored.name for side in ("one", "other")]
    for hash_seed, copy in enumerate(copies, 1):
        shutil.copytree(stored, copy)
        done = rendered(copy, str(hash_seed))
        assert done.returncode in {0, 1, 2}, done.stderr
    one, other = ({name: (copy / name).read_bytes() for name in WRITTEN} for copy in copies)
    assert [name for name in WRITTEN if one[name] != other[name]] == []
    report = json.loads(one["report.json"])
    told = {c["id"]: c["verdict"] for c in report["criteria"]}
    assert told["RL-3.detect"] not in {"not measured", "pass"}, "judged, and without load nothing passes"


def refused(capsys: pytest.CaptureFixture[str], *words: str, arguments: list[str]) -> None:
    assert command_line(arguments) in {3, 64}
    told = capsys.readouterr().err
    assert told.count("\n") == 1, "one line"
    assert told.startswith("threenines: ")
    for word in words:
        assert word in told


def test_two_runs_of_one_id_are_told_apart_or_refused(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(stored, tmp_path / stored.name)
    shutil.copytree(stored, tmp_path / "copy")
    arguments = ["report", "copy", "--out", str(tmp_path)]
    refused(capsys, "copy/run.json", f"has the id {stored.name}", "remove or rename", arguments=arguments)


def test_a_run_of_another_version_is_named(
    stored: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / stored.name
    shutil.copytree(stored, folder)
    run = json.loads((folder / "run.json").read_bytes())
    (folder / "run.json").write_text(json.dumps({**run, "schema": "threenines.run/7", "id": None}))
    refused(capsys, "threenines.run/7", "this version reads", arguments=["report", str(folder), "--no-judge"])


def test_compare_names_a_report_of_another_version(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = remember(tmp_path, "2026-11-01"), remember(tmp_path, "2026-11-02")
    told = json.loads((other / "report.json").read_bytes())
    (other / "report.json").write_text(json.dumps({**told, "schema": "threenines.report/9", "run": 1}))
    refused(
        capsys, "threenines.report/9", arguments=["compare", one.name, other.name, "--out", str(tmp_path)]
    )


def test_compare_finds_what_got_worse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = remember(tmp_path, "2026-11-01")
    other = remember(
        tmp_path, "2026-11-02", changes={"SD-4": {"verdict": model.Verdict.FAIL, "bound": 2000.0}}
    )
    assert command_line(["compare", one.name, other.name, "--out", str(tmp_path), "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["regressions"] == ["SD-4"]
    (row,) = [c for c in told["criteria"] if c["id"] == "SD-4"]
    assert row["later"]["bound"] == 2000
    assert command_line(["compare", other.name, one.name, "--out", str(tmp_path)]) == 0
    assert "nothing regressed" in capsys.readouterr().out


def test_a_self_test_beside_the_runs_is_shown_and_a_damaged_one_told(stored: Path, tmp_path: Path) -> None:
    from reports import render
    from tests.reports.synthetic import SELFTEST, write_run

    folder = write_run(tmp_path, "run-1", kind="passing", plots=False)
    assert render.render(folder).selftest is None
    assert "No self-test result" in (folder / "report.html").read_text()
    (tmp_path / "selftest.json").write_bytes(model.encode(SELFTEST))
    assert render.render(folder).selftest == SELFTEST
    (tmp_path / "selftest.json").write_bytes(b"{")
    report = render.render(folder)
    assert report.selftest is None
    assert "selftest.json is damaged" in report.notes[0]
