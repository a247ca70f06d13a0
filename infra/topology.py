"""The model of a fleet: hosts, agents, ports. Frozen data, validated once by `load_fleet`.

Every process of the stack imports this module, so it needs msgspec and the standard library alone;
reading and judging a manifest is `infra.manifest`, imported when `load_fleet` is called.
"""

from __future__ import annotations

from enum import IntEnum, StrEnum
from pathlib import Path

import msgspec

SCHEMA = "threenines.fleet/1"
NAME_PATTERN = r"[a-z][a-z0-9-]{0,62}"

Setting = int | float | str | bool


class Criticality(StrEnum):
    """How much an outage of the agent costs: decides TTLs, order of rollouts and observation times."""

    CRITICAL = "critical"
    STANDARD = "standard"
    UTILITY = "utility"


class HostRole(StrEnum):
    """A worker runs agents; a witness only votes."""

    WORKER = "worker"
    WITNESS = "witness"


class HealthKind(StrEnum):
    """How an agent is asked whether it is well: over its own socket, by HTTP, or by a TCP connect."""

    SDK = "sdk"
    HTTP = "http"
    TCP = "tcp"


class Port(IntEnum):
    """Ports of the base units, the same on every host because every host has its own address."""

    ETCD_CLIENT = 2379
    ETCD_PEER = 2380
    REDIS = 6379
    HOSTD_LOCAL = 7700
    HOSTD = 7701
    GATEWAY = 7710
    TOXIPROXY = 8474
    PROMETHEUS = 9090
    ALERTMANAGER = 9093
    ALERTMANAGER_CLUSTER = 9094


class ProxiedPort(IntEnum):
    """First port of the proxied ways to a service of each host: this plus the host's index in the fleet."""

    GATEWAY = 7720
    ETCD = 7800
    REDIS = 7870
    PROMETHEUS = 7940


class HealthCheck(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How often and how patiently an agent is checked; `path` counts for HTTP only."""

    kind: HealthKind = HealthKind.SDK
    path: str = "/health"
    interval_ms: int = 200
    timeout_ms: int = 150
    unhealthy_after: int = 2


class ModelSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The model that an agent keeps on a GPU. Models with the same `base` share weights."""

    name: str
    vram_mb: int
    base: str | None = None
    tokenizer: str | None = None


class AgentSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One agent. `handler` ("module:Class") and `command` exclude each other; a command has a port."""

    name: str
    home: str
    standby: str | None = None
    criticality: Criticality = Criticality.STANDARD
    category: str
    depends_on: tuple[str, ...] = ()
    handler: str | None = None
    command: tuple[str, ...] | None = None
    port: int | None = None
    health: HealthCheck = HealthCheck()
    tags: dict[str, str] = {}
    model: ModelSpec | None = None
    memory_mb: int | None = None
    settings: dict[str, Setting] = {}
    description: str = ""


class HostSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One host by name and role; its address is the substrate's business."""

    name: str
    role: HostRole = HostRole.WORKER


class Fleet(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A whole manifest."""

    schema: str = SCHEMA
    name: str
    hosts: tuple[HostSpec, ...]
    agents: tuple[AgentSpec, ...]

    def host(self, name: str) -> HostSpec:
        """The host called `name`. Raises KeyError."""
        for host in self.hosts:
            if host.name == name:
                return host
        raise KeyError(name)

    def agent(self, name: str) -> AgentSpec:
        """The agent called `name`. Raises KeyError."""
        for agent in self.agents:
            if agent.name == name:
                return agent
        raise KeyError(name)

    @property
    def workers(self) -> tuple[HostSpec, ...]:
        """The hosts that run agents, in the manifest's order."""
        return tuple(host for host in self.hosts if host.role is HostRole.WORKER)

    def proxied_port(self, service: ProxiedPort, host: str) -> int:
        """The local port of the proxied way to a service of `host`. Raises KeyError."""
        for index, candidate in enumerate(self.hosts):
            if candidate.name == host:
                return service + index
        raise KeyError(host)


class Problem(msgspec.Struct, frozen=True):
    """One thing wrong with a manifest: where ("fleet.yaml:12 agents[3].home"), what, and the mend."""

    where: str
    what: str
    mend: str

    def __str__(self) -> str:
        return f"{self.where}: {self.what}; {self.mend}"


class TopologyError(Exception):
    """A manifest that cannot be used, with everything that is wrong with it."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class ManifestUnreadable(TopologyError):
    """The manifest's bytes could not be had at all: no such file, a directory, no permission."""


def load_fleet(path: str | Path) -> Fleet:
    """Reads and validates the manifest at `path`.

    Raises ManifestUnreadable when the file cannot be read and TopologyError when it is wrong.
    """
    from infra.manifest import read_manifest

    return read_manifest(Path(path))
