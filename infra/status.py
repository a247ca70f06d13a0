"""What of a stack is there: hosts and units by the substrate, agents by hostd. Looks, and changes nothing."""

from __future__ import annotations

import msgspec

from infra import substrates
from infra.hostd_api import HostdApi, HostdError, InstanceView
from infra.plan import Environment, StackPlan, plan
from infra.substrates.base import Substrate, SubstrateError
from infra.topology import load_fleet

STATUS_TIMEOUT_S = 3.0


class HostLine(msgspec.Struct, frozen=True, kw_only=True):
    """A host of the plan; `state` is "up", "down" or "missing"."""

    name: str
    role: str
    state: str
    address: str | None


class UnitLine(msgspec.Struct, frozen=True, kw_only=True):
    """A unit of the plan; `state` as for a host."""

    host: str
    name: str
    state: str
    detail: str


class AgentLine(msgspec.Struct, frozen=True, kw_only=True):
    """An agent of the plan; `state` is the registry's word, "missing" when the registry has none."""

    name: str
    home: str
    host: str | None
    state: str
    criticality: str
    category: str
    incarnation: int | None


class StackStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A whole stack. `agents_from` is the host whose hostd was asked; None when none answered."""

    stack: str
    hosts: tuple[HostLine, ...]
    units: tuple[UnitLine, ...]
    agents: tuple[AgentLine, ...]
    agents_from: str | None
    agents_stale: bool

    @property
    def well(self) -> bool:
        """Whether everything that the plan wants is up."""
        states = [line.state for line in self.hosts]
        states += [line.state for line in self.units]
        states += [line.state for line in self.agents]
        return set(states) <= {"up"} and not self.agents_stale

    @property
    def absent(self) -> bool:
        """Whether nothing of the stack is there."""
        return all(host.state == "missing" for host in self.hosts)


def stack_status(environment: Environment) -> StackStatus:
    """Asks the substrate and the first hostd that answers.

    Raises TopologyError for a wrong manifest, SubstrateError when the substrate cannot be asked.
    """
    stack_plan = plan(load_fleet(environment.fleet), environment)
    substrate = substrates.open_substrate(environment)
    try:
        hosts = tuple(_host(stack_plan, substrate))
        present = {host.name for host in hosts if host.state != "missing"}
        units = tuple(_unit(unit.host, unit.name, substrate, present) for unit in stack_plan.units)
        asked, instances, stale = _instances(stack_plan, substrate, hosts)
    finally:
        substrate.close()
    return StackStatus(
        stack=environment.stack,
        hosts=hosts,
        units=units,
        agents=tuple(_agents(stack_plan, instances, asked is not None)),
        agents_from=asked,
        agents_stale=stale,
    )


def _host(stack_plan: StackPlan, substrate: Substrate) -> list[HostLine]:
    lines = []
    for spec in stack_plan.hosts:
        found = substrate.inspect_host(spec.name)
        state = "missing" if found is None else "up" if found.running else "down"
        address = None if found is None else found.address
        lines.append(HostLine(name=spec.name, role=spec.role.value, state=state, address=address))
    return lines


def _unit(host: str, name: str, substrate: Substrate, present: set[str]) -> UnitLine:
    found = substrate.inspect_unit(host, name) if host in present else None
    if found is None:
        return UnitLine(host=host, name=name, state="missing", detail="")
    return UnitLine(host=host, name=name, state="up" if found.running else "down", detail=found.detail)


def _instances(
    stack_plan: StackPlan, substrate: Substrate, hosts: tuple[HostLine, ...]
) -> tuple[str | None, tuple[InstanceView, ...], bool]:
    running = {host.name for host in hosts if host.state == "up"}
    for unit in stack_plan.units:
        if unit.name != "hostd" or unit.host not in running:
            continue
        try:
            address, credentials = substrate.address(unit.host), substrate.credentials()
            with HostdApi(unit.host, address, credentials, timeout_s=STATUS_TIMEOUT_S) as api:
                view = api.agents()
        except (HostdError, SubstrateError):
            continue  # the next host's hostd knows the whole stack as well
        return unit.host, view.agents, view.stale
    return None, (), False


def _agents(stack_plan: StackPlan, instances: tuple[InstanceView, ...], asked: bool) -> list[AgentLine]:
    best: dict[str, InstanceView] = {}
    for instance in instances:
        known = best.get(instance.name)
        if known is None or (instance.state == "up", instance.role) > (known.state == "up", known.role):
            best[instance.name] = instance
    lines = []
    for agent in stack_plan.agents:
        found = best.get(agent.name)
        state = found.state if found is not None else "missing" if asked else "unknown"
        lines.append(
            AgentLine(
                name=agent.name,
                home=agent.home,
                host=None if found is None else found.host,
                state=state,
                criticality=agent.criticality.value,
                category=agent.category,
                incarnation=None if found is None else found.incarnation,
            )
        )
    return lines
