"""Hosts with small units of our own: quick, in both networks."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from infra.plan import Environment, ReadyCheck, ReadyKind, UnitSpec
from infra.substrates.base import SubstrateError
from infra.substrates.census import identify, wait_gone
from infra.substrates.process import ProcessSubstrate
from infra.topology import HostSpec
from tests.substrate import traces
from tests.substrate.conftest import MakeEnvironment

pytestmark = pytest.mark.live

Open = Callable[[Environment], ProcessSubstrate]

SERVE = "import socket, sys, time; s = socket.create_server((sys.argv[1], int(sys.argv[2]))); time.sleep(900)"
TELL = (
    "import json, os; ours = {k: v for k, v in os.environ.items() if k.startswith('THREENINES_')};"
    "print(json.dumps([ours, open('/proc/net/fib_trie').read()]))"
)


def server(host: str, name: str = "echo", port: int = 7001, **changes: object) -> UnitSpec:
    unit = UnitSpec(
        host=host,
        name=name,
        program="python",
        args=("-S", "-c", SERVE, "{local}", str(port)),
        ready=ReadyCheck(kind=ReadyKind.TCP, port=port, timeout_s=20.0),
    )
    return msgspec.structs.replace(unit, **changes)


def test_a_host_lives_dies_and_comes_back(
    network: str, make_environment: MakeEnvironment, opened: Open
) -> None:
    environment = make_environment(network)
    substrate = opened(environment)
    assert substrate.inspect_host("a") is None
    state = substrate.create_host(HostSpec(name="a"))
    assert state.running
    assert substrate.address("a") == state.address
    assert substrate.create_host(HostSpec(name="a")) == state

    first = substrate.create_unit(server("a"))
    assert first.running
    assert first.spec_sha256 == server("a").sha256
    assert substrate.create_unit(server("a")) == first
    assert substrate.inspect_unit("a", "echo") == first
    assert substrate.inspect_unit("a", "other") is None

    changed = substrate.create_unit(server("a", port=7002))
    assert changed.instance != first.instance
    assert changed.spec_sha256 != first.spec_sha256

    substrate.kill_host("a")
    assert not traces.processes(environment.stack)
    dead = substrate.inspect_host("a")
    assert dead is not None
    assert not dead.running
    lost = substrate.inspect_unit("a", "echo")
    assert lost is not None
    assert (lost.running, lost.instance) == (False, "")
    with pytest.raises(SubstrateError, match="does not run"):
        substrate.create_unit(server("a", name="second", port=7003))

    substrate.restart_host("a")
    substrate.start_unit("a", "echo")
    back = substrate.inspect_unit("a", "echo")
    assert back is not None
    assert back.running
    assert back.instance not in ("", changed.instance)

    substrate.delete_host("a")
    assert substrate.inspect_host("a") is None
    assert traces.of(environment.stack) == {}
    substrate.delete_host("a")


def test_a_killed_unit_comes_back_as_another_instance(
    make_environment: MakeEnvironment, opened: Open
) -> None:
    substrate = opened(make_environment())
    substrate.create_host(HostSpec(name="a"))
    before = substrate.create_unit(server("a"))
    substrate.signal("a", "echo", "KILL")
    after = substrate.create_unit(server("a"))  # waits until it serves; starts nothing that runs
    assert after.running
    assert after.instance != before.instance

    substrate.stop_unit("a", "echo")
    stopped = substrate.inspect_unit("a", "echo")
    assert stopped is not None
    assert (stopped.running, stopped.instance) == (False, "")
    with pytest.raises(SubstrateError, match="does not run"):
        substrate.signal("a", "echo", "STOP")
    substrate.start_unit("a", "echo")
    substrate.delete_unit("a", "echo")
    assert substrate.inspect_unit("a", "echo") is None
    substrate.delete_unit("a", "echo")


def test_units_come_and_go_without_the_others(make_environment: MakeEnvironment, opened: Open) -> None:
    environment = make_environment()
    substrate = opened(environment)
    substrate.create_host(HostSpec(name="a"))
    specs = [server("a", name=f"u{i}", port=7100 + i) for i in range(4)]
    made: dict[str, str] = {}

    def create(spec: UnitSpec) -> None:
        made[spec.name] = ProcessSubstrate(environment).create_unit(spec).instance

    threads = [threading.Thread(target=create, args=(spec,)) for spec in specs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made.values())) == 4
    substrate.delete_unit("a", "u0")
    substrate.create_unit(server("a", name="u1", port=7201))
    for name in ("u2", "u3"):
        state = substrate.inspect_unit("a", name)
        assert state is not None
        assert state.instance == made[name]


def test_programs_run_on_the_host(network: str, make_environment: MakeEnvironment, opened: Open) -> None:
    environment = make_environment(network)
    substrate = opened(environment)
    substrate.create_host(HostSpec(name="a"))
    with substrate.spawn(
        "a", ["python", "-S", "-c", TELL], env={"EXTRA": "1"}, stdout=subprocess.PIPE
    ) as child:
        told, routes = json.loads(child.communicate()[0])
    assert child.returncode == 0
    assert told["THREENINES_STACK"] == environment.stack
    assert told["THREENINES_HOST"] == "a"
    assert told["THREENINES_ADDRESS"] == substrate.address("a")
    assert told["THREENINES_RUN"] == substrate.run_folder("a")
    assert (Path(told["THREENINES_PKI"]) / "host.pem").exists()
    assert (substrate.address("a") in routes) is (network == "namespace")

    asleep = substrate.spawn("a", ["sleep", "900"])
    substrate.kill_host("a")
    assert asleep.wait(10) == -signal.SIGKILL
    with pytest.raises(SubstrateError, match="no program"):
        substrate.spawn("a", ["no-such-program"])


def test_agents_are_signalled_by_their_pid_file(make_environment: MakeEnvironment, opened: Open) -> None:
    substrate = opened(make_environment())
    substrate.create_host(HostSpec(name="a"))
    with substrate.spawn("a", ["sleep", "900"]) as child:
        who = identify(child.pid)
        assert who is not None
        path = Path(substrate.run_folder("a")) / "agents" / "voice.pid"
        path.write_text(f"{who.pid} {who.starttime + 1}\n")
        with pytest.raises(SubstrateError, match="does not run"):
            substrate.signal("a", "agent/voice", "KILL")
        assert child.poll() is None
        path.write_text(f"{who.pid} {who.starttime}\n")
        substrate.signal("a", "agent/voice", "KILL")
        assert child.wait(10) == -signal.SIGKILL
    path.write_text("nonsense")
    for target, name, what in (
        ("agent/voice", "KILL", "cannot be read"),
        ("agent/none", "KILL", "does not run"),
        ("agent/voice", "NOSUCH", "no signal"),
        ("none", "KILL", "no such unit"),
    ):
        with pytest.raises(SubstrateError, match=what):
            substrate.signal("a", target, name)


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"program": "no-such-server"}, "no-such-server"),
        ({"args": ("-S", "-c", "raise SystemExit('cannot read the map')")}, "cannot read the map"),
        (
            {
                "args": ("-S", "-c", "import time; print('error: waiting', flush=True); time.sleep(900)"),
                "ready": ReadyCheck(kind=ReadyKind.TCP, port=7001, timeout_s=1.0),
            },
            "not ready in 1 s: port 7001 does not listen; its log says: error: waiting",
        ),
        ({"args": ("{address:nowhere}",)}, "no such host"),
    ],
    ids=["missing", "crashing", "mute", "unknown host"],
)
def test_a_unit_that_does_not_start_says_why(
    make_environment: MakeEnvironment, opened: Open, change: dict[str, object], what: str
) -> None:
    substrate = opened(make_environment())
    substrate.create_host(HostSpec(name="a"))
    with pytest.raises(SubstrateError, match=what) as caught:
        substrate.create_unit(server("a", **change))
    assert caught.value.where
    assert caught.value.mend
    state = substrate.inspect_unit("a", "echo")
    assert state is None or not state.running
    assert substrate.create_unit(server("a")).running


def test_a_busy_port_names_who_holds_it(make_environment: MakeEnvironment, opened: Open) -> None:
    substrate = opened(make_environment())
    address = substrate.create_host(HostSpec(name="a")).address
    with socket.create_server((address, 7001)), pytest.raises(SubstrateError) as caught:
        substrate.create_unit(server("a"))
    assert f"port 7001 of {address} is taken by process {os.getpid()}" in str(caught.value)
    assert substrate.create_unit(server("a")).running


def test_a_full_state_directory_is_said(
    make_environment: MakeEnvironment, opened: Open, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("a small disk needs root")
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)], check=True)
    substrate = opened(make_environment(state_dir=str(disk)))
    try:
        substrate.create_host(HostSpec(name="a"))
        with contextlib.suppress(OSError), (disk / "filler").open("wb", buffering=0) as file:
            while True:
                file.write(b"x" * 4096)
        with pytest.raises(SubstrateError, match="no space left"):
            substrate.create_unit(server("a", files={"big": "x" * 8192}))
        (disk / "filler").unlink()
        assert substrate.create_unit(server("a")).running
    finally:
        for path in disk.glob("filler"):
            path.unlink()
        substrate.delete_host("a")
        subprocess.run(["umount", str(disk)], check=True)


def test_decisions_hold_until_the_last_host_is_gone(make_environment: MakeEnvironment, opened: Open) -> None:
    environment = make_environment()
    substrate = opened(environment)
    substrate.create_host(HostSpec(name="a"))
    moved = msgspec.structs.replace(environment, subnet_index=(environment.subnet_index + 1) % 250)
    with pytest.raises(SubstrateError, match="bring it down"):
        ProcessSubstrate(moved).create_host(HostSpec(name="b"))
    substrate.delete_host("a")
    other = opened(moved)
    assert other.create_host(HostSpec(name="b")).address.endswith(".11")


def test_another_state_directory_is_not_touched(
    make_environment: MakeEnvironment, opened: Open, tmp_path: Path
) -> None:
    environment = make_environment()
    mine = opened(environment)
    mine.create_host(HostSpec(name="a"))
    theirs = ProcessSubstrate(msgspec.structs.replace(environment, state_dir=str(tmp_path / "theirs")))
    with pytest.raises(SubstrateError, match="runs from"):
        theirs.create_host(HostSpec(name="a"))
    assert theirs.sweep() == ()
    found = mine.inspect_host("a")
    assert found is not None
    assert found.running


MAKER = """
import os, signal, subprocess, sys
import msgspec
from infra.plan import Environment
from infra.substrates.process import ProcessSubstrate
from infra.topology import HostSpec
from tests.substrate.test_hosts import server
substrate = ProcessSubstrate(msgspec.json.decode(sys.argv[1], type=Environment))
substrate.create_host(HostSpec(name="a"))
substrate.create_unit(server("a"))
print(substrate.spawn("a", ["sleep", "900"], stdout=subprocess.DEVNULL).pid, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


def made_and_killed(environment: Environment) -> int:
    """Runs a session that makes a host, a unit and a program, and dies; returns the program's number."""
    done = subprocess.run(
        [sys.executable, "-c", MAKER, msgspec.json.encode(environment).decode()],
        stdout=subprocess.PIPE,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    return int(done.stdout)


def test_a_sweep_ends_what_a_dead_session_started_and_keeps_the_host(
    network: str, make_environment: MakeEnvironment, opened: Open
) -> None:
    environment = make_environment(network)
    substrate = opened(environment)
    program = made_and_killed(environment)
    before = substrate.inspect_unit("a", "echo")
    found = substrate.sweep()
    assert len(found) == 1
    assert f"({program})" in found[0]
    assert identify(program) is None
    assert substrate.inspect_unit("a", "echo") == before
    assert before is not None
    assert before.running
    assert substrate.sweep() == ()


def test_a_sweep_removes_a_host_that_is_not_on_record(
    network: str, make_environment: MakeEnvironment, opened: Open
) -> None:
    environment = make_environment(network)
    substrate = opened(environment)
    made_and_killed(environment)
    shutil.rmtree(environment.state_dir)
    assert traces.of(environment.stack)
    found = substrate.sweep()
    assert any("processes" in what for what in found)
    assert traces.of(environment.stack) == {}
    assert substrate.sweep() == ()


def test_a_host_whose_supervisor_died_starts_clean(make_environment: MakeEnvironment, opened: Open) -> None:
    environment = make_environment()
    substrate = opened(environment)
    substrate.create_host(HostSpec(name="a"))
    before = substrate.create_unit(server("a"))
    supervisor = int((Path(substrate.run_folder("a")) / "supervisor.pid").read_text())
    who = identify(supervisor)
    assert who is not None
    os.kill(supervisor, signal.SIGKILL)
    assert wait_gone([who], 10)
    found = substrate.sweep()
    assert found == ("a: 1 processes without a supervisor",)
    substrate.create_host(HostSpec(name="a"))
    after = substrate.create_unit(server("a"))
    assert after.running
    assert after.instance != before.instance


def test_logs(make_environment: MakeEnvironment, opened: Open) -> None:
    substrate = opened(make_environment())
    substrate.create_host(HostSpec(name="a"))
    chatty = server("a", args=("-S", "-c", f"print('hello', flush=True); {SERVE}", "{local}", "7001"))
    substrate.create_unit(chatty)
    assert "hello" in substrate.logs("a", "echo")
    assert "echo" in substrate.logs("a", "supervisor")
    with pytest.raises(SubstrateError, match="choose one of echo"):
        substrate.logs("a", "none")
