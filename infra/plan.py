"""From a fleet and an environment to everything that has to exist: hosts, units in start order, agents."""

from __future__ import annotations

import hashlib
from enum import StrEnum

import msgspec

from infra.topology import AgentSpec, Criticality, Fleet, HostSpec


class SubstrateKind(StrEnum):
    """Where hosts live: processes of this machine, or Docker engines."""

    PROCESS = "process"
    DOCKER = "docker"


class NetworkMode(StrEnum):
    """How the process substrate gives hosts addresses; `auto` takes namespaces when it may."""

    AUTO = "auto"
    NAMESPACE = "namespace"
    LOOPBACK = "loopback"


class ReadyKind(StrEnum):
    """How a unit is asked whether it serves: TCP connect, HTTPS 200, Unix connect, or not at all."""

    TCP = "tcp"
    HTTPS = "https"
    UNIX = "unix"
    NONE = "none"


class Environment(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One deployment of a fleet: which stack, on what, and whether faults may be injected.

    `fleet` and `state_dir` are absolute paths on the machine that runs the program.
    """

    stack: str
    substrate: str = SubstrateKind.PROCESS
    chaos: bool = False
    chaos_hosts: int = 1
    """How many hosts faults may disturb at one time."""
    chaos_agents_share: float = 1.0
    """The share of the fleet's agents that faults may disturb at one time."""
    chaos_criticality: Criticality = Criticality.CRITICAL
    """The highest criticality of agents that faults may disturb."""
    failover: bool = False
    """Whether the agents of a lost host move to their standby host (docs/failover.md)."""
    fleet: str
    state_dir: str
    network: str = NetworkMode.AUTO
    subnet_index: int = 0


class ReadyCheck(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a unit counts as started. `path` is an HTTP path (https) or a socket's path (unix)."""

    kind: ReadyKind = ReadyKind.NONE
    port: int | None = None
    path: str | None = None
    timeout_s: float = 10.0


class UnitSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A server on a host.

    `program` is a logical name ("etcd", "redis-server", "python"). `args`, `env`, `files` (relative name
    to content, in the unit's configuration folder) and `ready.path` carry placeholders that only the
    substrate resolves: {data} {config} {run} {pki} {address} {local} {address:pc2}.
    `keeps_children`: what the unit started outlives it (the zygote's agents) and shares its log.
    `nice`: how far it gives way to the host's other servers when the CPUs are full (0 to 19, nice(1)).
    """

    host: str
    name: str
    program: str
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    files: dict[str, str] = {}
    ready: ReadyCheck = ReadyCheck()
    stop_signal: str = "TERM"
    stop_timeout_s: float = 5.0
    keeps_children: bool = False
    nice: int = 0

    @property
    def sha256(self) -> str:
        """Fingerprint of the whole specification: equal exactly when nothing has to be replaced."""
        return hashlib.sha256(msgspec.json.encode(self, order="deterministic")).hexdigest()


class Roster(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The names of all agents of the stack, and the hosts whose hostd can be asked for them."""

    agents: tuple[str, ...]
    hosts: tuple[str, ...]


class StackPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that `up` makes. Units stand in start order."""

    environment: Environment
    hosts: tuple[HostSpec, ...]
    units: tuple[UnitSpec, ...]
    agents: tuple[AgentSpec, ...]

    @property
    def roster(self) -> Roster:
        """Which agents there are to be, and no others."""
        hosts = tuple(unit.host for unit in self.units if unit.name == "hostd")
        return Roster(agents=tuple(sorted(agent.name for agent in self.agents)), hosts=hosts)


def plan(fleet: Fleet, environment: Environment) -> StackPlan:
    """The plan of `fleet` in `environment`: pure, the same input gives the same plan."""
    from infra.units import START_ORDER, units_for

    units = [unit for host in fleet.hosts for unit in units_for(host, fleet, environment)]
    units.sort(key=lambda unit: START_ORDER.index(unit.name))  # stable: hosts keep their order
    return StackPlan(environment=environment, hosts=fleet.hosts, units=tuple(units), agents=fleet.agents)
