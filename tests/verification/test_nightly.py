"""A night on a made-up stack: its order, its budget, stops, kills and what may go on."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from collections import Counter
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from chaos.scenario import Scenario, load_scenario, shipped
from infra import exclusive
from infra.substrates.base import Capability
from infra.topology import load_fleet
from loadtests.workload import load_workload
from reports import render
from reports.model import RunState, Verdict
from tests.verification import test_runner
from tests.verification.test_runner import MadeUpDeployment, run_of, small
from verification import machine, night_campaigns, nightly, runner
from verification.campaigns import discovery
from verification.campaigns.faults import Faults
from verification.catalogue import load_catalogue
from verification.history import History
from verification.judge import judge_run
from verification.kinds import HOST_FAULTS, LEADER_FAULTS, SAFETY_FAULTS
from verification.night_log import ALL_DONE, BUDGET, NightLog, read_log, turns
from verification.night_plan import Kind
from verification.night_trials import begun
from verification.plan import Load, PlanError, make_plan, read_plan
from verification.progress import NoProgress
from verification.runner import Interrupted, Request
from verification.scenario_result import Result

SCENARIOS = tuple(load_scenario(name) for name in shipped())[:4]
deployment = test_runner.deployment
guards = test_runner.guards


class Player:
    """Plays scenarios: notes which, says what the test wants, or stops the run in the middle."""

    def __init__(self) -> None:
        self.played: list[str] = []
        self.verdicts: dict[str, Verdict] = {}
        self.stop_in: str | None = None
        self.break_in: str | None = None

    def run_on(self, scenario: Scenario, wish, deployment, substrate, progress, stop: threading.Event):
        self.played.append(scenario.name)
        folder = wish.out / f"0-{scenario.name}"
        folder.mkdir(parents=True, exist_ok=True)
        if scenario.name == self.break_in:
            raise RuntimeError("no such luck")
        if scenario.name == self.stop_in:
            os.kill(os.getpid(), signal.SIGTERM)
            stop.wait(5)
        verdict = self.verdicts.get(scenario.name, Verdict.PASS)
        told = Result(scenario=scenario.name, title="", rows=scenario.rows, expected="", verdict=verdict)
        return folder, (told,)


@pytest.fixture
def player(monkeypatch: pytest.MonkeyPatch) -> Player:
    made = Player()

    async def at_home(*_: object) -> None:
        return None

    def plan_run(*arguments: object):
        """The made-up load tells no seconds, so that gaps between two loads count as shortfall."""
        plan = runner.plan_run(*arguments)
        return msgspec.structs.replace(plan, load=msgspec.structs.replace(plan.load, least_share=0.01))

    monkeypatch.setattr(nightly, "run_on", made.run_on)
    monkeypatch.setattr(nightly, "bring_home", at_home)
    monkeypatch.setattr(nightly, "plan_run", plan_run)
    return made


def wish(tmp_path: Path, budget_s: float = 3600.0, **changes: object) -> nightly.NightRequest:
    request = Request(profile="nightly", out=tmp_path / "out", seed=11)
    return replace(nightly.NightRequest(request, SCENARIOS, budget_s), **changes)  # type: ignore[arg-type]


def night(tmp_path: Path, deployment: MadeUpDeployment, **changes: object) -> Path:
    return nightly.run_night(wish(tmp_path, **changes), deployment, NoProgress(), small())


def verdicts_of(folder: Path) -> dict[str, Verdict]:
    return {one.name: one.verdict for one in render.render(folder).scenarios}


def without_campaigns(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nightly.night_campaigns, "pieces", lambda plan: ())


def test_a_night_from_plan_to_report(tmp_path, deployment, player):
    folder = night(tmp_path, deployment)
    run, report = run_of(folder), render.render(folder)
    assert (run.state, run.detail) == (RunState.FINISHED, None)
    assert deployment.log == ["prepare", "restore"]
    assert sorted(player.played) == sorted(one.name for one in SCENARIOS)
    assert {one.verdict for one in report.scenarios} == {Verdict.PASS}
    planned = {c.id: c for c in report.criteria if c.planned}
    assert {name: (c.verdict, c.reason) for name, c in planned.items() if c.verdict is not Verdict.PASS} == {}
    assert planned["SD-6"].n == 12
    assert report.verdict is Verdict.PASS
    plan, _ = read_plan(folder)
    assert {one.kind for one in plan.pieces} == set(Kind)
    done = turns(read_log(folder))
    first = list(dict.fromkeys(one.piece for one in done))
    assert first == [one.name for one in plan.pieces], "first turns follow the plan"
    # The same history gives the same verdicts, without the stack and without the scenarios' folders.
    verdicts = (folder / "verdicts.json").read_bytes()
    judge_run(folder)
    assert (folder / "verdicts.json").read_bytes() == verdicts
    with pytest.raises(PlanError, match="nothing left to run"):
        nightly.resume_night(folder, wish(tmp_path), deployment, NoProgress())


def test_what_failed_in_an_earlier_report_comes_first(tmp_path, deployment, player, monkeypatch):
    without_campaigns(monkeypatch)
    last = SCENARIOS[-1].name
    player.verdicts[last] = Verdict.FAIL
    report = render.render(night(tmp_path, deployment))
    assert report.verdict is Verdict.FAIL
    earlier = msgspec.structs.replace(report, run=msgspec.structs.replace(report.run, synthetic=False))
    player.played.clear()
    night(tmp_path, deployment, earlier=(earlier,))
    assert player.played[0] == last


def test_what_does_not_fit_is_not_measured_and_says_so(tmp_path, deployment, player, monkeypatch):
    without_campaigns(monkeypatch)
    least = min(one.about_s for one in SCENARIOS)
    folder = night(tmp_path, deployment, budget_s=least - 1)
    report = render.render(folder)
    assert (player.played, run_of(folder).detail) == ([], BUDGET)
    assert {one.verdict for one in report.scenarios} == {Verdict.NOT_MEASURED}
    assert all("did not fit into what was left of the budget" in one.why[0] for one in report.scenarios)
    assert report.verdict is not Verdict.PASS
    # With more time it goes on, and then nothing is left.
    nightly.resume_night(folder, wish(tmp_path), deployment, NoProgress())
    assert set(verdicts_of(folder).values()) == {Verdict.PASS}
    assert any("2 sessions" in one.what for one in render.render(folder).deviations)


class Saying(NoProgress):
    """Notes what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def test_what_the_stack_cannot_do_is_left_out_before_the_first_trial(
    tmp_path, deployment, player, monkeypatch
):
    without_campaigns(monkeypatch)
    deployment.can -= {Capability.SLOW_DISK}
    scenarios = (*SCENARIOS, load_scenario("slow-disk"))
    asked, saying = wish(tmp_path, scenarios=scenarios), Saying()
    folder = nightly.run_night(asked, deployment, saying, small())
    plan, sha256 = read_plan(folder)
    assert run_of(folder).plan_sha256 == sha256
    assert [one.name for one in plan.left_out] == ["slow-disk"]
    assert "slow-disk" not in {one.name for one in (*plan.scenarios, *plan.pieces)}
    assert sorted(player.played) == sorted(one.name for one in SCENARIOS)
    (line,) = (line for line in saying.said if line.startswith("left out: "))
    assert line.startswith("left out: slow-disk needs slow-disk, which the substrate process lacks here;")
    assert (run_of(folder).state, run_of(folder).detail) == (RunState.FINISHED, None)
    report = render.render(folder)
    assert [one.name for one in report.left_out] == ["slow-disk"]
    assert {one.verdict for one in report.scenarios} == {Verdict.PASS}
    assert run_of(folder).configuration["left out"] == "slow-disk"
    assert "4 of 4 scenarios passed; 1 of 5 scenarios left out: slow-disk needs slow-disk" in report.reason


