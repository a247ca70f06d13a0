"""Harnesses that are killed, held still, or whose tools hang: nothing of their faults stays."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from chaos.clearing import panic
from chaos.errors import LeaseLost, Refused
from chaos.fault import Proof
from chaos.files import files_of
from chaos.guard import guard_pid
from chaos.healing import leftovers
from chaos.lease import read_lease
from chaos.ledger import Ledger, boottime_ns
from chaos.parameters import make_fault
from chaos.session import Session
from chaos.stage import Stage
from infra.exclusive import Occupied
from infra.substrates.files import LOCK_PATIENCE_S
from tests.chaos import killing
from tests.chaos.conftest import Standing

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]

PATIENCE_S = 120.0
LATENCY = {"host": "a", "to": "etcd-b", "latency_ms": 150}


@pytest.fixture
def stage(standing: Standing) -> Iterator[Stage]:
    stage = standing.stage()
    yield stage
    stage.close()


@pytest.mark.parametrize("seed", range(5))
def test_a_killed_harness_leaves_nothing(standing: Standing, stage: Stage, seed: int) -> None:
    found = killing.kill_one(standing, stage, seed, latest_s=1.5, patience_s=PATIENCE_S)
    assert not found.left, found
    assert not found.not_as_before, found
    assert guard_pid(files_of(standing.environment)) is None


def test_a_harness_that_is_held_still_loses_its_lease(standing: Standing, stage: Stage) -> None:
    ledger = Ledger(files_of(standing.environment).ledger)
    program = killing.start(standing, 99)
    try:
        assert stage.until(lambda: _open(ledger, wanted=True), PATIENCE_S).holds
        program.send_signal(signal.SIGSTOP)
        assert stage.until(lambda: Proof(_run_out(stage)), PATIENCE_S).holds
        assert stage.until(lambda: _open(ledger, wanted=False), PATIENCE_S).holds, _said(stage)
        assert leftovers(stage) == ()
        program.send_signal(signal.SIGCONT)
        # It ends itself, or was ended because it stood still with a lock in its hands.
        assert program.wait(PATIENCE_S) in (9, -signal.SIGKILL)
    finally:
        program.kill()
        program.wait()
    assert stage.until(lambda: _open(ledger, wanted=False), PATIENCE_S).holds
    assert leftovers(stage) == ()


@pytest.mark.parametrize("healer", ["guard", "panic"])
def test_a_harness_that_stands_still_with_a_lock_is_ended(
    standing: Standing, stage: Stage, healer: str
) -> None:
    ledger = Ledger(files_of(standing.environment).ledger)
    program = killing.start(standing, 0, "holding")
    try:
        if healer == "panic":
            panic(stage)
            assert not ledger.read().open
        assert stage.until(lambda: _open(ledger, wanted=False), LOCK_PATIENCE_S / 2).holds, _said(stage)
        assert program.wait(PATIENCE_S) == -signal.SIGKILL
    finally:
        program.kill()
        program.wait()
    assert leftovers(stage) == ()


@pytest.mark.parametrize(
    ("name", "given", "server", "word"),
    [
        ("link-latency", LATENCY, "toxiproxy", "STOP"),
        ("link-latency", LATENCY, "toxiproxy", "KILL"),
        ("database-errors", {"host": "a"}, "redis", "KILL"),
    ],
)
def test_a_server_that_hangs_or_vanishes_holds_up_nobody(
    standing: Standing, stage: Stage, name: str, given: dict[str, object], server: str, word: str
) -> None:
    with Session.open(standing.environment, fleet=standing.fleet, stage=standing.stage()) as session:
        active = session.begin(make_fault(name, given))
        assert active.effect.holds
        session.stage.substrate.signal("a", server, word)
        outcome = session.end(active)
    assert outcome.whole, outcome
    assert leftovers(stage) == ()


def test_two_harnesses_cannot_run_and_faults_do_not_overlap(standing: Standing, stage: Stage) -> None:
    with Session.open(standing.environment, fleet=standing.fleet, stage=standing.stage()) as session:
        with pytest.raises(Occupied, match=rf"process {os.getpid()} \(chaos run\)"):
            Session.open(standing.environment, fleet=standing.fleet, stage=standing.stage())
        session.begin(make_fault("link-latency", LATENCY))
        with pytest.raises(Refused, match=r"link-latency .* is on way/a/etcd-b"):
            session.begin(make_fault("link-down", {"host": "a", "to": "etcd-b"}))
        session.begin(make_fault("link-latency", LATENCY | {"host": "b", "to": "etcd-a"}))
        with pytest.raises(Refused, match="3 hosts would be disturbed, at most 2 may"):
            session.begin(make_fault("cpu-burn", {"host": "w"}))
    assert leftovers(stage) == ()


def test_without_a_guard_the_next_start_sweeps_and_says_so(standing: Standing, stage: Stage) -> None:
    files = files_of(standing.environment)
    program = killing.start(standing, 7)
    ledger = Ledger(files.ledger)
    try:
        assert stage.until(lambda: _open(ledger, wanted=True), PATIENCE_S).holds
        program.send_signal(signal.SIGSTOP)  # its guard must not be started anew
        guard = guard_pid(files)
        assert guard is not None
        os.kill(guard, signal.SIGKILL)
    finally:
        program.kill()
        program.wait()
    left = [entry.fault for entry in ledger.read().open]
    with Session.open(standing.environment, fleet=standing.fleet, stage=standing.stage()) as session:
        assert [line.partition(": healed")[0] for line in session.swept] == [
            f"left by an earlier run: {fault}" for fault in left
        ]
    assert leftovers(stage) == ()


def test_panic_heals_under_a_running_harness(standing: Standing, stage: Stage) -> None:
    with Session.open(standing.environment, fleet=standing.fleet, stage=standing.stage()) as session:
        session.begin(make_fault("link-latency", LATENCY))
        stage.substrate.freeze_host("w")  # by hand: stands in no ledger
        found = panic(stage)
        assert "w: the host is frozen" in found
        # By us or by the guard, which sees at once that nobody holds a lease any more.
        assert Ledger(files_of(standing.environment).ledger).read().open == ()
        assert leftovers(stage) == ()
        with pytest.raises(LeaseLost):
            session.begin(make_fault("link-down", {"host": "b", "to": "etcd-a"}))
    assert leftovers(stage) == ()
    assert panic(stage) == ()


def _open(ledger: Ledger, *, wanted: bool) -> Proof:
    return Proof(bool(ledger.read().open) is wanted)


def _run_out(stage: Stage) -> bool:
    lease = read_lease(files_of(stage.environment).lease)
    return lease is None or boottime_ns() >= lease.deadline_ns


def _said(stage: Stage) -> str:
    return files_of(stage.environment).guard_log.read_text(encoding="utf-8")
