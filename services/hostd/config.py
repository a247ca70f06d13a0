"""What hostd is told: one JSON document (docs/contracts.md, Host configuration). Unknown keys are ignored."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path

import msgspec

from infra.topology import Criticality, Port
from services.control.agent import Policy
from services.control.lease import LeasePolicy

SCHEMA = "threenines.host/1"
MS = 1_000_000


class ConfigError(Exception):
    """The configuration cannot be used: where, what, and the mend."""

    def __init__(self, where: str, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}; {mend}")
        self.where = where
        self.what = what
        self.mend = mend


class StackHost(msgspec.Struct, frozen=True, kw_only=True):
    """One host of the stack."""

    name: str
    role: str = "worker"
    index: int = 0
    address: str


class EtcdEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One member of etcd; `host` is the name in its certificate."""

    host: str
    url: str


class RedisEndpoint(msgspec.Struct, frozen=True, kw_only=True):
    """One Redis of the stack."""

    host: str
    address: str
    port: int = Port.REDIS
    role: str = "primary"


class Ports(msgspec.Struct, frozen=True, kw_only=True):
    """The ports of this host that hostd needs to know."""

    hostd: int = Port.HOSTD
    hostd_local: int = Port.HOSTD_LOCAL
    gateway: int = Port.GATEWAY


class LeaseConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Times of the host's record in milliseconds."""

    lease_ms: int = 1200
    margin_ms: int = 100
    renew_ms: int = 200
    deadline_ms: int = 150

    def policy(self) -> LeasePolicy:
        """The same in nanoseconds."""
        return LeasePolicy(
            lease_ns=self.lease_ms * MS,
            margin_ns=self.margin_ms * MS,
            renew_ns=self.renew_ms * MS,
            deadline_ns=self.deadline_ms * MS,
        )


class Supervision(msgspec.Struct, frozen=True, kw_only=True):
    """The host's patience with its agents in milliseconds; see `services.control.agent.Policy`."""

    start_timeout_ms: int = 10_000
    hang_grace_ms: int = 250
    stop_timeout_ms: int = 6_000
    crash_window_ms: int = 10_000
    crash_limit: int = 3
    backoff_base_ms: int = 500
    backoff_cap_ms: int = 30_000

    def policy(self) -> Policy:
        """The same in nanoseconds."""
        return Policy(
            start_timeout_ns=self.start_timeout_ms * MS,
            hang_grace_ns=self.hang_grace_ms * MS,
            stop_timeout_ns=self.stop_timeout_ms * MS,
            crash_window_ns=self.crash_window_ms * MS,
            crash_limit=self.crash_limit,
            backoff_base_ns=self.backoff_base_ms * MS,
            backoff_cap_ns=self.backoff_cap_ms * MS,
        )


class Readying(StrEnum):
    """How a standby agent waits: as a running process, or not at all."""

    WARM = "warm"
    COLD = "cold"


class OwnershipConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Times of ownership, and how agents of each criticality stand by. The same on all hosts."""

    standby: dict[Criticality, Readying] = msgspec.field(
        default_factory=lambda: {Criticality.UTILITY: Readying.COLD}
    )
    """By criticality; one that is not named stands by warm."""
    quiesce_ms: int = 5_000
    hold_down_ms: int = 30_000
    start_grace_ms: int = 5_000
    watchdog: bool = True

    def warm(self, criticality: Criticality) -> bool:
        """Whether an agent of that criticality waits as a running process."""
        return self.standby.get(criticality, Readying.WARM) is Readying.WARM


class HostConfig(msgspec.Struct, frozen=True, kw_only=True):
    """Everything hostd needs. `run`, `data` and `pki` are folders of this host."""

    schema: str = SCHEMA
    stack: str
    host: str
    role: str = "worker"
    address: str
    local: str = "127.0.0.1"
    run: str
    data: str
    pki: str
    chaos: bool = False
    hosts: tuple[StackHost, ...]
    etcd: tuple[EtcdEndpoint, ...]
    redis: tuple[RedisEndpoint, ...] = ()
    ports: Ports = Ports()
    lease: LeaseConfig = LeaseConfig()
    supervision: Supervision = Supervision()
    ownership: bool = False
    """Whether the agents of a lost host move to their standby host."""
    failover: OwnershipConfig = OwnershipConfig()

    @property
    def run_folder(self) -> Path:
        """Sockets, snapshot, pid files."""
        return Path(self.run)

    @property
    def data_folder(self) -> Path:
        """What outlives the host."""
        return Path(self.data)

    @property
    def pki_folder(self) -> Path:
        """`ca.pem`, `host.pem`, `host.key`."""
        return Path(self.pki)

    def address_of(self, host: str) -> str | None:
        """The address of a host of the stack, None when there is no such host."""
        return next((other.address for other in self.hosts if other.name == host), None)


def load_config(path: str | Path) -> HostConfig:
    """Reads and checks the document. Raises ConfigError."""
    where = str(path)
    try:
        config = msgspec.json.decode(Path(path).read_bytes(), type=HostConfig)
    except OSError as error:
        raise ConfigError(
            where, f"cannot be read: {error.strerror}", "let THREENINES_CONFIG name hostd.json"
        ) from None
    except msgspec.DecodeError as error:
        raise ConfigError(where, str(error), "see docs/contracts.md, Host configuration") from None
    if config.schema != SCHEMA:
        raise ConfigError(where, f"schema is {config.schema!r}", f"this hostd understands {SCHEMA!r}")
    if config.address_of(config.host) is None:
        raise ConfigError(where, f"host {config.host!r} is not in hosts", "list every host of the stack")
    if not config.etcd:
        raise ConfigError(where, "etcd is empty", "name at least one endpoint of etcd")
    return config