def test_a_night_that_goes_on_keeps_what_its_plan_left_out(tmp_path, deployment, player, monkeypatch):
    without_campaigns(monkeypatch)
    everything = deployment.can
    deployment.can -= {Capability.SLOW_DISK}
    scenarios = (*SCENARIOS, load_scenario("slow-disk"))
    folder = night(tmp_path, deployment, scenarios=scenarios, budget_s=1.0)
    before = (folder / "plan.json").read_bytes()
    deployment.can = everything
    nightly.resume_night(folder, wish(tmp_path, scenarios=scenarios), deployment, NoProgress())
    assert (folder / "plan.json").read_bytes() == before
    assert "slow-disk" not in player.played
    assert set(verdicts_of(folder).values()) == {Verdict.PASS}
    assert [one.name for one in render.render(folder).left_out] == ["slow-disk"]


def test_a_scenario_that_is_stopped_is_void_and_run_again(tmp_path, deployment, player, monkeypatch):
    without_campaigns(monkeypatch)
    player.stop_in = SCENARIOS[1].name
    with pytest.raises(Interrupted) as caught:
        night(tmp_path, deployment)
    folder = caught.value.folder
    assert caught.value.mend.endswith(f"--resume {folder.name}`")
    assert run_of(folder).state is RunState.INTERRUPTED
    assert deployment.log == ["prepare", "restore"]
    before = list(player.played)
    player.stop_in = None
    nightly.resume_night(folder, wish(tmp_path), deployment, NoProgress())
    assert player.played[len(before) - 1 :].count(SCENARIOS[1].name) == 2
    assert sorted(set(player.played)) == sorted(one.name for one in SCENARIOS)
    assert len(player.played) == len(SCENARIOS) + 1, "what was finished is not repeated"
    report = render.render(folder)
    assert {one.name: one.voids for one in report.scenarios}[SCENARIOS[1].name] == 1
    assert {one.verdict for one in report.scenarios} == {Verdict.PASS}
    assert f"turns that were cut: {SCENARIOS[1].name} (1)" in [one.what for one in report.deviations]


