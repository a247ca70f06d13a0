"""The order of an injection, admission, and what the guard decides: on a substrate that only writes down."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from chaos import session as sessions
from chaos.admission import beyond_limits, overlap
from chaos.clearing import panic, sweep
from chaos.errors import BadFault, LeaseLost, NotHealed, Refused
from chaos.fault import Fault, Measure, Proof, Radius, Trial, catalogue
from chaos.files import files_of, held_for, take
from chaos.guard import Watch
from chaos.healing import heal, heal_open
from chaos.journal import Journal, read_journal
from chaos.lease import Lease, Renewal, read_lease
from chaos.ledger import Ledger, boottime_ns
from chaos.parameters import make_fault
from chaos.session import Session
from chaos.stage import Stage
from chaos.undo import AnyUndo, Thaw, TrueClock
from infra.substrates.base import SubstrateError
from infra.substrates.census import identify
from tests.chaos.recorder import Recorder, make_stage

UNDO = (TrueClock(host="a", offset_ms=0.0), Thaw(host="a", agents_up=0))


RESTART = ("signal toxiproxy KILL", "start_unit toxiproxy")


class Pretend(Fault, frozen=True, kw_only=True):
    name = "pretend"
    group = "host"
    summary = "Nothing."

    host: str = "a"
    works: bool = True
    fails: bool = False

    def targets(self, stage: Stage) -> frozenset[str]:
        return frozenset({f"host/{self.host}"})

    def radius(self, stage: Stage) -> Radius:
        return Radius(frozenset({self.host}), stage.homed(self.host))

    def undo(self, stage: Stage, trial: Trial) -> tuple[AnyUndo, ...]:
        return (Thaw(host=self.host, agents_up=0),)

    def inject(self, stage: Stage, trial: Trial) -> None:
        opened = Ledger(files_of(stage.environment).ledger).read().open
        assert trial.id in [entry.id for entry in opened]  # the undo is on disk before anything is done
        if self.fails:
            raise SubstrateError("host a", "it is broken", "mend it")
        stage.substrate.frozen.add(self.host)  # type: ignore[attr-defined]

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        return Proof(self.works, (Measure("host", "frozen"),))


@pytest.fixture(autouse=True)
def volatile(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Volatile folders of made-up stacks are made-up too."""
    folder = tmp_path_factory.mktemp("run")
    monkeypatch.setattr("infra.substrates.layout.run_root", lambda: folder)


