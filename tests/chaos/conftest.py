"""A small stack that really stands: two workers, a witness, five agents; made once for all live tests."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from chaos.stage import Stage
from infra.hostd_api import HostdApi
from infra.plan import Environment, StackPlan, plan
from infra.substrates.process import ProcessSubstrate
from infra.topology import AgentSpec, Criticality, Fleet, HostRole, HostSpec, ModelSpec

LEFT_OUT = ("prometheus", "alertmanager")
"""Not needed here, and slow to start on a busy machine."""

HOSTS = (HostSpec(name="a"), HostSpec(name="b"), HostSpec(name="w", role=HostRole.WITNESS))
_numbers = itertools.count()


def agent(name: str, home: str, **changes: object) -> AgentSpec:
    spec = AgentSpec(name=name, home=home, category="core", handler="services.agent.reference:ReferenceAgent")
    return msgspec.structs.replace(spec, **changes)


FLEET = Fleet(
    name="small",
    hosts=HOSTS,
    agents=(
        agent("one", "a"),
        agent("two", "a", criticality=Criticality.CRITICAL),
        agent("three", "a"),
        agent("four", "b"),
        agent(
            "five",
            "b",
            handler="services.agent.reference:ModelAgent",
            model=ModelSpec(name="tiny", vram_mb=10),
        ),
    ),
)


def make_environment(folder: Path, **changes: object) -> Environment:
    number = next(_numbers)
    settings: dict[str, object] = {
        "stack": f"c{os.getpid()}-{number}",
        "chaos": True,
        "chaos_hosts": 2,
        "fleet": "",
        "state_dir": str(folder),
        "network": os.environ.get("THREENINES_TEST_NETWORK", "auto"),
        "subnet_index": 10 + (os.getpid() * 3 + number) % 110,
    }
    return Environment(**(settings | changes))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Standing:
    """A stack that stands."""

    environment: Environment
    fleet: Fleet

    def stage(self) -> Stage:
        return small(Stage(self.environment, fleet=self.fleet))


def small(stage: Stage) -> Stage:
    """A stage whose plan has no more than what was started."""
    full = plan(stage.fleet, stage.environment)
    units = tuple(unit for unit in full.units if unit.name not in LEFT_OUT)
    stage.plan = StackPlan(environment=stage.environment, hosts=full.hosts, units=units, agents=full.agents)
    return stage


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standing]:
    yield from stand(tmp_path_factory.mktemp("chaos"))


def stand(folder: Path) -> Iterator[Standing]:
    """Brings the stack up, hands it out once, and takes it away."""
    environment = make_environment(folder / "state")
    substrate = ProcessSubstrate(environment)
    stage = small(Stage(environment, substrate=substrate, fleet=FLEET))
    try:
        for host in FLEET.hosts:
            substrate.create_host(host)
        for unit in stage.plan.units:
            ready = msgspec.structs.replace(unit.ready, timeout_s=60.0)
            substrate.create_unit(msgspec.structs.replace(unit, ready=ready))
        for spec in FLEET.agents:
            address, credentials = substrate.address(spec.home), substrate.credentials()
            with HostdApi(spec.home, address, credentials, timeout_s=40.0) as api:
                api.put_agent(spec, wait_s=30.0)
        yield Standing(environment, FLEET)
    finally:
        stage.close()
        for host in FLEET.hosts:
            substrate.delete_host(host.name)
        substrate.sweep()