def test_a_campaign_that_is_killed_goes_on_with_what_is_left(
    tmp_path, deployment, guards, player, monkeypatch
):
    """As after SIGKILL: no end of the session, a line cut in the middle."""
    real = discovery.warm

    async def killed(bench, n):
        await real(bench, 3)
        raise _Killed

    monkeypatch.setattr(discovery, "warm", killed)
    monkeypatch.setattr(NightLog, "stopped", lambda *_: None)
    monkeypatch.setattr(NightLog, "close", lambda *_: None)
    with pytest.raises(_Killed):
        night(tmp_path, deployment)
    monkeypatch.undo()
    guards.install(monkeypatch)
    monkeypatch.setattr(nightly, "run_on", player.run_on)
    monkeypatch.setattr(nightly, "bring_home", _at_home)
    monkeypatch.setattr(test_runner.monitoring, "targets", test_runner.all_targets_up)
    monkeypatch.setattr(test_runner.faults, "REST_S", 0.0)
    (folder,) = (path for path in (tmp_path / "out").iterdir() if not path.is_symlink())
    for name in ("night", "nemesis"):
        with open(folder / "history" / f"{name}.jsonl", "ab") as file:
            file.write(b'{"process":"cut in the mid')
    already = list(player.played)
    nightly.resume_night(folder, wish(tmp_path), deployment, NoProgress())
    assert sorted(player.played) == sorted(one.name for one in SCENARIOS)
    assert player.played[: len(already)] == already
    report = render.render(folder)
    assert {c.id: c.verdict for c in report.criteria}["RL-3"] is Verdict.PASS
    assert any("went on once" in one.what for one in report.deviations)
    assert any("cut short" in one.what for one in report.deviations)
    assert len([turn for turn in turns(read_log(folder)) if turn.told is None]) == 1


class _Killed(BaseException):
    pass


async def _at_home(*_: object) -> None:
    return None


def test_a_campaign_that_is_stopped_leaves_no_program_and_counts_no_cut_trial(
    tmp_path, deployment, player, monkeypatch
):
    begun = threading.Event()

    async def endless(*_: object):
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(discovery, "cold", endless)

    def stop() -> None:
        begun.wait()
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(Interrupted) as caught:
        night(tmp_path, deployment)
    log = History.read(caught.value.folder)
    assert [turn.told for turn in turns(log)][-1] is None
    assert turns(log)[-1].piece == "first look-ups"


