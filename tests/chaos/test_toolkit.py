"""Chaos Toolkit: scenarios as its experiments, its journals as our exit statuses."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest
from chaoslib.experiment import ensure_experiment_is_valid

from chaos import toolkit
from chaos.errors import NotHealed, Refused
from chaos.scenario import load_scenario, shipped
from chaos.toolkit_export import experiment_of
from chaos.toolkit_run import Ended, ended
from threenines.__main__ import run

STEPPED = [name for name in shipped() if load_scenario(name).steps]


OURS = {"provider": {"type": "python", "module": toolkit.MODULE}}
THEIRS = {"provider": {"type": "python", "module": "somebody.elses"}}
GOOD = {"activity": OURS, "status": "succeeded"}
UNMET = {"steady_state_met": False}
MET = {"steady_state_met": True}


def failed(error: Exception, activity: dict[str, object] = OURS) -> dict[str, object]:
    """A run as the library writes it when an activity raises."""
    name = f"{type(error).__module__}.{type(error).__qualname__}"
    told = [f"chaoslib.exceptions.ActivityFailed: {name}: {error}\n"]
    return {"activity": activity, "status": "failed", "exception": told}


@pytest.mark.parametrize("name", STEPPED)
def test_an_export_names_what_our_module_takes(name: str) -> None:
    scenario = load_scenario(name)
    experiment = experiment_of(scenario)
    activities = [*experiment["method"], *experiment["rollbacks"]]
    activities += experiment["steady-state-hypothesis"]["probes"]
    actions = [one for one in experiment["method"] if one["type"] == "action"]
    assert len(actions) == len(scenario.steps)
    for one in activities:
        provider = one["provider"]
        assert provider["module"] == toolkit.MODULE
        assert callable(getattr(importlib.import_module(provider["module"]), provider["func"]))
        toolkit.converted(provider["arguments"], toolkit.ARGUMENTS[provider["func"]])
    assert json.loads(json.dumps(experiment)) == experiment


def test_an_export_keeps_the_times_between_faults() -> None:
    experiment = experiment_of(load_scenario("zygote-crash"))
    pauses = [one.get("pauses", {}).get("before", 0) for one in experiment["method"] if "background" in one]
    assert pauses == [0, 1]


def test_an_export_counts_every_time_from_the_same_moment() -> None:
    """A pause in the background is the action's own, so it is not added to the one before."""
    scenario = load_scenario("redis-slow")
    experiment = experiment_of(scenario)
    pauses = [one.get("pauses", {}).get("before", 0) for one in experiment["method"] if "background" in one]
    assert pauses == sorted(step.at_s for step in scenario.steps)


def test_an_export_asks_after_the_faults_what_the_scenario_asks_then() -> None:
    """The method's probes run while the faults are on: what must hold afterwards is the hypothesis."""
    experiment = experiment_of(load_scenario("monitoring-loses-a-host"))
    steady = [one["provider"]["arguments"]["look"] for one in experiment["steady-state-hypothesis"]["probes"]]
    assert [(look["look"], look.get("host"), look["within_s"]) for look in steady] == [
        ("served", None, 10.0),
        ("promql", "pc2", 20.0),
        ("promql", "mainpc", 40.0),
    ]
    probes = [one for one in experiment["method"] if one["type"] == "probe"]
    assert [one["provider"]["arguments"]["look"]["host"] for one in probes] == ["pc2"]
    assert all(one["provider"]["arguments"]["must"] for one in probes)
    assert all(one["provider"]["arguments"]["faults"] == 1 for one in probes)


def test_an_export_names_a_stack_only_when_it_is_another_one() -> None:
    assert '"stack"' not in json.dumps(experiment_of(load_scenario("kill-pc2")))
    other = experiment_of(load_scenario("kill-pc2"), "staging")
    for one in (*other["method"], *other["rollbacks"], *other["steady-state-hypothesis"]["probes"]):
        assert one["provider"]["arguments"]["stack"] == "staging"


@pytest.mark.parametrize("name", STEPPED)
def test_the_real_library_takes_the_export(name: str) -> None:
    ensure_experiment_is_valid(experiment_of(load_scenario(name)))


@pytest.mark.parametrize(
    ("journal", "told"),
    [
        ({"run": [GOOD]}, Ended.HELD),
        ({"run": [GOOD], "steady_states": {"before": MET, "after": MET}}, Ended.HELD),
        ({"run": [], "steady_states": {"before": MET, "after": MET}}, Ended.HELD),
        ({"run": []}, Ended.UNPROVED),
        ({"run": [], "steady_states": {"before": UNMET}}, Ended.UNPROVED),
        ({"run": [GOOD], "steady_states": {"before": MET, "after": UNMET}, "deviated": True}, Ended.DEVIATED),
        ({"run": [GOOD], "experiment": {"method": [{}, {}]}}, Ended.UNPROVED),
        ({"run": [{"activity": OURS}]}, Ended.UNPROVED),
        ({"run": [GOOD, failed(toolkit.NotHeld("a", "b", "c"))]}, Ended.DEVIATED),
        ({"run": [GOOD, failed(toolkit.NotAsBefore("a", "b", "c"))]}, Ended.DEVIATED),
        ({"run": [GOOD, failed(NotHealed("a", "b", "c"))]}, Ended.DEVIATED),
        ({"run": [GOOD, failed(toolkit.NoEffect("a", "b", "c"))]}, Ended.UNPROVED),
        ({"run": [GOOD, failed(Refused("a", "b", "c"))]}, Ended.UNPROVED),
        ({"run": [GOOD, failed(Refused("a", "b", "c"), THEIRS)]}, Ended.DEVIATED),
        ({"run": [GOOD], "rollbacks": [failed(Refused("a", "b", "c"))]}, Ended.DEVIATED),
        ({"run": [GOOD], "status": "failed", "deviated": True}, Ended.DEVIATED),
        ({"run": [GOOD], "status": "aborted"}, Ended.UNPROVED),
        ({"run": [GOOD], "status": "interrupted"}, Ended.UNPROVED),
        ({"run": [GOOD], "status": None}, Ended.UNPROVED),
    ],
)
def test_a_journal_is_a_pass_only_when_all_of_it_held(journal: dict[str, object], told: Ended) -> None:
    whole = {"experiment": {"method": journal["run"]}, "status": "completed", "deviated": False, **journal}
    assert ended(whole) is told


def test_an_empty_journal_proves_nothing() -> None:
    assert ended({}) is Ended.UNPROVED


def test_the_command_exports(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chaos", "export", "kill-mainpc"]) == 0
    assert json.loads(capsys.readouterr().out)["tags"] == list(load_scenario("kill-mainpc").rows)


def test_a_scenario_without_steps_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chaos", "export", "random-agents"]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert "has no steps of its own" in line
