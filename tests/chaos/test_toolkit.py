"""Chaos Toolkit: scenarios as its experiments, its journals as our exit statuses."""

from __future__ import annotations

import importlib
import inspect
import json
from pathlib import Path

import pytest

from chaos import toolkit
from chaos.scenario import load_scenario, shipped
from chaos.toolkit_run import Ended, ended
from threenines.__main__ import run

STEPPED = [name for name in shipped() if load_scenario(name).steps]


@pytest.mark.parametrize("name", STEPPED)
def test_an_export_names_what_our_module_takes(name: str) -> None:
    experiment = toolkit.experiment_of(load_scenario(name))
    activities = [*experiment["method"], *experiment["rollbacks"]]
    activities += experiment["steady-state-hypothesis"]["probes"]
    actions = [one for one in experiment["method"] if one["type"] == "action"]
    assert len(actions) == len(load_scenario(name).steps)
    for one in activities:
        provider = one["provider"]
        function = getattr(importlib.import_module(provider["module"]), provider["func"])
        inspect.signature(function).bind(**provider["arguments"])
    assert json.loads(json.dumps(experiment)) == experiment


def test_an_export_keeps_the_times_between_faults() -> None:
    experiment = toolkit.experiment_of(load_scenario("zygote-crash"))
    pauses = [one.get("pauses", {}).get("before", 0) for one in experiment["method"] if "background" in one]
    assert pauses == [0, 1]


@pytest.mark.parametrize("name", STEPPED)
def test_the_real_library_takes_the_export(name: str) -> None:
    experiments = pytest.importorskip("chaoslib.experiment", reason="the extra toolkit is not installed")
    experiments.ensure_experiment_is_valid(toolkit.experiment_of(load_scenario(name)))


@pytest.mark.parametrize(
    ("journal", "told"),
    [
        ({"status": "completed", "deviated": False, "run": [{"status": "succeeded"}]}, Ended.HELD),
        ({"status": "completed", "deviated": False, "run": [{"status": "failed"}]}, Ended.DEVIATED),
        ({"status": "failed", "deviated": True, "run": []}, Ended.DEVIATED),
        ({"status": "aborted", "deviated": False, "run": []}, Ended.UNPROVED),
        ({}, Ended.UNPROVED),
    ],
)
def test_a_journal_is_a_pass_only_when_all_of_it_held(journal: dict[str, object], told: Ended) -> None:
    assert ended(journal) is told


def test_the_command_exports(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chaos", "export", "kill-mainpc"]) == 0
    assert json.loads(capsys.readouterr().out)["tags"] == list(load_scenario("kill-mainpc").rows)


def test_a_scenario_without_steps_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chaos", "export", "random-agents"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no steps of its own" in line