def test_what_breaks_is_told_and_the_night_goes_on(tmp_path, deployment, player, monkeypatch):
    without_campaigns(monkeypatch)
    player.break_in = SCENARIOS[0].name
    folder = night(tmp_path, deployment)
    report = render.render(folder)
    told = {one.name: one for one in report.scenarios}[SCENARIOS[0].name]
    assert (told.verdict, told.why) == (Verdict.INCONCLUSIVE, ("the harness broke: no such luck",))
    assert player.played.count(SCENARIOS[0].name) == nightly.MAX_BREAKS
    assert list(verdicts_of(folder).values()).count(Verdict.PASS) == len(SCENARIOS) - 1
    player.break_in = None
    nightly.resume_night(folder, wish(tmp_path), deployment, NoProgress())
    assert set(verdicts_of(folder).values()) == {Verdict.PASS}


@pytest.fixture
def stopped(tmp_path, deployment, player, monkeypatch) -> Path:
    without_campaigns(monkeypatch)
    return night(tmp_path, deployment, budget_s=1.0)


def rewritten(folder: Path, **changes: object) -> None:
    told = msgspec.json.decode((folder / "run.json").read_bytes())
    (folder / "run.json").write_bytes(msgspec.json.encode(told | changes))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"environment": "staging"}, "is a run of stack staging"),
        ({"commit": "0" * 40}, "was made by commit 000000000000"),
        ({"fleet_sha256": "1"}, "another fleet manifest"),
        ({"plan_sha256": "1"}, "is not the plan that was hashed"),
    ],
)
def test_a_foreign_run_does_not_go_on(tmp_path, deployment, stopped, changes, what):
    rewritten(stopped, **changes)
    with pytest.raises(PlanError, match=what):
        nightly.resume_night(stopped, wish(tmp_path), deployment, NoProgress())
    assert deployment.log == ["prepare", "restore"], "nothing was touched"


def test_a_run_with_another_scenario_does_not_go_on(tmp_path, deployment, stopped):
    changed = (msgspec.structs.replace(SCENARIOS[0], calm_s=1.0), *SCENARIOS[1:])
    with pytest.raises(PlanError, match=f"planned another scenario {SCENARIOS[0].name}"):
        nightly.resume_night(stopped, wish(tmp_path, scenarios=changed), deployment, NoProgress())


@pytest.mark.parametrize("name", ["run.json", "plan.json"])
def test_a_run_that_is_cut_or_missing_is_told_in_one_line(tmp_path, deployment, stopped, name):
    (stopped / name).write_bytes((stopped / name).read_bytes()[:50])
    with pytest.raises(PlanError, match=name):
        nightly.resume_night(stopped, wish(tmp_path), deployment, NoProgress())
    (stopped / name).unlink()
    with pytest.raises(PlanError, match="cannot be read"):
        nightly.resume_night(stopped, wish(tmp_path), deployment, NoProgress())


def test_a_quick_run_is_no_night(tmp_path, deployment, monkeypatch):
    folder = test_runner.runner.run(test_runner.request(tmp_path), deployment, NoProgress(), small())
    with pytest.raises(PlanError, match="is no night"):
        nightly.resume_night(folder, wish(tmp_path), deployment, NoProgress())
    with pytest.raises(PlanError, match="holds no night"):
        nightly.newest(tmp_path / "out")


def test_the_newest_night_is_found_also_when_it_was_killed(tmp_path, stopped):
    rewritten(stopped, state="running", ended=None)
    assert nightly.newest(tmp_path / "out") == stopped


def test_two_that_would_go_on_at_once_are_one_too_many(tmp_path, deployment, stopped, monkeypatch):
    monkeypatch.setattr(deployment, "alone", lambda: exclusive.exclusive(deployment.environment, "verify"))
    with deployment.alone(), pytest.raises(exclusive.Occupied, match="works with it"):
        nightly.resume_night(stopped, wish(tmp_path), deployment, NoProgress())
    nightly.resume_night(stopped, wish(tmp_path), deployment, NoProgress())
    assert run_of(stopped).detail is None
    assert read_log(stopped).notes == ()
    assert ALL_DONE in {
        msgspec.json.decode(op.completion.value)["why"] for op in read_log(stopped).of("session")
    }


def test_a_stack_without_leave_for_faults_is_refused(tmp_path, deployment, player):
    deployment.environment = msgspec.structs.replace(deployment.environment, chaos=False)
    with pytest.raises(PlanError, match="does not allow"):
        night(tmp_path, deployment)
    assert deployment.log == []


