"""A stack over the fake substrate: three hosts, some units, hostd's agents API on loopback addresses."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
import pytest

import infra.units
from infra.pki import Authority, Leaf
from infra.plan import Environment, UnitSpec
from infra.synthetic import manifest_of, synthetic_fleet
from infra.tools.paths import ToolMissing, tool_path
from infra.topology import AgentSpec, Fleet, HostSpec, Port
from tests.infra.fake_hostd import FakeHostd
from tests.infra.fake_substrate import FakeSubstrate, install

SITE = Path(__file__).parent / "fake_site"
UNITS = ("etcd", "zygote", "hostd")


@dataclass
class World:
    """One fake stack and the handles to change it behind the engine's back."""

    environment: Environment
    fleet: Fleet
    hostds: dict[str, FakeHostd] = field(default_factory=dict)

    @property
    def substrate(self) -> FakeSubstrate:
        return FakeSubstrate(self.environment)

    def write(self, fleet: Fleet) -> None:
        """Changes the manifest."""
        self.fleet = fleet
        Path(self.environment.fleet).write_bytes(manifest_of(fleet))

    def edit_agent(self, name: str, **changes: object) -> None:
        """Changes one agent of the manifest."""
        agents = tuple(
            msgspec.structs.replace(agent, **changes) if agent.name == name else agent
            for agent in self.fleet.agents
        )
        self.write(msgspec.structs.replace(self.fleet, agents=agents))

    def agent(self, home: str) -> AgentSpec:
        """Some agent of that home."""
        return next(agent for agent in self.fleet.agents if agent.home == home)

    def calls(self) -> list[str]:
        """What the substrate was told to do since the last question."""
        with self.substrate.edit() as world:
            calls, world["calls"] = world["calls"], []
        return list(calls)

    def changes(self) -> list[str]:
        """What the hostds were told to change since the last question."""
        found = sorted(change for hostd in self.hostds.values() for change in hostd.changes)
        for hostd in self.hostds.values():
            hostd.changes.clear()
        return found


@pytest.fixture
def engine() -> Path:
    """The engine's program; without it these tests cannot say anything."""
    try:
        return tool_path("pulumi")
    except ToolMissing as error:
        pytest.skip(str(error))


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """A stack of five agents over the fake substrate, in this process and in the engine's provider."""
    state = tmp_path / "state"
    environment = Environment(stack="local", fleet=str(tmp_path / "fleet.yaml"), state_dir=str(state))
    yield from make_world(environment, monkeypatch)


def make_world(environment: Environment, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    """Lays out the fake stack; stops its servers afterwards."""
    install(monkeypatch.setattr)
    monkeypatch.setattr(infra.units, "units_for", _units)
    monkeypatch.setenv("PYTHONPATH", str(SITE))
    for name in [name for name in os.environ if name.startswith("PULUMI_")]:
        monkeypatch.delenv(name)
    world = World(environment, synthetic_fleet(5, commands=False))
    world.write(world.fleet)
    pki = world.substrate.folder / "pki"
    pki.mkdir(mode=0o700)
    authority = Authority(pki, "test")
    authority.ensure()
    authority.ensure_leaf(
        Leaf(cert=pki / "operator.pem", key=pki / "operator.key"), "operator", ("operator",)
    )
    addresses = _addresses()
    with world.substrate.edit() as content:
        content["addresses"] = addresses
    try:
        for host in world.fleet.workers:
            world.hostds[host.name] = FakeHostd(host.name, addresses[host.name], int(Port.HOSTD), pki)
        yield world
    finally:
        for hostd in world.hostds.values():
            hostd.close()
        shutil.rmtree(environment.state_dir, ignore_errors=True)


def _units(host: HostSpec, fleet: Fleet, environment: Environment) -> tuple[UnitSpec, ...]:
    """Three small units a worker, one a witness."""
    names = UNITS if host in fleet.workers else UNITS[:1]
    return tuple(UnitSpec(host=host.name, name=name, program=name) for name in names)


def _addresses() -> dict[str, str]:
    """Loopback addresses that no other test run on this machine uses at the same time."""
    number = os.getpid() % 60_000
    base = f"127.{90 + number // 250 % 100}.{number % 250}"
    return {"mainpc": f"{base}.1", "pc2": f"{base}.2", "witness": f"{base}.3"}
