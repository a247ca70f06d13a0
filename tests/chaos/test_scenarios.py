"""Scenarios as data: those that come with the product, mistakes, random draws, designs, the docs' table."""

from __future__ import annotations

import inspect
import json
import random
import re
import threading
import time
from pathlib import Path

import msgspec
import pytest

from chaos import scenario_looks
from chaos.admission import overlap
from chaos.errors import LeaseLost
from chaos.explore import APART_S, HOST_KINDS, KINDS, draw_steps, exploration
from chaos.fault import Proof, catalogue
from chaos.journal import Journal
from chaos.scenario import (
    Random,
    Scenario,
    ScenarioError,
    cells,
    fits,
    load_scenario,
    needs,
    read_scenario,
    shipped,
)
from chaos.scenario_listing import BEGIN, END, table
from chaos.scenario_looks import PROMETHEUS_TRIES, PromQL
from chaos.scenario_play import play
from chaos.session import Outcome, Session
from chaos.stage import Stage
from infra.environment import load_environment
from infra.hostd_api import HostdUnreachable
from infra.substrates.base import Capability
from threenines.__main__ import run

ROOT = Path(__file__).parents[2]
OF_FAILURES = {f"RL-{n}" for n in range(1, 9)} | {
    "SD-3",
    "SD-4",
    "SD-5",
    "SD-6",
    "OB-7",
    "RK-1",
    "RK-2",
    "RK-3",
}
"""Rows of the criteria that speak of a failure and that faults on this stack can exercise."""

GOOD = """
name: mine
title: mine
rows: [RL-3]
expected: it is replaced, and nobody notices
steps:
  - {fault: process-kill, with: {target: agent/config-store}, for_s: 8}
during:
  - {look: served, within_s: 3}
after:
  - {look: served}
"""


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    """The reference fleet on a stack that does not stand: names can be looked up all the same."""
    state = str(tmp_path_factory.mktemp("state"))
    found = load_environment("local")
    return Stage(msgspec.structs.replace(found, stack="paper", state_dir=state, network="loopback"))


def test_there_are_twenty_and_every_row_of_failures_is_exercised() -> None:
    scenarios = [load_scenario(name) for name in shipped()]
    assert len(scenarios) >= 20
    assert {row for scenario in scenarios for row in scenario.rows} >= OF_FAILURES


def test_their_rows_are_rows_of_the_catalogue() -> None:
    listed = {one.id.split(".")[0] for one in _catalogue()}
    assert {row for name in shipped() for row in load_scenario(name).rows} <= listed


def _catalogue():  # type: ignore[no-untyped-def]
    from verification.catalogue import load_catalogue

    return load_catalogue().criteria


@pytest.mark.parametrize("name", shipped())
def test_each_fits_the_reference_stack(name: str, stage: Stage) -> None:
    scenario = load_scenario(name)
    assert scenario.name == name
    for cell in cells(scenario):
        fits(cell, stage)


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("process-kill", "process-kil", "there is none of this name; did you mean process-kill?"),
        ("target: agent", "taget: agent", "did you mean target?"),
        ("for_s: 8", "for_s: soon", "Expected `float`, got `str`"),
        ("within_s: 3", "within_s: 9", "ends after the first fault does; at most 8"),
        ("[RL-3]", "[RL3]", "'RL3' is no row; write rows like RL-5"),
        ("look: served}", "look: serve}", "mend that key"),
        ("steps:", "random: {seed: 1}\nsteps:", "steps, random and design exclude each other"),
        ("after:", "before:", "nothing must hold after the faults"),
        ("title: mine", "title: mine\nlaod: null", "unknown field `laod`"),
        ("name: mine", "schema: threenines.scenario/9\nname: mine", "its schema is threenines.scenario/9"),
    ],
)
def test_a_mistake_is_one_line(old: str, new: str, told: str) -> None:
    read_scenario(GOOD.encode(), "mine.yaml")
    with pytest.raises(ScenarioError) as caught:
        read_scenario(GOOD.replace(old, new, 1).encode(), "mine.yaml")
    assert told in str(caught.value)
    assert str(caught.value).startswith("mine.yaml")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_status == 64


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ("agent/config-store", "agent/config-stor", "no such agent; did you mean config-store?"),
        ("look: served, within_s: 3", "look: served-by, host: pc3, within_s: 3", "no such worker"),
        (
            "during:",
            "  - {fault: process-freeze, with: {target: agent/config-store}, at_s: 4, for_s: 8}\nduring:",
            "overlap on process/mainpc/agent/config-store",
        ),
    ],
)
def test_what_the_stack_does_not_have_is_one_line(old: str, new: str, told: str, stage: Stage) -> None:
    text = GOOD.replace("within_s: 3", "within_s: 1") if "at_s: 4" in new else GOOD
    scenario = read_scenario(text.replace(old, new, 1).encode(), "mine.yaml")
    with pytest.raises(ScenarioError) as caught:
        fits(scenario, stage)
    assert told in str(caught.value)


