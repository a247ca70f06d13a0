"""Experiments by the real library, without a stack: what is refused beforehand, and how runs end."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chaos import toolkit
from chaos.errors import Refused
from chaos.toolkit_file import read_experiment
from chaos.toolkit_run import Ended, run_experiment
from infra.environment import load_environment
from threenines.__main__ import run

PROBES = """
import logging
seen = []

def number(value, doubled=False):
    seen.append(value)
    return 2 * value if doubled else value

def breaks():
    raise RuntimeError("it broke")

def stops():
    raise KeyboardInterrupt

def configure_control(configuration, limit):
    seen.append(("configured", configuration["least"], limit))

def before_activity_control(context, **kwargs):
    seen.append(("before", context["name"]))

def after_experiment_control(context, state, **kwargs):
    seen.append(("after", state["status"]))
"""


@pytest.fixture(autouse=True)
def never_a_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The reference fleet on a stack that does not stand, and that nobody may bring up."""
    paper = msgspec.structs.replace(
        load_environment("local"), stack="paper", state_dir=str(tmp_path / "state"), network="loopback"
    )
    monkeypatch.setattr("infra.project.deployed_environment", lambda stack: paper)

    def prepare(*_: object) -> None:
        raise AssertionError("the stack was to be brought up")

    monkeypatch.setattr("verification.deployment.LiveDeployment.prepare", prepare)


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of a user's own, found as Python finds any."""
    name = f"their_probes_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{name}.py").write_text(PROBES)
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def activity(module: str, func: str, **arguments: object) -> dict[str, Any]:
    provider = {"type": "python", "module": module, "func": func, "arguments": arguments}
    return {"type": "action" if func == "fault" else "probe", "name": f"their {func}", "provider": provider}


def ours(func: str, **arguments: object) -> dict[str, Any]:
    return activity(toolkit.MODULE, func, **arguments)


def written(folder: Path, method: object, **more: object) -> Path:
    document = {"title": "t", "description": "d", "method": method, **more}
    path = folder / "experiment.json"
    path.write_text(json.dumps(document))
    return path


KILL = {"target": "agent/config-store"}
BAD: list[tuple[object, str]] = [
    ([{**ours("fault"), "provider": {"type": "gopher"}}], "unknown provider type 'gopher'"),
    ([{**ours("fault"), "provider": "python"}], "$.method[0].provider: expected `object`, got `str`"),
    ({}, "$.method: expected `array`, got `object`"),
    ([{}], "empty activity is no activity"),
    ([{"ref": "nowhere"}], "'nowhere' could not be found"),
    ([activity("no_such_module_at_all", "f")], "could not find Python module 'no_such_module_at_all'"),
    ([ours("nothing")], "does not expose a function called 'nothing'"),
    ([ours("converted", given={}, kind=1)], "converted is no activity; choose fault, look, panic"),
    ([ours("fault")], "required argument 'fault' is missing"),
    ([ours("fault", fault="process-kil")], "fault 'process-kil': there is none of this name; did you mean"),
    ([ours("fault", fault="process-kill", parameters={"victim": 1})], "'victim': it is no parameter"),
    ([ours("fault", fault="process-kill")], "process-kill: target is missing"),
    ([ours("fault", fault="process-kill", parameters=[1])], "parameters: expected `object`, got `array`"),
    ([ours("fault", fault="process-kill", parameters=KILL, for_s=0)], "for_s: expected `float` > 0.0"),
    (
        [ours("fault", fault="process-kill", parameters={"target": "agent/config-stor"})],
        "agent 'config-stor': the fleet has no such agent; did you mean config-store?",
    ),
    ([ours("fault", fault="process-kill", parameters=KILL, stack="staging")], "add --stack staging"),
    ([ours("look", look={"look": "sreved"})], "look: invalid value 'sreved'"),
    ([ours("look", look={"look": "load", "failed_share": 0})], "only a scenario's own load tells it"),
    ([ours("look", look={"look": "answers", "agent": "config-store", "host": "pc3"})], "no such worker"),
]