def test_the_commit_is_asked_once_more(monkeypatch, tmp_path, deployment, stopped):
    monkeypatch.setattr(machine, "commit", lambda: machine.Commit("f" * 40, False))
    with pytest.raises(PlanError, match="and this is ffffffffffff"):
        nightly.resume_night(stopped, wish(tmp_path), deployment, NoProgress())


def test_all_campaigns_of_the_fleet_fit_into_the_default_budget_and_leave_some_to_scenarios():
    workload = load_workload("reference")
    plan = make_plan(
        profile="nightly",
        seed=1,
        fleet=load_fleet(Path(machine.ROOT, "fleet.yaml")),
        catalogue=load_catalogue(),
        load=Load(workload=workload.name, per_s=workload.per_s, users=workload.users),
        created=None,
    )
    pieces = night_campaigns.pieces(plan)
    assert sum(one.about_s for one in pieces) <= nightly.DEFAULT_BUDGET_S - 600.0
    kinds = Counter(trial.fault for trial in (*plan.faults, *plan.host_faults) if not trial.reserve)
    for together in (("crash",), ("hang",), ("errors", "slow"), HOST_FAULTS):
        assert sum(kinds[kind] for kind in together) >= 299, together
    assert sum(kinds[kind] for kind in LEADER_FAULTS) >= 59
    assert all(kinds[kind] for kind in SAFETY_FAULTS)
    assert all(one.needs_s <= one.about_s for one in pieces)


def test_a_campaign_begins_no_trial_when_the_budget_is_over_and_goes_on_in_the_next(
    tmp_path, deployment, player, monkeypatch
):
    over = [False]
    real = nightly._Night._left_s
    monkeypatch.setattr(nightly._Night, "_left_s", lambda self: 0.0 if over[0] else real(self))
    ends = Faults._finished

    def finished(self, trial, tracker):
        over[0] = True
        ends(self, trial, tracker)

    monkeypatch.setattr(Faults, "_finished", finished)
    folder = night(tmp_path, deployment)
    assert run_of(folder).detail == BUDGET
    done = begun(read_log(folder))
    planned = [trial for trial in read_plan(folder)[0].faults if not trial.reserve]
    assert 0 < len(done) < len(planned)
    assert all(done.values()), "those under way were brought to their end"
    assert not [turn for turn in turns(read_log(folder)) if turn.told is None]


def test_a_campaign_that_writes_nothing_any_more_is_cut_and_the_night_goes_on(
    tmp_path, deployment, player, monkeypatch
):
    async def endless(*_: object):
        await asyncio.Event().wait()

    monkeypatch.setattr(discovery, "cold", endless)
    monkeypatch.setattr(nightly, "SILENT_S", 4.0)
    monkeypatch.setattr(nightly, "LOOK_S", 0.05)
    monkeypatch.setattr(nightly, "MAX_BREAKS", 1)
    folder = night(tmp_path, deployment)
    told = {turn.piece: turn.told for turn in turns(read_log(folder)) if turn.told is not None}
    assert told["first look-ups"].why == nightly.HUNG
    assert sorted(player.played) == sorted(one.name for one in SCENARIOS)
    assert "first look-ups" in (run_of(folder).detail or "")


def test_what_breaks_before_a_turn_breaks_no_history(tmp_path, deployment, player, monkeypatch):
    async def broken(*_: object) -> None:
        raise RuntimeError("who is at home?")

    without_campaigns(monkeypatch)
    monkeypatch.setattr(nightly, "bring_home", broken)
    folder = night(tmp_path, deployment)
    assert set(verdicts_of(folder).values()) == {Verdict.PASS}


def test_a_stop_between_two_turns_begins_no_other(tmp_path, deployment, player, monkeypatch):
    async def stopped(_substrate, _hosts, _homed, stop: threading.Event) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.to_thread(stop.wait, 5)

    monkeypatch.setattr(nightly, "bring_home", stopped)
    with pytest.raises(Interrupted) as caught:
        night(tmp_path, deployment)
    assert turns(read_log(caught.value.folder)) == ()
    assert deployment.log == ["prepare", "restore"]
