"""Chaos Toolkit's own library on a stack that really runs, by `threenines chaos run experiment.json`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from chaos import toolkit
from chaos.files import files_of
from chaos.healing import leftovers
from chaos.journal import Entry, read_journal
from chaos.ledger import Ledger
from chaos.scenario import read_scenario
from chaos.stage import Stage, census_proof
from chaos.toolkit_export import experiment_of
from infra.plan import Environment
from tests.chaos.conftest import FLEET, Standing, small
from threenines.__main__ import run

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

SCENARIO = b"""
name: two-agents
title: Two agents, one after the other
rows: [RL-3]
expected: each is replaced within seconds and answers again
load: null
steps:
  - {fault: process-kill, with: {target: agent/one}, for_s: 8}
  - {fault: process-freeze, with: {target: agent/four}, at_s: 2, for_s: 5}
before:
  - {look: served, within_s: 20}
during:
  - {look: alive, target: agent/one, within_s: 4}
  - {look: answers, agent: one, host: b, within_s: 4}
after:
  - {look: served, within_s: 30}
"""

THEIRS = """
import os, signal
from chaos.toolkit import _stage

told = []
first = []

def process_of(agent):
    stage = _stage("")
    try:
        return stage.process(stage.target("agent/" + agent)).instance
    finally:
        stage.close()

def same_process(agent):
    first.append(process_of(agent))
    return first[-1] == first[0]

def freeze(host):
    stage = _stage("")
    try:
        stage.substrate.freeze_host(host)
    finally:
        stage.close()

def send(name):
    os.kill(os.getpid(), signal.Signals[name])

def configure_control(configuration):
    told.append(configuration["victim"])

def before_activity_control(context, **kwargs):
    told.append(context["name"])
"""


class Bench:
    """Runs experiments on the small stack; afterwards nothing of a fault may be left."""

    def __init__(self, environment: Environment, folder: Path) -> None:
        self.environment = environment
        self.folder = folder
        self.files = files_of(environment)
        self.seen = len(self._journal())

    def run(self, experiment: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """The exit status of the command, and the library's journal."""
        path, out = self.folder / "experiment.json", self.folder / "out"
        path.write_text(json.dumps(experiment))
        status = run(["chaos", "run", str(path), "--stack", self.environment.stack, "--out", str(out)])
        (journal,) = out.glob("*-experiment/journal.json")
        assert (journal.parent / "toolkit.log").read_text()
        return status, json.loads(journal.read_bytes())

    def events(self, name: str) -> list[Entry]:
        """What the stack's chaos wrote down of one kind since the bench was made."""
        return [one for one in self._journal()[self.seen :] if one.event == name]

    def nothing_is_left(self) -> bool:
        """By the ledger, by the lease, and by the stack itself."""
        stage = small(Stage(self.environment))
        try:
            served = stage.until(lambda: census_proof(stage, len(stage.fleet.agents)), 30)
            left = leftovers(stage)
        finally:
            stage.close()
        assert (Ledger(self.files.ledger).read().open, left, self.files.lease.exists()) == ((), (), False)
        return served.holds

    def _journal(self) -> tuple[Entry, ...]:
        return tuple(read_journal(self.files.journal)) if self.files.journal.exists() else ()