@pytest.fixture
def unguarded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that is taken to be there: the program itself is tried on a stack that stands."""
    monkeypatch.setattr(sessions, "start_guard", lambda charge, files: None)
    monkeypatch.setattr(sessions, "guard_pid", lambda files: os.getpid())
    monkeypatch.setattr("chaos.undo._host_proof", lambda stage, host, up: Proof(True))


def opened(folder: Path, **limits: object) -> tuple[Session, Recorder]:
    stage, recorder = make_stage(folder, **limits)
    files_of(stage.environment).run.mkdir(parents=True)  # what a stack that stands has
    return Session.open(stage.environment, stage=stage, fleet=stage.fleet), recorder


@pytest.mark.usefixtures("unguarded")
def test_a_fault_goes_in_order(tmp_path: Path) -> None:
    session, recorder = opened(tmp_path)
    with session:
        outcome = session.run(Pretend(), 1.0)
    assert (outcome.void, outcome.whole) == (False, True)
    assert recorder.calls == ["thaw_host a", "close"]
    events = [entry.event for entry in read_journal(session.journal.path)]
    assert events == ["session", "planned", "injected", "effect", "healing", "healed", "restored"]
    assert read_lease(files_of(session.stage.environment).lease) is None


@pytest.mark.usefixtures("unguarded")
def test_without_proof_a_trial_is_void_and_healed_all_the_same(tmp_path: Path) -> None:
    session, recorder = opened(tmp_path)
    with session:
        silent = session.run(Pretend(works=False), 0.1)
        broken = session.run(Pretend(host="b", fails=True), 0.1)
    assert (silent.void, silent.whole, silent.trouble) == (True, True, "")
    assert (broken.void, broken.whole, broken.trouble) == (True, True, "host a: it is broken")
    assert recorder.calls == ["thaw_host a", "thaw_host b", "close"]


@pytest.mark.usefixtures("unguarded")
@pytest.mark.parametrize(
    ("name", "told"),
    [
        (
            "disk-slow",
            "disk-slow: the substrate process of stack .* has no slow-disk; run it on a stack whose",
        ),
        ("clock-step", "has no set-clock;"),
        ("link-packet-loss", "has no lose-packets;"),
    ],
)
def test_what_the_substrate_cannot_do_is_refused_before_anything(
    tmp_path: Path, name: str, told: str
) -> None:
    session, recorder = opened(tmp_path)
    with session, pytest.raises(Refused, match=told):
        session.begin(make_fault(name, {"host": "a"}))
    assert recorder.calls == ["close"]
    assert [entry.event for entry in read_journal(session.journal.path)] == ["session"]


@pytest.mark.usefixtures("unguarded")
def test_what_cannot_be_undone_is_said_and_stays_on_the_ledger(tmp_path: Path) -> None:
    session, recorder = opened(tmp_path)
    recorder.broken.add("thaw_host")
    with session:
        outcome = session.run(Pretend(), 0.1)
        assert (outcome.healed, outcome.trouble) == (False, "host a: it is broken")
        recorder.broken.clear()
    ledger = Ledger(files_of(session.stage.environment).ledger)
    assert [entry.fault for entry in ledger.read().open] == ["pretend"]
    again, _ = make_stage(tmp_path)
    again.environment = session.stage.environment
    assert sweep(again) == ("left by an earlier run: pretend: healed",)
    assert ledger.read().open == ()


@pytest.mark.usefixtures("unguarded")
def test_a_lost_lease_ends_the_session_and_heals(tmp_path: Path) -> None:
    session, recorder = opened(tmp_path)
    with session:
        session.begin(Pretend())
        files_of(session.stage.environment).lease.unlink()
        with pytest.raises(LeaseLost, match="did not renew its lease"):
            session.begin(Pretend(host="b"))
        assert recorder.calls == ["thaw_host b"]
    assert recorder.frozen == set()


@pytest.mark.usefixtures("unguarded")
def test_closing_says_what_is_left(tmp_path: Path) -> None:
    session, recorder = opened(tmp_path)
    session.begin(Pretend())
    recorder.broken.add("thaw_host")
    with pytest.raises(NotHealed, match="not undone: pretend; run threenines chaos panic"):
        session.close()
    recorder.broken.clear()
    told = panic(session.stage)
    assert told[0] == "pretend: healed"
    assert told[1] == "a: Toxiproxy: nothing can be started there"
    assert recorder.calls[-4:] == [f"{what} {host}" for host in "ab" for what in RESTART]


def test_a_stack_without_chaos_refuses(tmp_path: Path) -> None:
    stage, _ = make_stage(tmp_path, chaos=False)
    with pytest.raises(Refused, match="faults are not allowed on it; set threenines:chaos to true"):
        Session.open(stage.environment, stage=stage)


def test_a_stack_that_does_not_stand_is_refused_and_left_untouched(tmp_path: Path) -> None:
    stage, recorder = make_stage(tmp_path)
    recorder.there.clear()
    with pytest.raises(Refused, match="it does not stand here; run up first"):
        Session.open(stage.environment, stage=stage, fleet=stage.fleet)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("limits", "hosts", "agents", "told"),
    [
        ({}, {"a", "b"}, {"one", "two"}, ""),
        ({"chaos_hosts": 1}, {"a", "b"}, set(), "2 hosts would be disturbed, at most 1 may"),
        ({"chaos_hosts": 0}, set(), {"one"}, ""),
        ({"chaos_agents_share": 0.2}, set(), {"one"}, ""),
        (
            {"chaos_agents_share": 0.2},
            set(),
            {"one", "three"},
            "40% of the agents",
        ),
        (
            {"chaos_criticality": "standard"},
            set(),
            {"one", "two"},
            "two is critical, at most standard",
        ),
        ({"chaos_criticality": "utility"}, set(), {"one"}, "one is standard, at most utility may be"),
    ],
)
def test_limits(
    tmp_path: Path, limits: dict[str, object], hosts: set[str], agents: set[str], told: str
) -> None:
    stage, _ = make_stage(tmp_path, **limits)
    found = beyond_limits(stage, Radius(frozenset(hosts), frozenset(agents)))
    assert found.startswith(told)
    assert bool(found) == bool(told)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("agent/nobody", "agent 'nobody': the fleet has no such agent"),
        ("nowhere/redis", "host 'nowhere': the fleet has no such host; choose a or b or w"),
        ("a/redi", "target 'a/redi': a has no such unit; choose etcd, redis"),
        ("redis", "target 'redis': it names no process; write agent/NAME or HOST/UNIT"),
        ("w/redis", "w has no such unit; choose etcd"),
    ],
)
def test_a_missing_target_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    stage, _ = make_stage(tmp_path)
    with pytest.raises(BadFault, match=told):
        stage.target(text)


def test_a_missing_way_is_one_line(tmp_path: Path) -> None:
    stage, _ = make_stage(tmp_path)
    assert stage.way("a", "etcd-w").port == 7802
    with pytest.raises(BadFault, match="way 'etcd-a': a has no such proxied way; choose gateway-b, etcd-b"):
        stage.way("a", "etcd-a")
    with pytest.raises(BadFault, match="only workers of a stack with chaos have some"):
        stage.way("w", "etcd-a")


def test_a_frozen_host_is_thawed_before_anything_else(tmp_path: Path) -> None:
    stage, recorder = make_stage(tmp_path)
    ledger = Ledger(files_of(stage.environment).ledger)
    ledger.open_fault("1", "both", ("host/a",), UNDO)
    heal(stage, ledger, ledger.read().open, "guard")
    assert recorder.calls == ["thaw_host a", "step_clock a"]
    assert ledger.read().open == ()


@pytest.mark.parametrize("gone", ["there", "running"])
def test_nothing_is_left_on_a_host_that_is_gone(tmp_path: Path, gone: str) -> None:
    stage, recorder = make_stage(tmp_path)
    recorder.broken |= {"thaw_host", "step_clock"}
    getattr(recorder, gone).discard("a")
    ledger = Ledger(files_of(stage.environment).ledger)
    ledger.open_fault("1", "both", ("host/a",), UNDO)
    assert [one.trouble for one in heal_open(stage, "guard")] == [()]
    assert ledger.read().open == ()


class Holder:
    """A lease that a test hands out."""

    def __init__(self, stage: Stage, pid: int | None = None) -> None:
        self.path = files_of(stage.environment).lease
        self.path.parent.mkdir(parents=True, exist_ok=True)
        found = identify(pid or os.getpid())
        assert found is not None
        self.process = found

    def write(self, seconds: float, *, dead: bool = False) -> None:
        lease = Lease(
            session="s",
            pid=self.process.pid,
            starttime=self.process.starttime + dead,
            deadline_ns=boottime_ns() + int(seconds * 1e9),
        )
        self.path.write_bytes(msgspec.json.encode(lease))


def watched(folder: Path) -> tuple[Watch, Ledger, Holder, Recorder, Stage]:
    stage, recorder = make_stage(folder)
    files = files_of(stage.environment)
    ledger = Ledger(files.ledger)
    ledger.open_fault("1", "pretend", ("host/a",), (Thaw(host="a", agents_up=0),))
    return Watch(stage, files), ledger, Holder(stage), recorder, stage


def test_the_guard_leaves_a_living_harness_alone(tmp_path: Path) -> None:
    watch, ledger, holder, recorder, _ = watched(tmp_path)
    holder.write(5.0)
    assert watch.look()
    assert (recorder.calls, len(ledger.read().open)) == ([], 1)


@pytest.mark.parametrize(("seconds", "dead"), [(5.0, True), (-1.0, True)])
def test_the_guard_heals_for_a_dead_harness_and_ends(tmp_path: Path, seconds: float, dead: bool) -> None:
    watch, ledger, holder, recorder, _ = watched(tmp_path)
    holder.write(seconds, dead=dead)
    assert not watch.look()
    assert recorder.calls == ["thaw_host a"]
    assert [one.by for one in ledger.read().healed] == ["guard"]


def test_the_guard_heals_again_after_a_harness_that_had_lost_its_lease(tmp_path: Path) -> None:
    watch, _, holder, recorder, _ = watched(tmp_path)
    holder.write(-1.0)
    assert watch.look()  # it lives: it may be about to inject what was healed just now
    assert watch.look()
    assert recorder.calls == ["thaw_host a"]
    holder.write(-1.0, dead=True)
    assert not watch.look()
    assert recorder.calls == ["thaw_host a", "thaw_host a"]


def test_the_guard_does_not_give_up(tmp_path: Path) -> None:
    watch, ledger, holder, recorder, stage = watched(tmp_path)
    holder.write(0.0, dead=True)
    recorder.broken.add("thaw_host")
    assert watch.look()
    recorder.broken.clear()
    stage.sleep(2.0)
    assert not watch.look()
    assert ledger.read().open == ()


def test_a_released_lease_ends_the_guard(tmp_path: Path) -> None:
    watch, ledger, holder, _, _ = watched(tmp_path)
    holder.write(5.0)
    assert watch.look()
    ledger.heal("1", "harness")
    holder.path.unlink()
    assert not watch.look()


def test_a_renewal_that_is_late_or_robbed_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "lease.json"
    renewal = Renewal(path, "mine", lease_s=30.0, renew_s=0.01)
    renewal.start()
    assert not renewal.lost
    first = read_lease(path)
    assert first is not None
    assert first.valid(boottime_ns())
    Renewal(path, "theirs", lease_s=30.0, renew_s=60.0)._write()
    assert renewal.lost
    renewal.stop()
    kept = read_lease(path)
    assert kept is not None
    assert kept.session == "theirs"
    late = Renewal(tmp_path / "late.json", "late", lease_s=0.0, renew_s=60.0)
    late.start()
    assert late.lost
    late.stop()


def test_a_journal_that_was_cut_goes_on(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j.jsonl")
    journal.write("planned", trial="1")
    journal.close()
    whole = journal.path.read_bytes()
    journal.path.write_bytes(whole + whole[:20])
    again = Journal(journal.path)
    again.write("healed", trial="1", holds=True, measures=(("took", 1.5, "ms"),))
    again.close()
    assert [(e.event, e.trial) for e in read_journal(journal.path)] == [("planned", "1"), ("healed", "1")]


@pytest.mark.parametrize(
    ("ours", "theirs", "both"),
    [
        ({"way/a/etcd-b"}, {"way/a/etcd-b"}, {"way/a/etcd-b"}),
        ({"way/a/etcd-b"}, {"way/b/etcd-b", "link/a", "way/a/etcd-w"}, set()),
        ({"host/a"}, {"link/a", "cpu/b", "process/a/agent/one"}, {"link/a", "process/a/agent/one"}),
        ({"gpu-memory/a/0"}, {"host/a", "gpu-compute/a/0"}, {"host/a"}),
        ({"process/a/redis"}, {"process/a/redis-x", "host/ab"}, set()),
    ],
)
def test_faults_overlap_on_one_target_and_on_a_whole_host(
    ours: set[str], theirs: set[str], both: set[str]
) -> None:
    assert overlap(ours, theirs) == both
    assert bool(overlap(theirs, ours)) == bool(both)


def test_every_fault_names_its_targets_by_kind_and_host(tmp_path: Path) -> None:
    stage, _ = make_stage(tmp_path)
    stage.serving = lambda agent: agent.home  # type: ignore[method-assign]
    given = {"host": "a", "to": "redis-b", "target": "a/redis", "agent": "five", "memory_mb": 8}
    for name, kind in catalogue().items():
        parameters = {field.name for field in msgspec.structs.fields(kind)}
        fault = make_fault(name, {key: value for key, value in given.items() if key in parameters})
        (target,) = fault.targets(stage)
        assert target.split("/")[1] in ("a", "b"), target
        radius = fault.radius(stage)
        assert radius.hosts or radius.agents


def test_the_guard_does_not_wait_for_a_harness_that_stands_still(tmp_path: Path) -> None:
    watch, ledger, holder, recorder, stage = watched(tmp_path)
    holder.write(-1.0)
    files = files_of(stage.environment)
    with held_for(files.heal_lock, 0.0) as ours, files.ledger.open("rb") as file:
        assert ours
        assert take(file.fileno(), 0.0)
        watch.look()
    assert recorder.calls == ["thaw_host a"]
    assert ledger.read().open == ()


def test_a_harness_that_lost_its_lease_and_stands_in_the_way_is_ended(tmp_path: Path) -> None:
    stage, recorder = make_stage(tmp_path)
    files = files_of(stage.environment)
    Ledger(files.ledger).open_fault("1", "pretend", ("host/a",), (Thaw(host="a", agents_up=0),))
    recorder.broken.add("thaw_host")
    other = subprocess.Popen((sys.executable, "-S", "-c", "import time; time.sleep(900)"))
    try:
        Holder(stage, other.pid).write(-1.0)
        assert Watch(stage, files).look()
        assert other.wait(30) == -signal.SIGKILL
    finally:
        other.kill()
        other.wait()
