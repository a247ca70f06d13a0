"""A campaign that is killed in the middle of a fault: within ten seconds all is as before."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Iterator

import pytest

from chaos import messages as m
from chaos.fault import Proof
from chaos.files import files_of
from chaos.guard import guard_pid
from chaos.healing import leftovers, restored
from chaos.ledger import Ledger
from chaos.stage import Stage, Target
from chaos.undo import AnyUndo, Behave, BootHost, Continue, MendLinks
from tests.chaos import conftest
from tests.chaos.conftest import FLEET, Standing
from tests.chaos.killing import LIMIT_S, launched
from verification.campaigns.host_faults import KINDS

pytestmark = [pytest.mark.live, pytest.mark.timeout(300)]
standing = conftest.standing

PATIENCE_S = 60.0
ENDING = ("host-kill", "witness-kill", "both-restart")
"""The host has to start again: begun in time, whole when its servers are."""
FAULTS = ("host-kill", "host-freeze", "host-cut", "link-cut", "witness-kill", "hostd-freeze", "both-restart")
OF_AGENTS = ("hang", "errors", "slow")


@pytest.fixture
def stage(standing: Standing) -> Iterator[Stage]:
    stage = standing.stage()
    yield stage
    stage.close()


def whole(stage: Stage) -> Proof:
    """Every host runs with all its units and reaches the others, every agent is served."""
    names = [host.name for host in FLEET.hosts]
    agents = len(FLEET.agents)
    undos: list[AnyUndo] = [BootHost(host=name, agents_up=agents) for name in names]
    undos += [MendLinks(host=name, peers=tuple(set(names) - {name})) for name in names]
    undos += [Continue(host=name, what="hostd") for name in ("a", "b")]
    undos.append(Behave(host="a", agent="one"))
    proofs = restored(stage, undos)
    return Proof(
        all(proof.holds for proof in proofs), tuple(measure for proof in proofs for measure in proof.measures)
    )


def start(standing: Standing, name: str) -> subprocess.Popen[bytes]:
    """A campaign that has just broken something."""
    return launched(standing, "tests.verification.covering", "broken", name)


def broken(stage: Stage, name: str) -> bool:
    """Whether the fault is on, looked at from outside."""
    if name == "hang":
        view = stage.process(Target("a", "agent/one"))
        return view is not None and view.stopped
    if name in OF_AGENTS:
        body = '{"key":"probe"}'
        call = m.Call(agent="one", method="recall", body=body, timeout_ms=500)
        return stage.ask("a", call, m.CallView).outcome != "ok"
    if name == "hostd-freeze":
        view = stage.process(Target("b", "hostd"))
        return view is not None and view.stopped
    if name in ENDING:
        state = stage.substrate.inspect_host("w" if name == "witness-kill" else "b")
        return state is not None and not state.running
    return bool(leftovers(stage))


@pytest.mark.parametrize("name", [*FAULTS, *OF_AGENTS])
def test_a_killed_campaign_leaves_nothing(standing: Standing, stage: Stage, name: str) -> None:
    kind = KINDS.get(name)
    if kind is not None and kind.needs is not None and kind.needs not in stage.substrate.capabilities():
        pytest.skip(f"this substrate cannot do {kind.needs}")
    before = whole(stage)
    assert before.holds, before
    files = files_of(standing.environment)
    ledger = Ledger(files.ledger)
    program = start(standing, name)
    try:
        assert [entry.fault for entry in ledger.read().open] == [name]
        if name != "hang":  # hostd may have replaced it by now: it is alive
            assert broken(stage, name)
        program.send_signal(signal.SIGKILL)
        begin = time.monotonic()
    finally:
        program.kill()
        program.wait()
    while (ledger.read().open or broken(stage, name)) and time.monotonic() - begin < PATIENCE_S:
        time.sleep(0.05)
    took_s = time.monotonic() - begin
    contents = ledger.read()
    assert not contents.open, files.guard_log.read_text(encoding="utf-8")
    assert contents.healed[-1].by == "guard"
    assert took_s <= LIMIT_S
    after = whole(stage)
    assert after.holds, after
    assert leftovers(stage) == ()  # asked of Toxiproxy too, which a host that was killed has to start again
    print(f"{name}: undone {took_s:.2f} s, whole {time.monotonic() - begin:.2f} s after the kill")
    assert stage.until(lambda: Proof(guard_pid(files) is None), PATIENCE_S).holds
