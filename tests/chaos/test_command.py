"""`threenines chaos`: what it prints, and its exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from infra.plan import Environment
from tests.chaos.conftest import make_environment
from threenines.__main__ import run

RUN = ["chaos", "run", "link-latency", "host=a", "to=etcd-b"]


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Environment:
    found = make_environment(tmp_path / "state", network="loopback")
    monkeypatch.setattr("infra.environment.load_environment", lambda stack: found)
    return found


def test_the_list_is_for_people_and_scripts(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chaos", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    names = {fault["name"] for fault in listed["faults"]}
    assert {"link-latency", "host-kill", "process-kill", "gpu-memory", "disk-full"} <= names
    assert run(["chaos", "list"]) == 0
    assert names <= set(capsys.readouterr().out.split())


def test_a_fault_is_shown_with_its_parameters(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chaos", "show", "link-slicer"]) == 0
    assert "size_bytes" in capsys.readouterr().out
    assert run(["chaos", "show", "link-slicer", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    (size,) = (one for one in shown["parameters"] if one["name"] == "size_bytes")
    assert (size["unit"], size["least"], size["most"], size["default"]) == ("bytes", 1, 512, 64)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["chaos", "show", "link-slicr"], "fault 'link-slicr': there is none of this name; did you mean"),
        ([*RUN, "latency=5kg"], "link-latency latency_ms: is '5kg'; give milliseconds, like 100 or 100ms"),
        ([*RUN, "latency"], "link-latency 'latency': it is no parameter; write key=value"),
        ([*RUN, "--duration", "soon"], "--duration"),
        (["chaos", "run"], "missing argument 'name'"),
        (["chaos", "run", "link-latency", "host=a"], "link-latency: to is missing; add to=TO"),
    ],
)
def test_what_cannot_be_meant_is_one_line(
    arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments) == 64
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("threenines: ")
    assert told in line


def test_a_stack_that_does_not_stand_is_one_line(
    environment: Environment, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*RUN]) in (3, 64)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("threenines: ")


def test_a_stack_without_chaos_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    closed = make_environment(tmp_path / "state", chaos=False)
    monkeypatch.setattr("infra.environment.load_environment", lambda stack: closed)
    assert run([*RUN]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert line.endswith(
        "faults are not allowed on it; set threenines:chaos to true in its configuration, if you mean that"
    )
