"""check, status, down: what they print and their exit statuses."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

import infra.project
from infra.status import stack_status
from tests.infra.conftest import World
from threenines.__main__ import run

ROOT = Path(__file__).resolve().parents[2]


def test_check_says_what_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(ROOT / "fleet.yaml")]) == 0
    out = capsys.readouterr().out
    assert "valid: reference, 77 agents on 3 hosts" in out
    assert "mainpc 54, pc2 23" in out
    assert "model agents: 15" in out


def test_check_tells_every_problem_in_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "f.yaml"
    path.write_text("schema: threenines.fleet/1\nname: X\nhosts: [{name: a}]\nagents: [{name: b, hme: a}]\n")
    assert run(["check", str(path)]) == 1
    captured = capsys.readouterr()
    assert captured.out == ""
    lines = captured.err.splitlines()
    assert all(line.startswith(f"threenines: {path}:") for line in lines)
    assert any("did you mean home?" in line for line in lines)
    assert run(["check", str(path), "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is False
    assert len(document["problems"]) == len(lines)


def test_check_of_what_cannot_be_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["check", str(tmp_path / "none.yaml")]) == 3
    assert "no such file" in capsys.readouterr().err


@pytest.fixture
def deployed(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """The commands look at the fake stack, on which everything runs."""
    monkeypatch.setattr(infra.project, "deployed_environment", lambda stack: world.environment)
    return world


def start(world: World) -> None:
    from infra.plan import plan

    made = plan(world.fleet, world.environment)
    for host in made.hosts:
        world.substrate.create_host(host)
    for unit in made.units:
        world.substrate.create_unit(unit)
    for agent in made.agents:
        world.hostds["mainpc"].definitions[agent.name] = msgspec.to_builtins(agent)


def test_status_of_nothing(deployed: World, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["status"]) == 1
    assert "is not up" in capsys.readouterr().out
    assert run(["status", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert {line["state"] for line in document["agents"]} == {"unknown"}
    assert document["agents_from"] is None


def test_status_of_a_well_stack(deployed: World, capsys: pytest.CaptureFixture[str]) -> None:
    start(deployed)
    assert run(["status", "--agents"]) == 0
    out = capsys.readouterr().out
    assert "agents: 5 up of 5 (as mainpc sees it)" in out
    assert deployed.fleet.agents[0].name in out
    assert run(["status", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["ok"] is True
    assert len(document["units"]) == 7


def test_status_names_what_is_not_up(deployed: World, capsys: pytest.CaptureFixture[str]) -> None:
    start(deployed)
    name = deployed.fleet.agents[0].name
    deployed.hostds["mainpc"].states[name] = "unhealthy"
    deployed.substrate.stop_unit("pc2", "zygote")
    assert run(["status"]) == 1
    out = capsys.readouterr().out
    assert f"{name} ({deployed.fleet.agents[0].home}): unhealthy" in out
    assert "4 up, 1 unhealthy of 5" in out


def test_status_asks_the_other_host_when_one_is_away(deployed: World) -> None:
    start(deployed)
    deployed.hostds["pc2"].definitions = deployed.hostds["mainpc"].definitions
    deployed.hostds.pop("mainpc").close()
    assert stack_status(deployed.environment).agents_from == "pc2"
