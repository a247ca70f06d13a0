"""What CI checks after a run: a whole report, and nothing left behind."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from pathlib import Path
from types import ModuleType

import pytest

from infra.tools.paths import PROJECT_ROOT

CI = PROJECT_ROOT / ".ci"
SCHEMA = {
    "type": "object",
    "required": ["schema", "criteria"],
    "properties": {"schema": {"const": "threenines.report/1"}, "criteria": {"type": "array"}},
}
JUNIT = '<testsuites><testsuite name="SD"><testcase name="SD-1"/></testsuite></testsuites>'


def script(name: str) -> ModuleType:
    """A script of CI as a module."""
    spec = importlib.util.spec_from_file_location(name, CI / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def report(tmp_path: Path) -> Path:
    (tmp_path / "schema.json").write_text(json.dumps(SCHEMA))
    criteria = [{"id": "SD-1", "evidence": "measured"}, {"id": "SD-2", "evidence": "none"}]
    whole = {"schema": "threenines.report/1", "run": {"state": "finished"}, "criteria": criteria}
    (tmp_path / "report.json").write_text(json.dumps(whole))
    (tmp_path / "report.html").write_text("<html>" + "x" * 20_000)
    (tmp_path / "report.md").write_text("# Report\n" + "x" * 2_000)
    (tmp_path / "junit.xml").write_text(JUNIT)
    return tmp_path


def problems(report: Path) -> list[str]:
    found = script("check_report").problems_of(report, report / "schema.json")
    assert isinstance(found, list)
    return found


def test_a_whole_report_passes(report: Path) -> None:
    assert problems(report) == []


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("report.json", None, "cannot be read"),
        ("report.json", "{", "cannot be read"),
        ("report.json", '{"schema": "other/1", "criteria": []}', "report.json: schema: "),
        ("report.json", '{"schema": "threenines.report/1", "criteria": []}', "no criterion was measured"),
        ("junit.xml", "<testsuites>", "junit.xml cannot be read"),
        ("junit.xml", "<testsuites/>", "holds no test case"),
        ("junit.xml", "<html/>", "begins with <html>"),
        ("report.html", None, "report.html cannot be read"),
        ("report.html", "short", "that is no report"),
        ("report.html", "<script src='https://elsewhere.example/x.js'>" + "x" * 20_000, "from outside"),
        ("report.md", "", "that is no report"),
    ],
)
def test_what_is_not_whole_is_told(report: Path, name: str, text: str | None, told: str) -> None:
    if text is None:
        (report / name).unlink()
    else:
        (report / name).write_text(text)
    assert any(told in problem for problem in problems(report)), problems(report)


@pytest.mark.parametrize(
    ("state", "name", "verdict", "told"),
    [
        ("finished", "SD-1", "pass", None),
        ("finished", "SD-1", "inconclusive", None),
        ("finished", "SD-1", "fail", "SD-1 failed"),
        ("finished", "RL-8", "fail", "RL-8 failed"),
        ("finished", "RL-8.writes", "fail", "RL-8.writes failed"),
        ("finished", "RL-3.detect", "fail", None),
        ("finished", "SD-10", "fail", None),
        ("broken", "SD-1", "pass", "did not come to its end"),
        ("interrupted", "SD-1", "pass", "did not come to its end"),
    ],
)
def test_only_what_depends_on_speed_may_fail_here(
    report: Path, state: str, name: str, verdict: str, told: str | None
) -> None:
    criterion = {"id": name, "evidence": "measured", "verdict": verdict}
    found = {"schema": "threenines.report/1", "run": {"state": state}, "criteria": [criterion]}
    (report / "report.json").write_text(json.dumps(found))
    assert problems(report) == ([] if told is None else [p for p in problems(report) if told in p])
    assert (told is not None) is bool(problems(report))
    assert bool(script("check_report").undecided(found)) is (verdict != "pass")


@pytest.mark.parametrize(
    ("command", "left"),
    [
        (f"{PROJECT_ROOT}/.tools/bin/etcd --name a", True),
        (f"{PROJECT_ROOT}/.venv/bin/python -m services.hostd", True),
        (f"vim {PROJECT_ROOT}/README.md", False),
        ("/usr/bin/redis-server", False),
    ],
)
def test_processes_of_ours_are_left_overs(tmp_path: Path, command: str, left: bool) -> None:
    (tmp_path / "proc" / "999999").mkdir(parents=True)
    (tmp_path / "proc" / "999999" / "cmdline").write_bytes(command.replace(" ", "\0").encode())
    found = script("check_clean").leftovers(tmp_path / "proc", tmp_path / "netns")
    assert bool(found) is left


def test_namespaces_of_hosts_are_left_overs(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    for name in ("local-mainpc", "somebody-elses"):
        (tmp_path / "netns" / name).mkdir(parents=True)
    found = script("check_clean").leftovers(tmp_path / "proc", tmp_path / "netns")
    assert found == ["network namespace local-mainpc"]


@pytest.mark.parametrize(
    ("failing", "status", "goes_on"),
    [(None, 0, True), ("setup", 2, False), ("test", 2, False), ("verify", 124, False), ("verify", 2, True)],
)
def test_the_stages_stop_at_the_first_that_fails(
    tmp_path: Path, failing: str | None, status: int, goes_on: bool
) -> None:
    """The script itself, with a `make` and a Python that only take notes.

    A verification that ends with a verdict (make says 2 to any) leaves the word to the check of the report.
    """
    (tmp_path / ".ci").mkdir()
    (tmp_path / ".ci" / "run").write_text((CI / "run").read_text())
    notes = tmp_path / "notes"
    fakes = tmp_path / "bin"
    fakes.mkdir()
    make = (
        f'#!/bin/sh\nshift\necho $1 >> {notes}\necho "=== 3 passed in 1.00s ==="\n'
        f'[ "$1" != "{failing}" ] || exit {status}\n'
    )
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    for path, text in ((fakes / "make", make), (python, f"#!/bin/sh\necho $1 >> {notes}\n")):
        path.write_text(text)
        path.chmod(0o755)
    done = subprocess.run(
        ["bash", str(tmp_path / ".ci" / "run")],
        env={"PATH": f"{fakes}:/usr/bin:/bin"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    stages = ["setup", "test", "verify", ".ci/check_report.py", ".ci/check_clean.py"]
    reached = stages if failing is None or goes_on else stages[: stages.index(failing) + 1]
    assert notes.read_text().split() == reached
    assert (done.returncode == 0) is goes_on
    if goes_on:
        assert done.stdout.splitlines()[-1] == "=== 3 passed in 1.00s ==="
    else:
        assert f"failed in: make {failing}" in done.stdout
