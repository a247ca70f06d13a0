"""The runner from plan to report on a stack that is made up: no server, no agent, no network."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
import pytest

from infra.plan import Environment
from infra.substrates.base import Capability, SubstrateError
from loadtests.protocol import Targets
from loadtests.record import Kind, Record, now_ns, raw
from reports import render
from reports.model import Run, RunState, Verdict
from tests.verification import stories
from tests.verification.made_up_session import Guards
from verification import run_folder, runner
from verification.campaigns import discovery, faults, monitoring
from verification.catalogue import Catalogue, load_catalogue
from verification.history import History
from verification.judge import judge_run
from verification.links import LinkError
from verification.plan import PlanError
from verification.progress import NoProgress, PlainProgress

SCRIPT = Path(__file__).parent / "made_up_host.py"


class MadeUpSubstrate:
    """Programs run, hosts do not exist; a signal is a file that the programs see."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.children: list[subprocess.Popen[bytes]] = []
        self.signals: list[tuple[str, str, str]] = []
        self.deaf = False
        self.break_probe = False

    def spawn(self, host: str, argv: Sequence[str], *, env: Mapping[str, str] = {}, **streams):
        kind = "load" if "locust" in argv else "probe"
        program = [sys.executable, str(SCRIPT), kind, str(self.folder)]
        if self.break_probe:
            program = [sys.executable, "-c", "raise SystemExit('no such module')"]
        root = str(Path(__file__).parents[2])
        process = subprocess.Popen(
            program, env={**os.environ, **env, "THREENINES_HOST": host, "PYTHONPATH": root}, **streams
        )
        self.children.append(process)
        return process

    def signal(self, host: str, target: str, name: str) -> None:
        self.signals.append((host, target, name))
        if self.deaf:
            return
        if name == "CONT":
            raise SubstrateError(target, "has another process by now", "nothing")
        agent = target.removeprefix("agent/")
        (self.folder / f"{agent}.{'crash' if name == 'KILL' else 'hang'}").touch()

    def address(self, host: str) -> str:
        return "192.0.2.1"


@dataclasses.dataclass
class MadeUpDeployment:
    environment: Environment
    substrate: MadeUpSubstrate

    def __post_init__(self) -> None:
        self.fleet = stories.fleet(12)
        self.log: list[str] = []
        self.on_prepare = lambda: None
        self.can = frozenset(Capability)
        for agent in self.fleet.agents:
            (self.substrate.folder / f"{agent.name}.home").write_text(agent.home)

    def capabilities(self):
        return self.can

    def alone(self):
        return contextlib.nullcontext()

    def prepare(self, progress):
        self.log.append("prepare")
        self.on_prepare()
        return self.substrate

    def restore(self, progress) -> None:
        self.log.append("restore")


HOSTS_NEEDED = ("RL-5", "RL-7", "RL-8", "RK-3")
"""Rows about real hosts, which a made-up stack does not have."""


def small(catalogue: Catalogue | None = None, *, hosts: bool = False) -> Catalogue:
    """The catalogue with samples that a test can wait for; its claims are weaker accordingly."""
    catalogue = catalogue or load_catalogue()
    entries = []
    for entry in catalogue.criteria:
        plans = {
            name: msgspec.structs.replace(
                quick,
                n=min(quick.n, 3 if entry.row in HOSTS_NEEDED else 6) if quick.n else None,
                stages=(),
                coverage=0.5 if quick.coverage else None,
                timeout_s=2.0,
            )
            for name, quick in entry.plans.items()
            # What a week loses to lost hosts cannot be projected where none is lost.
            if hosts or (entry.row not in HOSTS_NEEDED and entry.id != "RL-1.projected")
        }
        if entry.id == "SD-3.run":
            entries.append(msgspec.structs.replace(entry, plans=plans, target=50.0))
        else:
            entries.append(msgspec.structs.replace(entry, plans=plans))
    return msgspec.structs.replace(catalogue, criteria=tuple(entries))


async def all_targets_up(bench) -> None:
    """Prometheus in a word."""
    told = Targets(up=tuple(agent.name for agent in bench.plan.agents))
    for host in bench.plan.hosts:
        for kind in (Kind.INVOKE, Kind.OK):
            bench.prometheus.record(
                Record(
                    process=f"prometheus-{host}",
                    type=kind,
                    f="targets",
                    key=host,
                    value=raw(told),
                    time_ns=now_ns(),
                    host=host,
                )
            )


@pytest.fixture
def guards(monkeypatch):
    return Guards(monkeypatch)


@pytest.fixture
def deployment(tmp_path, monkeypatch, guards):
    (tmp_path / "made-up").mkdir()
    monkeypatch.setattr(monitoring, "targets", all_targets_up)
    monkeypatch.setattr(faults, "REST_S", 0.0)
    environment = Environment(stack="made-up", chaos=True, fleet="fleet.yaml", state_dir=str(tmp_path))
    made = MadeUpDeployment(environment, MadeUpSubstrate(tmp_path / "made-up"))
    yield made
    for child in made.substrate.children:
        assert child.poll() is not None, "a program was left running"
    assert not guards.standing, "a session was left open"


