"""The providers' methods, and the client of hostd's API over real TLS."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from infra.hostd_api import HostdApi, HostdError, HostdUnavailable, HostdUnreachable
from infra.plan import UnitSpec
from infra.provider import AgentProvider, HostProvider, UnitProvider, served_state, to_text
from infra.substrates.base import SubstrateError
from infra.topology import HostSpec
from tests.infra.conftest import World

UNIT = UnitSpec(host="mainpc", name="etcd", program="etcd")


def props(world: World, spec: msgspec.Struct, **found: object) -> dict[str, Any]:
    return {"environment": to_text(world.environment), "spec": to_text(spec), **found}


def api(world: World, host: str, name: str | None = None) -> HostdApi:
    hostd = world.hostds[host]
    address = hostd.server.server_address[0]
    return HostdApi(name or host, str(address), world.substrate.credentials(), timeout_s=5.0)


def test_unit_life(world: World) -> None:
    world.substrate.create_host(HostSpec(name="mainpc"))
    provider, wanted = UnitProvider(), props(world, UNIT)
    made = provider.create(dict(wanted))
    assert made.id == "mainpc/etcd"
    assert made.outs["state"] == "up"
    assert provider.diff("", made.outs, wanted).changes is False
    world.substrate.stop_unit("mainpc", "etcd")
    read = provider.read("mainpc/etcd", made.outs)
    assert read.outs["state"] == "down"
    assert provider.diff("", read.outs, wanted).changes is True
    assert provider.update("", read.outs, wanted).outs["state"] == "up"
    assert world.calls()[-1] == "start_unit mainpc/etcd"
    changed = props(world, msgspec.structs.replace(UNIT, args=("--x",)))
    difference = provider.diff("", made.outs, changed)
    assert (difference.changes, difference.replaces) == (True, [])
    assert provider.update("", made.outs, changed).outs["sha256"] != made.outs["sha256"]
    # Somebody else's specification runs: the recorded one is not what is there.
    assert provider.diff("", {**made.outs, "sha256": "0"}, wanted).changes is True
    provider.delete("", made.outs)
    assert provider.read("", made.outs).id == ""


def test_host_life(world: World) -> None:
    provider, wanted = HostProvider(), props(world, HostSpec(name="pc2"))
    made = provider.create(dict(wanted))
    assert made.outs["address"] == world.hostds["pc2"].server.server_address[0]
    assert provider.diff("", made.outs, wanted).changes is False
    world.substrate.kill_host("pc2")
    read = provider.read("pc2", made.outs)
    assert provider.diff("", read.outs, wanted).changes is True
    assert provider.update("", read.outs, wanted).outs["state"] == "up"
    provider.delete("", made.outs)
    assert provider.read("", made.outs).id == ""
    assert provider.update("", read.outs, wanted).outs["state"] == "up"


@pytest.mark.parametrize("key", ["stack", "state_dir", "network", "subnet_index"])
def test_another_environment_is_another_resource(world: World, key: str) -> None:
    value: object = 5 if key == "subnet_index" else "loopback" if key == "network" else "/other"
    other = msgspec.structs.replace(world.environment, **{key: value})
    olds = props(world, UNIT, state="up", sha256=UNIT.sha256)
    difference = UnitProvider().diff("", olds, {**olds, "environment": to_text(other)})
    assert difference.replaces == ["environment"]
    assert difference.delete_before_replace is True


def test_another_fleet_is_the_same_resource(world: World) -> None:
    other = msgspec.structs.replace(world.environment, fleet="/other.yaml")
    olds = props(world, UNIT, state="up", sha256=UNIT.sha256)
    difference = UnitProvider().diff("", olds, {**olds, "environment": to_text(other)})
    assert (difference.changes, difference.replaces) == (True, [])


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 5}', '{"zz": 1}', None])
def test_check_refuses_what_is_not_ours(world: World, text: str | None) -> None:
    news = {**props(world, UNIT), "spec": text}
    failures = UnitProvider().check({}, news).failures
    assert [failure.property for failure in failures] == ["spec"]
    assert UnitProvider().check({}, props(world, UNIT)).failures == []


def test_agent_life(world: World) -> None:
    for host in world.fleet.hosts:
        world.substrate.create_host(host)
    agent = world.agent("mainpc")
    provider, wanted = AgentProvider(), props(world, agent)
    made = provider.create(dict(wanted))
    assert made.id == agent.name
    read = provider.read(agent.name, made.outs)
    assert read.outs == made.outs
    assert provider.diff("", read.outs, wanted).changes is False
    world.hostds["mainpc"].states[agent.name] = "unhealthy"
    ill = provider.read(agent.name, made.outs)
    assert ill.outs["state"] == "unhealthy"
    assert provider.diff("", ill.outs, wanted).changes is True
    # Another definition was put there by hand.
    world.hostds["mainpc"].definitions[agent.name]["memory_mb"] = 9
    assert provider.diff("", provider.read(agent.name, made.outs).outs, wanted).changes is True
    moved = props(world, msgspec.structs.replace(agent, home="pc2", standby="mainpc"))
    assert provider.diff("", made.outs, moved).replaces == ["spec"]
    provider.delete("", made.outs)
    provider.delete("", made.outs)
    assert provider.read(agent.name, made.outs).id == ""


def test_an_agent_whose_host_is_away_is_unknown_and_cannot_be_removed(world: World) -> None:
    """Taking it for gone would leave its definition in the registry."""
    agent = world.agent("mainpc")
    wanted = props(world, agent, state="up")
    assert AgentProvider().read(agent.name, wanted).outs["state"] == "unknown"
    with pytest.raises(HostdUnreachable):
        AgentProvider().delete("", wanted)
    world.substrate.create_host(HostSpec(name="mainpc"))
    world.hostds.pop("mainpc").close()
    assert AgentProvider().read(agent.name, wanted).outs["state"] == "unknown"
    with pytest.raises(HostdUnreachable, match="hostd on mainpc: does not answer"):
        AgentProvider().delete("", wanted)


def test_agent_that_does_not_come_up(world: World) -> None:
    world.substrate.create_host(HostSpec(name="mainpc"))
    agent = world.agent("mainpc")
    world.hostds["mainpc"].refuse[agent.name] = (200, {"name": agent.name, "state": "starting"})
    with pytest.raises(HostdError, match="is starting on mainpc, not up"):
        AgentProvider().create(props(world, agent))


def test_a_hostd_without_quorum_is_asked_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.substrate.create_host(HostSpec(name="mainpc"))
    agent, hostd = world.agent("mainpc"), world.hostds["mainpc"]
    hostd.refuse[agent.name] = (503, {"error": {"code": "unavailable", "message": "no quorum"}})
    pauses: list[float] = []

    def pause(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            del hostd.refuse[agent.name]

    monkeypatch.setattr("infra.provider.time.sleep", pause)
    assert AgentProvider().create(props(world, agent)).outs["state"] == "up"
    assert len(pauses) == 3
    assert hostd.changes == [f"PUT {agent.name}"]


def test_a_hostd_that_stays_without_quorum_is_told(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.substrate.create_host(HostSpec(name="mainpc"))
    agent = world.agent("mainpc")
    refusal = {"error": {"code": "unavailable", "message": "no quorum"}}
    world.hostds["mainpc"].refuse[agent.name] = (503, refusal)
    monkeypatch.setattr("infra.provider.RETRY_S", 0.0)
    with pytest.raises(HostdUnavailable, match="no quorum"):
        AgentProvider().create(props(world, agent))


def test_errors_of_the_substrate_pass_through(world: World) -> None:
    with world.substrate.edit() as content:
        content["broken"] = "mainpc/etcd"
    with pytest.raises(SubstrateError, match="mainpc/etcd: did not become ready"):
        UnitProvider().create(props(world, UNIT))


def test_hostd_must_prove_its_name(world: World) -> None:
    with api(world, "mainpc", name="pc2") as wrong, pytest.raises(HostdUnreachable, match="certificate"):
        wrong.agents()


def test_kept_connection_is_renewed_once(world: World) -> None:
    agent = world.agent("mainpc")
    with api(world, "mainpc") as client:
        client.put_agent(agent)
        assert client._connection.sock is not None
        client._connection.sock.close()  # what a restart of hostd leaves
        view = client.agent(agent.name)
        assert view is not None
        assert view.definition == agent
        assert [instance.name for instance in client.agents().agents] == [agent.name]


@pytest.mark.parametrize("answer", ["nonsense", [], {"agents": [5]}])
def test_answer_that_is_not_understood(world: World, answer: object) -> None:
    world.hostds["mainpc"].refuse[""] = (200, answer)  # type: ignore[assignment]
    with api(world, "mainpc") as client, pytest.raises(HostdError, match="not understood"):
        client.agents()


@pytest.mark.parametrize(
    ("states", "told"),
    [
        ({}, "down"),
        ({"mainpc": "up"}, "up"),
        ({"mainpc": "unhealthy", "pc2": "standby"}, "unhealthy"),
        ({"mainpc": "standby", "pc2": "up"}, "up"),
        ({"pc2": "up"}, "up"),
        ({"pc2": "standby"}, "down"),
    ],
)
def test_an_agent_that_its_standby_host_serves_is_no_drift(states: dict[str, str], told: str) -> None:
    assert served_state(states, "mainpc") == told
