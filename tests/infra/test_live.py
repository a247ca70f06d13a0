"""A small fleet on the process substrate, with real servers, hostd and agents."""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec
import psutil
import pytest

from infra import automation
from infra.hostd_api import HostdApi
from infra.plan import Environment
from infra.project import Layout
from infra.status import StackStatus, stack_status
from infra.substrates import open_substrate
from infra.synthetic import manifest_of, synthetic_fleet
from infra.topology import Fleet, HealthCheck, HealthKind

pytestmark = [pytest.mark.live, pytest.mark.usefixtures("engine"), pytest.mark.timeout(600)]


def fleet_of_five() -> Fleet:
    """Four agents of ours and one program of any kind."""
    fleet = synthetic_fleet(5, seed=1, commands=False)
    program = msgspec.structs.replace(
        fleet.agents[0],
        handler=None,
        model=None,
        command=("python", "-m", "services.agent.examples.http_echo"),
        port=8100,
        health=HealthCheck(kind=HealthKind.HTTP),
    )
    return msgspec.structs.replace(fleet, agents=(program, *fleet.agents[1:]))


@pytest.fixture
def environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Environment]:
    folder = tmp_path_factory.mktemp("live")
    fleet = folder / "fleet.yaml"
    fleet.write_bytes(manifest_of(fleet_of_five()))
    made = Environment(
        stack=f"live{os.getpid()}",
        failover=True,
        fleet=str(fleet),
        state_dir=str(folder / "state"),
        chaos=True,
        subnet_index=60 + os.getpid() % 60,
    )
    try:
        yield made
    finally:
        automation.down(made)
        shutil.rmtree(folder, ignore_errors=True)


def settled(environment: Environment, limit_s: float = 30.0) -> StackStatus:
    """The stack's status once all is well: a host that was late may have fenced itself for a moment."""
    deadline = time.monotonic() + limit_s
    while not (status := stack_status(environment)).well and time.monotonic() < deadline:
        time.sleep(0.1)
    return status


def processes_of(stack: str) -> list[psutil.Process]:
    """Every process that was started for the stack."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get("THREENINES_STACK") == stack:
                found.append(process)
        except psutil.Error:
            continue  # gone meanwhile, or another user's
    return found


def test_life_of_a_real_stack(environment: Environment) -> None:
    """Up, unchanged, a unit killed and one stopped, one agent changed, down with nothing left."""
    fleet = fleet_of_five()
    made = automation.up(environment)
    assert len([name for name in made.changed["create"] if name.startswith("agent-")]) == 5
    status = settled(environment)
    assert status.well, status
    before = {line.name: line.incarnation for line in status.agents}

    again = automation.up(environment)
    assert again.changed == {}
    assert again.same == len(made.changed["create"])

    substrate = open_substrate(environment)
    killed = substrate.inspect_unit("pc2", "redis")
    assert killed is not None
    substrate.signal("pc2", "redis", "KILL")
    substrate.stop_unit("mainpc", "alertmanager")
    drift = automation.refresh(environment).changed["update"]
    assert {"unit-pc2-redis", "unit-mainpc-alertmanager"} <= set(drift)
    # Only units that were disturbed: etcd's or hostd's clients do not restart because of it.
    assert {name for name in drift if not name.endswith(("redis", "alertmanager"))} == set()
    assert "unit-mainpc-alertmanager" in automation.up(environment).changed["update"]
    assert settled(environment).well

    changed = fleet.agents[1]
    agents = tuple(
        msgspec.structs.replace(agent, settings={"work_us": 77}) if agent == changed else agent
        for agent in fleet.agents
    )
    Path(environment.fleet).write_bytes(manifest_of(msgspec.structs.replace(fleet, agents=agents)))
    assert automation.preview(environment).changed == {"update": (f"agent-{changed.name}",)}
    assert automation.up(environment).changed == {"update": (f"agent-{changed.name}",)}
    status = settled(environment)
    assert status.well, status
    after = {line.name: line.incarnation for line in status.agents}
    # A program is ended where its host could not renew its lease in time: that may happen on a slow machine.
    programs = {agent.name for agent in fleet.agents if agent.command is not None}
    assert {name for name in after if after[name] != before[name]} - programs == {changed.name}
    host = changed.home
    with HostdApi(host, substrate.address(host), substrate.credentials()) as api:
        view = api.agent(changed.name)
    assert view is not None
    assert view.definition == agents[1]

    text = Layout(environment).checkpoint.read_text()
    assert not re.search("PRIVATE KEY", text)
    assert automation.down(environment) == ()
    assert processes_of(environment.stack) == []
    assert stack_status(environment).absent

    # etcd kept the definitions; a manifest that names fewer agents gets no others.
    needed = {name for agent in agents for name in agent.depends_on}
    gone = next(agent.name for agent in agents if agent.name not in needed)
    fewer = tuple(agent for agent in agents if agent.name != gone)
    Path(environment.fleet).write_bytes(manifest_of(msgspec.structs.replace(fleet, agents=fewer)))
    automation.up(environment)
    with HostdApi("pc2", substrate.address("pc2"), substrate.credentials()) as api:
        assert set(api.definitions().homes) == {agent.name for agent in fewer}
    assert automation.down(environment) == ()
    substrate.close()
