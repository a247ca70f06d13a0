"""The registry's records, as they stand in etcd (JSON) and in the discovery snapshot (msgpack).

Unknown fields are ignored, so that an older reader understands the records of a newer writer.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec

from infra.topology import Criticality


class InstanceState(StrEnum):
    """What hostd last found out about an instance. Only `UP` stands in the default answers."""

    STARTING = "starting"
    UP = "up"
    UNHEALTHY = "unhealthy"
    DOWN = "down"
    DRAINING = "draining"
    STANDBY = "standby"
    """It runs and would be promoted; it refuses calls until then."""


class Role(StrEnum):
    PRIMARY = "primary"
    STANDBY = "standby"


class Transport(StrEnum):
    """How an instance is called: framed msgpack on its Unix socket, or a port of its host."""

    UNIX = "unix"
    HTTP = "http"
    TCP = "tcp"


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One running (or formerly running) incarnation of an agent on one host."""

    name: str
    host: str
    incarnation: int
    state: InstanceState
    role: Role = Role.PRIMARY
    transport: Transport = Transport.UNIX
    port: int | None = None
    category: str = ""
    criticality: Criticality = Criticality.STANDARD
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    methods: tuple[str, ...] = ()
    idempotent: tuple[str, ...] = ()
    """Those of `methods` that may be called again after an indeterminate outcome."""
    epoch: int = 0
    since_ns: int = 0
    """When the state began: `CLOCK_BOOTTIME` of the instance's host, comparable on that host alone."""


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """All instances that one name has, in any state, ordered by host."""

    name: str
    instances: tuple[Instance, ...]


class Resolution(msgspec.Struct, frozen=True, kw_only=True):
    """The answer to a look-up, best instance first; `instances` is empty when nobody may be asked now."""

    name: str
    revision: int
    """etcd revision of the view that answered."""
    generation: int
    """Number of the snapshot that answered; grows by one with each publication on this host."""
    stale: bool
    """Nobody has confirmed the view lately (hostd or etcd is away): probably right, possibly old."""
    age_ms: float
    """Milliseconds since the view was last confirmed."""
    instances: tuple[Instance, ...]


class HostRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A host's sign of life and its claim to act: renewed every 200 ms, see `store.renew_host`."""

    host: str
    boot_id: str
    epoch: int
    seq: int
    address: str


class UnknownAgent(KeyError):
    """No instance of that name is registered, in whatever state."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.name = name

    def __str__(self) -> str:
        return f"no agent {self.name!r} is registered"


class SnapshotError(Exception):
    """The snapshot cannot be used; says where, what is wrong, and the mend."""

    def __init__(self, where: str, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}; {mend}")
        self.where = where
        self.what = what
        self.mend = mend