@pytest.fixture
def bench(standing: Standing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    manifest = tmp_path / "fleet.yaml"
    manifest.write_bytes(msgspec.yaml.encode(FLEET))
    environment = msgspec.structs.replace(standing.environment, fleet=str(manifest))
    monkeypatch.setattr("infra.project.deployed_environment", lambda stack: environment)
    monkeypatch.setattr(toolkit, "_stage", lambda stack: small(Stage(environment)))
    return Bench(environment, tmp_path)


@pytest.fixture
def theirs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """A module of a user's own: makes activities of it."""
    module = f"their_{tmp_path.name.replace('-', '_')}"
    (tmp_path / f"{module}.py").write_text(THEIRS)
    monkeypatch.syspath_prepend(str(tmp_path))

    def activity(func: str, kind: str = "probe", **arguments: object) -> dict[str, Any]:
        provider = {"type": "python", "module": module, "func": func, "arguments": arguments}
        return {"type": kind, "name": func, "provider": provider}

    return activity


def ours(func: str, **arguments: object) -> dict[str, Any]:
    provider = {"type": "python", "module": toolkit.MODULE, "func": func, "arguments": arguments}
    return {"type": "probe" if func == "look" else "action", "name": func, "provider": provider}


def experiment(method: list[dict[str, Any]], steady: dict[str, Any], **more: object) -> dict[str, Any]:
    hypothesis = {"title": "steady", "probes": [{**steady, "tolerance": True}]}
    panic = ours("panic")
    whole = {"title": "t", "description": "d", "method": method, "rollbacks": [panic]}
    return {**whole, "steady-state-hypothesis": hypothesis, **more}


ALL_SERVED = ours("look", look={"look": "served", "within_s": 30})


def test_an_exported_scenario_takes_effect_and_holds(bench: Bench) -> None:
    scenario = read_scenario(SCENARIO, "two-agents")
    status, journal = bench.run(experiment_of(scenario, bench.environment.stack))
    assert (status, journal["status"], journal["deviated"]) == (0, "completed", False), journal
    assert [one.fault for one in bench.events("planned")] == [
        "process-kill target=agent/one",
        "process-freeze target=agent/four",
    ]
    assert [one.holds for one in bench.events("effect")] == [True, True]
    assert {one.holds for one in bench.events("restored")} == {True}
    assert len(bench.events("healed")) == 2
    assert len(bench.events("session")) == 1  # both faults in one session
    outcomes = [one["output"] for one in journal["run"] if one["activity"]["type"] == "action"]
    assert [one["effect"]["holds"] and one["healed"] for one in outcomes] == [True, True]
    assert journal["steady_states"]["after"]["steady_state_met"] is True
    assert bench.nothing_is_left()


def test_a_look_at_the_time_of_a_fault_sees_it(bench: Bench) -> None:
    """A frozen Redis gives no sign of life while the fault is on: a probe that must hold, deviates."""
    fault = ours("fault", fault="process-freeze", parameters={"target": "b/redis"}, for_s=5)
    alive = ours("look", look={"look": "alive", "target": "b/redis", "within_s": 1}, must=True, faults=1)
    status, journal = bench.run(experiment([{**fault, "background": True}, alive], ALL_SERVED))
    assert (status, journal["status"], journal["deviated"]) == (1, "completed", False), journal
    (failed,) = [one for one in journal["run"] if one["status"] == "failed"]
    told = "chaos.toolkit.NotHeld: b/redis gives signs of life: does not hold within 1 s"
    assert told in failed["exception"][-1]
    assert bench.nothing_is_left()


def test_a_hypothesis_that_deviates_fails(
    bench: Bench, theirs: Callable[..., dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    """That an agent is never replaced, is not so when it is killed; the rollback is played all the same."""
    kill = ours("fault", fault="process-kill", parameters={"target": "agent/three"}, for_s=3)
    status, journal = bench.run(experiment([kill], theirs("same_process", agent="three")))
    assert (status, journal["status"], journal["deviated"]) == (1, "completed", True), journal
    assert journal["steady_states"]["before"]["steady_state_met"] is True
    assert [one["status"] for one in journal["rollbacks"]] == ["succeeded"]
    out, err = capsys.readouterr()
    assert out.startswith("t: deviated (completed)\n")
    assert "Traceback" not in err
    assert bench.nothing_is_left()


def test_a_rollback_ends_what_an_action_of_somebody_else_left(
    bench: Bench, theirs: Callable[..., dict[str, Any]]
) -> None:
    status, journal = bench.run(experiment([theirs("freeze", "action", host="w")], ALL_SERVED))
    assert (status, journal["status"]) == (0, "completed"), journal
    assert [one["output"] for one in journal["rollbacks"]] == [["w: the host is frozen"]]
    assert bench.nothing_is_left()


def test_a_users_own_probe_and_control_with_configuration(
    bench: Bench, theirs: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THREENINES_TEST_VICTIM", "two")
    kill = ours("fault", fault="process-kill", parameters={"target": "agent/${victim}"}, for_s="${for_s}")
    probe = theirs("process_of", agent="${victim}")
    control = {"name": "theirs", "provider": {"type": "python", "module": probe["provider"]["module"]}}
    status, journal = bench.run(
        experiment(
            [{**probe, "name": "before"}, kill, {**probe, "name": "behind"}],
            ALL_SERVED,
            configuration={"victim": {"type": "env", "key": "THREENINES_TEST_VICTIM"}, "for_s": 3},
            controls=[control],
        )
    )
    assert (status, journal["status"]) == (0, "completed"), journal
    before, killed, behind = (one["output"] for one in journal["run"])
    assert killed["fault"] == "process-kill target=agent/two"
    assert 3 <= killed["lasted_s"] < 5
    assert before != behind
    told = sys.modules[probe["provider"]["module"]].told
    assert told == ["two", "look", "before", "fault", "behind", "look", "panic"]
    assert bench.nothing_is_left()


def test_what_this_stack_cannot_do_proves_nothing(bench: Bench) -> None:
    fault = ours("fault", fault="clock-step", parameters={"host": "a"}, for_s=1)
    status, journal = bench.run(experiment([fault], ALL_SERVED))
    assert (status, journal["run"][0]["status"]) == (2, "failed"), journal
    assert "chaos.errors.Refused: clock-step: " in journal["run"][0]["exception"][-1]
    assert bench.nothing_is_left()


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_a_signal_ends_the_faults_in_order(
    name: str, bench: Bench, theirs: Callable[..., dict[str, Any]]
) -> None:
    """Long before their time, the one in the background too; what would come next does not."""
    freeze = ours("fault", fault="process-freeze", parameters={"target": "b/redis"}, for_s=100)
    kill = ours("fault", fault="process-kill", parameters={"target": "agent/one"}, for_s=100)
    sent = {**theirs("send", "action", name=name), "background": True, "pauses": {"before": 3}}
    never = theirs("process_of", agent="one")
    begun = time.monotonic()
    status, journal = bench.run(experiment([{**freeze, "background": True}, sent, kill, never], ALL_SERVED))
    assert (status, journal["status"]) == (2, "interrupted"), journal
    assert sorted(one["activity"]["name"] for one in journal["run"]) == ["fault", "fault", "send"]
    assert len(bench.events("healed")) == 2
    assert {one.holds for one in bench.events("restored")} == {True}
    assert time.monotonic() - begun < 60
    assert bench.nothing_is_left()