@pytest.mark.parametrize(("method", "told"), BAD, ids=[str(number) for number in range(len(BAD))])
def test_what_cannot_be_meant_is_one_line_before_anything_is_touched(
    method: object, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = written(tmp_path, method)
    assert run(["chaos", "run", str(path), "--out", str(tmp_path / "out")]) == 64
    out, err = capsys.readouterr()
    (line,) = err.splitlines()
    assert line.startswith(f"threenines: {path}")
    assert told in line
    assert (out, (tmp_path / "out").exists()) == ("", False)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "there is no such file"),
        (b"{", "is no JSON (Expecting property name"),
        (b"\xff\xfe\x00", "is no JSON ("),
        (b"[" * 100_000, "is no JSON ("),
        (b"[]", "expected `object`, got `array`"),
        (b"{}", "an empty experiment is not an experiment"),
        (b'{"title": "t"}', "experiment requires a description"),
        (b'{"title": "t", "description": "d"}', "an experiment requires a method"),
        (
            b'{"title": "t", "description": "d", "method": [], '
            b'"configuration": {"a": {"type": "env", "key": "THREENINES_NOT_THERE"}}}',
            "does not exist: THREENINES_NOT_THERE",
        ),
    ],
)
def test_a_file_that_is_no_experiment_is_one_line(
    content: bytes | None, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "experiment.json"
    if content is not None:
        path.write_bytes(content)
    assert run(["chaos", "run", str(path)]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"threenines: {path}: ")
    assert told in line


def test_a_module_that_raises_when_imported_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "their_broken_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(str(tmp_path))
    path = written(tmp_path, [activity("their_broken_module", "f")])
    assert run(["chaos", "run", str(path)]) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert "ZeroDivisionError: division by zero" in line


def test_the_librarys_own_log_adds_no_line_to_a_refusal(tmp_path: Path) -> None:
    """In a process of its own: pytest listens to every logger, so that Python prints none of it."""
    missing = {"name": "c", "provider": {"type": "python", "module": "no_such_control"}}
    path = written(tmp_path, [{**ours("fault"), "provider": {"type": "gopher"}}], controls=[missing])
    argv = [sys.executable, "-m", "threenines", "chaos", "run", str(path)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=110, check=False)
    assert (done.returncode, done.stdout) == (64, "")
    (line,) = done.stderr.splitlines()
    assert "unknown provider type 'gopher'" in line


def test_without_the_library_the_line_says_how_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "chaoslib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "chaoslib", None)
    assert run(["chaos", "run", str(written(tmp_path, []))]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith("the library of Chaos Toolkit is missing; pip install 'threenines[toolkit]'")


def played(path: Path) -> tuple[Ended, dict[str, Any], list[str]]:
    said: list[str] = []
    told, journal = run_experiment(read_experiment(path), "paper", path.with_name("toolkit.log"), said.append)
    return told, journal, said


def test_a_users_own_probe_control_and_configuration(
    tmp_path: Path, theirs: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREENINES_TEST_LEAST", "20")
    probe = activity(theirs, "number", value="${least}", doubled=True)
    control = {"type": "python", "module": theirs, "arguments": {"limit": 7}}
    path = written(
        tmp_path,
        [probe],
        configuration={"least": {"type": "env", "key": "THREENINES_TEST_LEAST", "env_var_type": "int"}},
        controls=[{"name": "theirs", "provider": control}],
        **{"steady-state-hypothesis": {"title": "s", "probes": [{**probe, "tolerance": 40}]}},
    )
    told, journal, said = played(path)
    assert told is Ended.HELD
    assert [one["output"] for one in journal["run"]] == [40]
    before = ("before", "their number")
    seen = sys.modules[theirs].seen
    assert seen == [("configured", 20, 7), before, 20, before, 20, before, 20, ("after", "completed")]
    assert "Steady state hypothesis is met!" in said


@pytest.mark.parametrize(
    ("tolerance", "method", "told"),
    [
        (1, ["number"], Ended.HELD),
        (2, ["number"], Ended.UNPROVED),  # no steady state beforehand: the method is not run at all
        (1, ["breaks"], Ended.DEVIATED),
        (1, ["stops", "number"], Ended.UNPROVED),
    ],
)
def test_how_a_run_ends(tmp_path: Path, theirs: str, tolerance: int, method: list[str], told: Ended) -> None:
    steady = {"title": "s", "probes": [{**activity(theirs, "number", value=1), "tolerance": tolerance}]}
    given = [activity(theirs, func, **({"value": 5} if func == "number" else {})) for func in method]
    path = written(tmp_path, given, **{"steady-state-hypothesis": steady})
    found, journal, said = played(path)
    assert found is told
    assert (5 in sys.modules[theirs].seen) is (method == ["number"] and tolerance == 1)
    assert not any("Traceback" in line for line in said), journal


def test_what_the_library_lets_through_is_one_error_and_its_traceback_lies_in_the_log(
    tmp_path: Path, theirs: str
) -> None:
    steady = {"title": "s", "probes": [{**activity(theirs, "number", value="words"), "tolerance": [1, 2]}]}
    path = written(tmp_path, [], **{"steady-state-hypothesis": steady})
    with pytest.raises(toolkit.ChaosError, match=r"the run was given up \(TypeError: ") as raised:
        played(path)
    assert raised.value.exit_status == 3
    assert "Traceback" in (tmp_path / "toolkit.log").read_text()


def test_a_stack_that_is_not_held_is_not_touched() -> None:
    with toolkit.held("paper"), pytest.raises(Refused, match="this run is about stack paper"):
        toolkit.fault("process-kill", {"target": "agent/config-store"}, stack="local")


def test_a_look_at_faults_that_could_not_begin_proves_nothing() -> None:
    """The stack does not stand, so the fault is refused; the look at its time does not look at all."""
    nobody = {"look": "served", "share": 0, "within_s": 1}
    with toolkit.held("paper"):
        with pytest.raises(Refused, match="it does not stand here"):
            toolkit.fault("process-kill", {"target": "agent/config-store"})
        with pytest.raises(toolkit.NoEffect, match="0 of the 1 faults that it is about have begun"):
            toolkit.look(nobody, must=True, faults=1)
        with pytest.raises(Refused, match="it does not stand here"):
            toolkit.fault("process-kill", {"target": "agent/config-store"})


def test_where_no_fault_can_be_made_the_experiment_does_not_begin(tmp_path: Path, theirs: str) -> None:
    fault = ours("fault", fault="process-kill", parameters=KILL)
    with pytest.raises(Refused, match="it does not stand here"):
        played(written(tmp_path, [activity(theirs, "number", value=5), fault]))
    assert sys.modules[theirs].seen == []
