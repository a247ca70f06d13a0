"""`criteria` and `verify` as a user and a script meet them."""

from __future__ import annotations

import json
import os

import pytest

from infra import project
from infra.exclusive import exclusive
from infra.plan import Environment
from tests.verification.test_catalogue import ROWS
from threenines.__main__ import run


def test_criteria_list_every_row_for_a_script(capsys):
    assert run(["criteria", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)["criteria"]
    assert set(ROWS) <= {one["id"] for one in told}
    assert {"id", "title", "category", "claim", "target_text", "accepts", "remedy"} <= set(told[0])


@pytest.mark.parametrize(
    ("arguments", "there", "not_there"),
    [
        (["criteria"], ["SD-1", "EV-3", "Service discovery"], []),
        (["criteria", "rl-3"], ["RL-3.detect", "SIGKILL", "remedy"], ["SD-1 "]),
        (["criteria", "--profile", "quick"], ["OB-1.targets"], ["PF-1 "]),
    ],
)
def test_criteria_for_a_person(capsys, arguments, there, not_there):
    assert run(arguments) == 0
    told = capsys.readouterr().out
    assert all(text in told for text in there)
    assert not any(text in told for text in not_there)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            ["criteria", "SD-99"],
            "threenines: criterion SD-99: there is none of that id; see `threenines criteria`",
        ),
        (
            ["criteria", "--profile", "x"],
            "threenines: profile x: plans nothing in this version; use one of: quick",
        ),
        (["verify", "--profile", "soak"], "threenines: profile soak: nothing is planned for it"),
        (["verify", "--stack", "nowhere"], "threenines: stack nowhere: there is no"),
        (["verify", "--fleet", "no-such.yaml"], "no-such.yaml"),
        (["verify", "--seed", "x"], "threenines: usage:"),
    ],
)
def test_wrong_usage_is_told_in_one_line(capsys, tmp_path, monkeypatch, arguments, line):
    assert run(arguments) == 64
    told = capsys.readouterr()
    assert told.out == ""
    assert line in told.err
    assert told.err.count("\n") == 1


def test_down_is_refused_while_a_harness_works_with_the_stack(capsys, tmp_path, monkeypatch):
    environment = Environment(stack="busy", fleet="fleet.yaml", state_dir=str(tmp_path))
    monkeypatch.setattr(project, "deployed_environment", lambda _: environment)
    with exclusive(environment, "verify"):
        assert run(["down", "--stack", "busy"]) != 0
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert told.err.startswith(f"threenines: stack busy: process {os.getpid()} (verify) since")
