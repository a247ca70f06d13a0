"""The systems that are compared, each set up as its own documentation says, and tuned to be fast."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from benchmarks.peers.site import HOSTS, WORKERS, Site
from infra.substrates.base import SubstrateError

WHOLE_S: Final = 180.0
"""What a start or a repair may take."""


class NotWhole(SubstrateError):
    """A system did not come up, or did not recover its redundancy."""


@dataclass(frozen=True, slots=True)
class ClientOrder:
    """How a client on one host uses the system: interpreter, register, and the register's settings."""

    python: str
    register: str
    settings: Mapping[str, str]


class System(Protocol):
    """One system on the three hosts."""

    name: str

    def start(self) -> None:
        """Everything on every host; serves and is redundant when this returns. Raises NotWhole."""
        ...

    def client(self, host: str) -> ClientOrder:
        """How clients on `host` use it."""
        ...

    def kill_process(self, host: str) -> None:
        """SIGKILL to the process on `host` that serves the clients; it has ended when this returns."""
        ...

    def forget_power(self, host: str) -> None:
        """Takes away what a power cut would have taken from the killed host and its kernel still has."""
        ...

    def revive(self, host: str) -> None:
        """Starts again what does not run on `host`, as its init would."""
        ...

    def whole(self) -> bool:
        """Whether one host serves and the other could take over without loss."""
        ...


def systems(site: Site) -> dict[str, Callable[[], System]]:
    """A new instance of each, by name."""
    from benchmarks.peers.summary import OURS
    from benchmarks.peers.systems.keepalived import Keepalived
    from benchmarks.peers.systems.ours import Ours
    from benchmarks.peers.systems.patroni import Patroni
    from benchmarks.peers.systems.sentinel import RedisSentinel

    return {
        OURS: lambda: Ours(site),
        "keepalived-1s": lambda: Keepalived(site, "keepalived-1s", advert_s=1.0, told=False),
        "keepalived-fast": lambda: Keepalived(site, "keepalived-fast", advert_s=0.1, told=True),
        "redis-sentinel": lambda: RedisSentinel(site),
        "patroni": lambda: Patroni(site),
    }


def await_whole(system: System, limit_s: float = WHOLE_S) -> None:
    """Waits until the system is whole. Raises NotWhole."""
    until(system.whole, f"{system.name} is whole", limit_s)


def until(done: Callable[[], bool], what: str, limit_s: float) -> None:
    """Asks every 50 ms: none of these systems tells anybody when it has recovered. Raises NotWhole."""
    end = time.monotonic() + limit_s
    last = ""
    while time.monotonic() < end:
        try:
            if done():
                return
        except (OSError, ValueError, LookupError) as error:
            last = f" ({type(error).__name__}: {error})"
        time.sleep(0.05)
    raise NotWhole(
        "benchmarks.peers", f"{what}: not within {limit_s:g} s{last}", "see the logs of its programs"
    )


def workers_setting(site: Site) -> str:
    """The setting `hosts` of the registers."""
    return ",".join(f"{site.address(host)}={host}" for host in WORKERS)


def everywhere(site: Site) -> dict[str, str]:
    """Every host's address."""
    return {host: site.address(host) for host in HOSTS}
