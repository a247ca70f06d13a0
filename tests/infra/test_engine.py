"""The real engine over a fake substrate, through the Automation API."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import psutil
import pytest

from infra import automation
from infra.automation import DeploymentError, Progress, StackBusy, StepKind
from infra.plan import Environment
from infra.project import Layout
from infra.topology import TopologyError
from tests.infra.conftest import World

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.slow, pytest.mark.timeout(300)]

ALL = 3 + 7 + 1 + 5
"""Hosts, units, the roster, agents of the small stack."""


def test_life_of_a_stack(world: World) -> None:
    """Up, up again, drift, one agent changed, one moved, one removed, down."""
    events: list[Progress] = []
    made = automation.up(world.environment, events.append)
    assert len(made.changed["create"]) == ALL
    assert made.same == 0
    assert made.hosts.keys() == {"mainpc", "pc2", "witness"}
    assert made.hostd == {name: f"https://{made.hosts[name]}:7701" for name in ("mainpc", "pc2")}
    assert [event for event in events if event.kind is StepKind.DONE][-1].done == ALL
    assert all(event.total == ALL for event in events)
    calls = world.calls()
    first_hostd = next(i for i, call in enumerate(calls) if call.endswith("/hostd"))
    assert {call for call in calls[:first_hostd] if call.endswith("/etcd")} == {
        f"create_unit {host}/etcd" for host in ("mainpc", "pc2", "witness")
    }
    assert len(world.changes()) == 5

    again = automation.up(world.environment)
    assert (again.changed, again.same) == ({}, ALL)
    assert world.calls() == world.changes() == []

    world.substrate.stop_unit("pc2", "etcd")
    world.calls()
    assert automation.refresh(world.environment).changed == {"update": ("unit-pc2-etcd",)}
    assert automation.preview(world.environment).changed == {"update": ("unit-pc2-etcd",)}
    assert world.calls() == []
    assert automation.up(world.environment).changed == {"update": ("unit-pc2-etcd",)}
    assert world.calls() == ["start_unit pc2/etcd"]

    name = world.agent("mainpc").name
    world.edit_agent(name, description="another")
    assert automation.up(world.environment).changed == {"update": (f"agent-{name}",)}
    assert world.changes() == [f"PUT {name}"]

    moved = world.agent("pc2").name
    world.edit_agent(moved, home="mainpc", standby="pc2")
    changed = automation.up(world.environment).changed
    assert {names for step, names in changed.items() if "create" in step} == {(f"agent-{moved}",)}
    assert world.changes() == [f"DELETE {moved}", f"PUT {moved}"]
    assert moved in world.hostds["mainpc"].definitions
    assert moved not in world.hostds["pc2"].definitions

    gone = next(
        a.name for a in world.fleet.agents if not any(a.name in b.depends_on for b in world.fleet.agents)
    )
    world.write(
        msgspec.structs.replace(world.fleet, agents=tuple(a for a in world.fleet.agents if a.name != gone))
    )
    changed = automation.up(world.environment).changed
    assert changed == {"delete": (f"agent-{gone}",), "update": ("roster",)}
    assert world.changes() == [f"DELETE {gone}"]
    assert world.calls() == []

    assert automation.down(world.environment) == ()
    # A host takes what is on it along.
    assert sorted(world.calls()) == [f"delete_host {host}" for host in ("mainpc", "pc2", "witness")]
    assert world.changes() == []


def test_an_agent_of_another_manifest_is_drift_and_goes_before_agents_start(world: World) -> None:
    stranger = {"name": "stranger", "home": "mainpc"}
    world.hostds["mainpc"].definitions["stranger"] = dict(stranger)  # what etcd kept of an earlier life
    automation.up(world.environment)
    told = [change for change in world.hostds["mainpc"].changes if "PUT" in change or "DELETE" in change]
    assert told[0] == "DELETE stranger"
    world.changes()
    world.hostds["mainpc"].definitions["stranger"] = dict(stranger)
    assert automation.refresh(world.environment).changed == {"update": ("roster",)}
    assert world.changes() == []
    assert automation.up(world.environment).changed == {"update": ("roster",)}
    assert world.changes() == ["DELETE stranger"]


def test_what_vanished_is_made_again(world: World) -> None:
    automation.up(world.environment)
    world.calls()
    world.changes()
    name = world.agent("mainpc").name
    del world.hostds["mainpc"].definitions[name]
    world.hostds["mainpc"].states[world.fleet.agents[1].name] = "unhealthy"
    world.substrate.delete_host("witness")
    world.calls()
    changed = automation.up(world.environment).changed
    made = {name for names in changed.values() for name in names}
    assert made >= {f"agent-{name}", "host-witness", "unit-witness-etcd"}
    assert sorted(world.calls()) == ["create_host witness", "create_unit witness/etcd"]
    assert world.changes() == [f"PUT {name}"]
    with world.substrate.edit() as content:
        content["hosts"]["pc2"]["running"] = False
    assert automation.up(world.environment).changed == {"update": ("host-pc2",)}
    assert world.calls() == ["restart_host pc2"]


def test_state_holds_no_key_and_the_passphrase_is_private(world: World) -> None:
    automation.up(world.environment)
    layout = Layout(world.environment)
    assert layout.passphrase.stat().st_mode & 0o777 == 0o600
    assert layout.root.stat().st_mode & 0o777 == 0o700
    text = layout.checkpoint.read_text()
    resources = json.loads(text)["checkpoint"]["latest"]["resources"]
    assert len(resources) == ALL + 2
    assert "PRIVATE" not in text
    assert layout.passphrase.read_text() not in text


def test_a_unit_that_does_not_come_up_is_one_clear_line(world: World) -> None:
    with world.substrate.edit() as content:
        content["broken"] = "pc2/zygote"
    with pytest.raises(DeploymentError) as caught:
        automation.up(world.environment)
    (problem,) = caught.value.problems
    assert str(problem) == "pc2/zygote: did not become ready within 10 s; read its log"
    with world.substrate.edit() as content:
        del content["broken"]
    assert "unit-pc2-zygote" in automation.up(world.environment).changed["create"]


def test_an_agent_that_is_refused_is_one_clear_line(world: World) -> None:
    name = world.agent("pc2").name
    world.hostds["pc2"].refuse[name] = (422, {"error": {"code": "bad-request", "message": "no such handler"}})
    with pytest.raises(DeploymentError) as caught:
        automation.up(world.environment)
    (problem,) = caught.value.problems
    assert problem.where == "hostd on pc2"
    assert problem.what == f"PUT {name} was answered 422 bad-request: no such handler"


def test_a_wrong_manifest_stops_before_the_engine(world: World) -> None:
    world.edit_agent(world.agent("pc2").name, home="nowhere")
    with pytest.raises(TopologyError, match="no host 'nowhere'"):
        automation.up(world.environment)
    assert not Layout(world.environment).root.exists()


def test_a_second_up_names_the_first(world: World) -> None:
    fifo = world.substrate.folder / "fifo"
    os.mkfifo(fifo)
    with world.substrate.edit() as content:
        content["pause"] = str(fifo)
    first = threading.Thread(target=automation.up, args=(world.environment,))
    first.start()
    with fifo.open("wb"):  # opens when the first is inside a create
        with world.substrate.edit() as content:
            del content["pause"]
        with pytest.raises(StackBusy, match=f"is being changed by process {os.getpid()}"):
            automation.up(world.environment)
    _let_go(fifo, first)
    assert automation.up(world.environment).unchanged


def _let_go(fifo: Path, first: threading.Thread) -> None:
    """Opens the pipe for every create that still waits, until the deployment ends."""
    while first.is_alive():
        try:
            os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
        except OSError:
            first.join(0.05)


SCRIPT = """
import sys
import msgspec
import infra.units
from infra import automation
from infra.plan import Environment
from tests.infra.conftest import _units
infra.units.units_for = _units
automation.up(msgspec.json.decode(sys.argv[1], type=Environment))
"""


def test_a_killed_up_leaves_nothing_in_the_way(world: World) -> None:
    """SIGKILL to everything of a deployment while it creates: the next one goes on from there."""
    fifo = world.substrate.folder / "fifo"
    os.mkfifo(fifo)
    with world.substrate.edit() as content:
        content["pause"] = str(fifo)
    arguments = [sys.executable, "-c", SCRIPT, msgspec.json.encode(world.environment).decode()]
    process = subprocess.Popen(arguments, cwd=Path(__file__).resolve().parents[2], start_new_session=True)
    with fifo.open("wb"):
        family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
        engine = [p for p in family if p.name() == "pulumi"]
        assert engine
        for victim in [psutil.Process(process.pid), *engine]:
            victim.send_signal(signal.SIGKILL)
        process.wait()
        with world.substrate.edit() as content:
            del content["pause"]
        layout = Layout(world.environment)
        assert list(layout.locks.glob("*.json")), "the engine died without its lock: nothing is proved"
        # The provider sees that its engine has gone, and goes too.
        _, alive = psutil.wait_procs(family, timeout=20)
        assert not alive
    automation.up(world.environment)
    assert automation.up(world.environment).unchanged
    assert not list(layout.locks.glob("*.json"))
    automation.down(world.environment)


def test_down_without_the_engines_memory(world: World) -> None:
    automation.up(world.environment)
    shutil.rmtree(Layout(world.environment).root)
    assert automation.down(world.environment) == ("host mainpc", "host pc2", "host witness")
    with world.substrate.edit() as content:
        assert content["hosts"] == content["units"] == {}


def test_down_of_what_never_was(world: World, tmp_path: Path) -> None:
    environment: Environment = msgspec.structs.replace(world.environment, state_dir=str(tmp_path / "other"))
    assert automation.down(environment) == ()