@pytest.mark.parametrize("seed", range(20))
def test_the_same_seed_draws_the_same_and_what_is_drawn_may_be_done(seed: int, stage: Stage) -> None:
    wish = Random(seed=seed, count=8)
    steps = draw_steps(wish, stage, seed)
    assert steps == draw_steps(wish, stage, seed)
    assert len(steps) == 8
    for number, step in enumerate(steps):
        fault = step.make()
        fault.radius(stage)
        for other in steps[:number]:
            if step.at_s < other.end_s and other.at_s < step.end_s:
                assert not overlap(fault.targets(stage), other.make().targets(stage))
            if HOST_KINDS & {step.fault, other.fault}:
                assert step.at_s >= other.end_s + APART_S or other.at_s >= step.end_s


def test_every_kind_can_be_drawn(stage: Stage) -> None:
    from chaos.parameters import make_fault

    for kind, draw in KINDS.items():
        make_fault(kind, draw(random.Random(1), stage)).targets(stage)


def test_at_random_only_what_the_substrate_can_do_is_drawn(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn() -> set[str]:
        return {s.fault for seed in range(30) for s in draw_steps(Random(seed=seed, count=12), stage, seed)}

    monkeypatch.setattr(stage.substrate, "capabilities", lambda: frozenset(Capability))
    assert "host-cut-off" in drawn()
    whole = draw_steps(Random(seed=3, count=12), stage, 3)
    assert whole == draw_steps(Random(seed=3, count=12, faults=tuple(KINDS)), stage, 3)
    monkeypatch.setattr(stage.substrate, "capabilities", lambda: frozenset({Capability.KILL_HOST}))
    assert {"host-cut-off", "host-freeze"} & drawn() == set()
    assert "host-kill" in drawn()


CALLS = {
    "kill_host": Capability.KILL_HOST,
    "freeze_host": Capability.FREEZE_HOST,
    "cut": Capability.CUT_LINKS,
    "step_clock": Capability.SET_CLOCK,
    "slow_disk": Capability.SLOW_DISK,
}
"""What of a substrate only some can do, by the method that does it."""


@pytest.mark.parametrize("name", sorted(catalogue()))
def test_a_fault_says_what_it_needs_of_the_substrate(name: str) -> None:
    kind = catalogue()[name]
    source = inspect.getsource(kind.inject)
    used = {capability for call, capability in CALLS.items() if f"substrate.{call}(" in source}
    assert used == kind.needs - {Capability.LOSE_PACKETS}


def test_a_scenario_needs_what_its_faults_need() -> None:
    needed = {name: needs(load_scenario(name)) for name in shipped()}
    assert needed["slow-disk"] == {Capability.SLOW_DISK}
    assert needed["lossy-link"] == {Capability.CUT_LINKS, Capability.LOSE_PACKETS}
    assert needed["cut-off-mainpc"] == {Capability.CUT_LINKS}
    assert needed["random-agents"] == needed["joint-pressure"] == needed["redis-down"] == frozenset()
    drawn = msgspec.structs.replace(
        load_scenario("random-agents"), random=Random(seed=1, faults=("process-kill", "host-kill"))
    )
    assert needs(drawn) == {Capability.KILL_HOST}
    assert needs(exploration(1, 60.0)) == frozenset(), "it is drawn of what the substrate can do"
    joint = load_scenario("joint-pressure")
    assert joint.design is not None
    slow = load_scenario("slow-disk").steps
    columns = {**joint.design.columns, "gpu-free": slow}
    design = msgspec.structs.replace(joint.design, columns=columns)
    assert needs(msgspec.structs.replace(joint, design=design)) == {Capability.SLOW_DISK}


def test_an_exploration_is_as_long_as_its_budget(stage: Stage) -> None:
    explored = exploration(7, 300.0)
    assert explored.random is not None
    steps = draw_steps(explored.random, stage, 7)
    assert 150 < max(step.end_s for step in steps) < 330


def test_a_design_is_a_latin_square() -> None:
    joint = load_scenario("joint-pressure")
    assert joint.design is not None
    parts = cells(joint)
    assert len(parts) == len({part.name for part in parts}) == 9
    by_row = [[part.load.workload for part in parts[i : i + 3] if part.load] for i in (0, 3, 6)]
    assert all(len(set(row)) == 3 for row in by_row)
    assert all(len(set(column)) == 3 for column in zip(*by_row, strict=True))


def test_what_was_run_is_read_again() -> None:
    for name in shipped():
        scenario = load_scenario(name)
        assert msgspec.yaml.decode(msgspec.yaml.encode(scenario), type=Scenario) == scenario


def test_false_alarms_counts_agents_restarted_in_place() -> None:
    scenario = load_scenario("false-alarms")
    for looks in (scenario.during, scenario.after):
        asked = [look for look in looks if isinstance(look, PromQL)]
        counted = [
            look for look in asked if look.query.startswith("sum(increase(threenines_host_agent_restarts")
        ]
        assert [look.at_most for look in counted] == [0]
    # A host that was not asked has restarted nothing that anybody knows of.
    both = [
        look for look in (*scenario.before, *scenario.after) if isinstance(look, PromQL) and look.at_least
    ]
    assert [look.at_least for look in both] == [2, 2]


@pytest.mark.parametrize(
    ("silent", "holds"), [(0, True), (PROMETHEUS_TRIES - 1, True), (PROMETHEUS_TRIES, False)]
)
def test_prometheus_is_asked_again_before_it_counts_as_silent(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, silent: int, holds: bool
) -> None:
    asked: list[str] = []

    def ask(_stage: Stage, host: str, *_: object) -> tuple[int, bytes]:
        asked.append(host)
        if len(asked) <= silent:
            raise HostdUnreachable(host, "no answer", "look at it")
        return 200, b'{"data": {"result": [{"value": [1, "3"]}]}}'

    monkeypatch.setattr(scenario_looks, "_ask", ask)
    proof = PromQL(host="pc2", query="up", at_most=3.0).now(stage)
    assert proof.holds is holds
    assert len(asked) == min(silent + 1, PROMETHEUS_TRIES)


def test_the_list_in_the_docs_is_the_present_one() -> None:
    page = (ROOT / "docs" / "scenarios.md").read_text(encoding="utf-8")
    inside = page.partition(BEGIN)[2].partition(END)[0].strip()
    assert inside == table(), "run: python -m chaos.scenario_listing docs/scenarios.md"


def test_the_command_lists_and_shows_them(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chaos", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)["scenarios"]
    assert {one["name"] for one in listed} == set(shipped())
    assert all(one["rows"] for one in listed)
    assert run(["chaos", "show", "kill-mainpc"]) == 0
    assert "every agent is served by pc2 (within 5 s)" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["slow-disk", "disk-slow"])
def test_what_it_takes_of_the_substrate_is_shown(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["chaos", "show", name]) == 0
    assert "a substrate with slow-disk" in capsys.readouterr().out
    assert run(["chaos", "list", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    told = {one["name"]: one["needs"] for one in (*listed["faults"], *listed["scenarios"])}
    assert (told[name], told["process-kill"], told["redis-down"]) == (["slow-disk"], [], [])


class _Losing:
    """A session whose lease is lost while a fault is on: its guard may have ended the fault early."""

    def __init__(self, stage: Stage, folder: Path) -> None:
        self.stage, self.journal, self.lost = stage, Journal(folder / "journal.jsonl"), False

    def begin(self, _fault: object) -> None:
        self.lost = True

    def end(self, _active: object) -> Outcome:
        effect = Proof(holds=True)
        return Outcome(
            trial="1", fault="f", effect=effect, restored=(), healed=True, inject_ms=0, heal_ms=0, lasted_s=0
        )

    def wait(self, duration_s: float, stop: threading.Event | None = None) -> None:
        if not self.lost:
            threading.Event().wait(min(duration_s, 0.01))

    hold = Session.hold

    @property
    def _renewal(self) -> _Losing:
        return self

    _lease_lost = Session._lease_lost


def test_a_scenario_whose_lease_was_lost_has_no_result_and_does_not_wait_for_its_time(
    stage: Stage, tmp_path: Path
) -> None:
    scenario = msgspec.structs.replace(read_scenario(GOOD.encode(), "mine"), before=(), during=(), calm_s=0.0)
    begin = time.monotonic()
    with pytest.raises(LeaseLost, match="did not renew its lease"):
        play(scenario, _Losing(stage, tmp_path), threading.Event())  # type: ignore[arg-type]
    assert time.monotonic() - begin < 6.0, "its fault would last 8 s"


class _Standing(_Losing):
    """A session that keeps its lease."""

    def begin(self, fault: object) -> object:
        return fault


def test_a_scenario_tells_how_far_it_is_and_what_did_not_hold(stage: Stage, tmp_path: Path) -> None:
    """An hour of it would else say nothing for an hour."""
    scenario = read_scenario(GOOD.encode(), "mine")
    steps = tuple(msgspec.structs.replace(step, at_s=0.0, for_s=0.6) for step in scenario.steps)
    scenario = msgspec.structs.replace(scenario, before=(), after=(), calm_s=0.0, steps=steps)
    told: list[tuple[int, str]] = []
    session = _Standing(stage, tmp_path)
    play(scenario, session, threading.Event(), lambda *one: told.append(one))  # type: ignore[arg-type]
    looks = [looks for looks, _ in told]
    assert looks == sorted(looks)
    assert looks[-1] > 0
    during = [note for _, note in told if note.startswith("during: ")]
    assert re.fullmatch(r"during: \d+ of 1 s, \d faults on, \d+ did not hold under faults", during[-1])