def request(tmp_path) -> runner.Request:
    return runner.Request(profile="quick", out=tmp_path / "out", seed=11)


def run_of(folder: Path) -> Run:
    return msgspec.json.decode((folder / "run.json").read_bytes(), type=Run)


def test_a_run_from_plan_to_report(tmp_path, deployment, capsys):
    folder = runner.run(request(tmp_path), deployment, PlainProgress(sys.stderr), small())
    run = run_of(folder)
    assert run.state is RunState.FINISHED
    assert run.seed == 11
    assert deployment.log == ["prepare", "restore"]
    report = render.render(folder)
    planned = {c.id: c for c in report.criteria if c.planned}
    assert {name: (c.verdict, c.reason) for name, c in planned.items() if c.verdict is not Verdict.PASS} == {}
    assert report.verdict is Verdict.PASS
    assert planned["SD-6"].n == 12
    assert planned["RL-3.failover"].estimate > 30
    assert {c.verdict for c in report.criteria if not c.planned} == {Verdict.NOT_MEASURED}
    assert (tmp_path / "out" / "latest" / "report.html").is_file()
    told = capsys.readouterr().err
    assert "failures of agents and services: 18 trials" in told
    # The same history gives the same verdicts, without the stack.
    verdicts = (folder / "verdicts.json").read_bytes()
    judge_run(folder)
    assert (folder / "verdicts.json").read_bytes() == verdicts
    assert History.read(folder).notes == ()
    assert {name for _, _, name in deployment.substrate.signals} >= {"KILL", "STOP"}


def test_faults_without_effect_are_void_and_replaced_by_the_reserve(tmp_path, deployment, monkeypatch):
    deployment.substrate.deaf = True
    folder = runner.run(request(tmp_path), deployment, NoProgress(), small())
    report = render.render(folder)
    found = {c.id: c for c in report.criteria}["RL-3.detect"]
    assert found.verdict is Verdict.VOID
    assert found.voids == 6 + 3
    assert report.verdict is Verdict.INCONCLUSIVE


def test_a_stack_without_leave_for_faults_is_refused_before_anything_is_touched(tmp_path, deployment):
    deployment.environment = msgspec.structs.replace(deployment.environment, chaos=False)
    with pytest.raises(PlanError, match="does not allow them"):
        runner.run(request(tmp_path), deployment, NoProgress(), small())
    assert deployment.log == []
    assert not (tmp_path / "out").exists()


def test_a_harness_that_breaks_leaves_the_stack_as_found_and_says_so(tmp_path, deployment):
    deployment.substrate.break_probe = True
    with pytest.raises(LinkError, match="no such module"):
        runner.run(request(tmp_path), deployment, NoProgress(), small())
    assert deployment.log == ["prepare", "restore"]
    (folder,) = (tmp_path / "out").iterdir()
    run = run_of(folder)
    assert run.state is RunState.BROKEN
    assert "no such module" in run.detail


def test_a_stack_that_does_not_come_up_is_restored(tmp_path, deployment):
    def broken() -> None:
        raise SubstrateError("host mainpc", "is not to be had", "look")

    deployment.on_prepare = broken
    with pytest.raises(SubstrateError):
        runner.run(request(tmp_path), deployment, NoProgress(), small())
    assert deployment.log == ["prepare", "restore"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_run_that_is_stopped_is_kept_as_incomplete(tmp_path, deployment, monkeypatch, number):
    begun = threading.Event()
    real = discovery.warm

    async def endless(bench, n):
        await real(bench, n)
        begun.set()
        await asyncio.Event().wait()

    monkeypatch.setattr(discovery, "warm", endless)

    def stop() -> None:
        begun.wait()
        os.kill(os.getpid(), number)

    threading.Thread(target=stop, daemon=True).start()
    with pytest.raises(runner.Interrupted) as caught:
        runner.run(request(tmp_path), deployment, NoProgress(), small())
    assert caught.value.exit_status == 130
    assert deployment.log == ["prepare", "restore"]
    assert run_of(caught.value.folder).state is RunState.INTERRUPTED
    # What was measured until then can be judged.
    verdicts = {c.id: c.verdict for c in judge_run(caught.value.folder).criteria}
    assert verdicts["SD-1"] is Verdict.PASS
    assert verdicts["RL-3"] is Verdict.NOT_MEASURED


def test_two_runs_in_one_second_do_not_share_a_folder(tmp_path):
    paths = {run_folder.fresh(tmp_path, "same") for _ in range(3)}
    assert len(paths) == 3
    (tmp_path / "file").touch()
    with pytest.raises(PlanError, match="cannot be written"):
        run_folder.fresh(tmp_path / "file", "x")


def test_time_is_told_in_utc():
    assert run_folder.now().endswith("Z")
    assert abs(time.time() - now_wall()) < 5


def now_wall() -> float:
    from datetime import datetime

    return datetime.fromisoformat(run_folder.now()).timestamp()
