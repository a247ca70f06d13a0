"""What a substrate promises: it starts, stops and inspects units on hosts, and disturbs whole hosts.

Plain and synchronous. Nothing above it knows a path, a namespace or a process id.
"""

from __future__ import annotations

import subprocess
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import IO, Protocol

import msgspec

from infra.plan import UnitSpec
from infra.topology import HostSpec


class Capability(StrEnum):
    """What not every substrate can do. A fault that needs one says so before it begins."""

    KILL_HOST = "kill-host"
    FREEZE_HOST = "freeze-host"
    CUT_LINKS = "cut-links"
    """Silent loss of everything between hosts: `cut` with a share of 1."""
    LOSE_PACKETS = "lose-packets"
    """Silent loss of a random share: `cut` with a share below 1."""
    SET_CLOCK = "set-clock"
    """A clock of its own for the host, that can be stepped and skewed."""
    SLOW_DISK = "slow-disk"
    """A limit on what the host's disk takes in a second."""

    @property
    def where(self) -> str:
        """The hosts that can do it, in words."""
        return _WHERE[self]


_WHERE = {
    Capability.KILL_HOST: "hosts of the process substrate",
    Capability.FREEZE_HOST: "hosts of the process substrate",
    Capability.CUT_LINKS: "hosts in network namespaces (root, and a kernel with cls_bpf)",
    Capability.LOSE_PACKETS: "hosts in network namespaces (root, and a kernel with cls_bpf)",
    Capability.SET_CLOCK: "hosts with clocks of their own, which no substrate of this version makes",
    Capability.SLOW_DISK: "hosts with disks of their own, which no substrate of this version makes",
}


class Direction(StrEnum):
    """Which packets, as the host itself sees them."""

    BOTH = "both"
    OUTGOING = "outgoing"
    INCOMING = "incoming"


class Cut(msgspec.Struct, frozen=True, kw_only=True):
    """A silent loss on a host's link: `share` of the packets to or from `peer`, None: everybody."""

    peer: str | None
    direction: Direction
    share: float = 1.0


class HostState(msgspec.Struct, frozen=True, kw_only=True):
    """A host as it was found. `address` is its address on the link between hosts.

    A frozen host is there and does not run.
    """

    name: str
    address: str
    running: bool
    frozen: bool = False


class UnitState(msgspec.Struct, frozen=True, kw_only=True):
    """A unit as it was found. `spec_sha256` is `UnitSpec.sha256` of what was started.

    `instance` names the running process: it stays while that process lives, is another one after every
    start, whoever started it, and "" while nothing runs. Supervisors start crashed units again, so
    "running" alone cannot show that a unit was killed; a provider records `instance` when it creates the
    unit and reports another one in `read` as drift (docs/decisions/0006-unit-drift.md).
    """

    host: str
    name: str
    running: bool
    spec_sha256: str
    detail: str = ""
    instance: str = ""


class ProcessView(msgspec.Struct, frozen=True, kw_only=True):
    """The process of a unit or an agent at one moment.

    `instance` as for a unit; `stopped`: a signal holds it still; open files, and how many it may have.
    """

    instance: str
    stopped: bool
    open_files: int
    open_files_limit: int


class Credentials(msgspec.Struct, frozen=True, kw_only=True):
    """The operator's certificate: paths on this machine."""

    ca: Path
    cert: Path
    key: Path


class SubstrateError(Exception):
    """What could not be done, where, and what mends it."""

    def __init__(self, where: str, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}; {mend}")
        self.where = where
        self.what = what
        self.mend = mend


class Substrate(Protocol):
    """Hosts and their units. Every method raises SubstrateError when it could not do its work."""

    def create_host(self, host: HostSpec) -> HostState:
        """Makes the host, or adopts it when it is there."""
        ...

    def inspect_host(self, name: str) -> HostState | None:
        """The host as it is, None when there is none."""
        ...

    def delete_host(self, name: str) -> None:
        """Removes the host with every process and unit on it; nothing to do is no error."""
        ...

    def kill_host(self, name: str) -> None:
        """SIGKILL to every process of the host, at once."""
        ...

    def restart_host(self, name: str) -> None:
        """Starts a killed host again, with its units; does not wait until those are ready."""
        ...

    def capabilities(self) -> frozenset[Capability]:
        """What this substrate can do here beyond what all can; of a stack that is down: could, were it up."""
        ...

    def freeze_host(self, name: str) -> None:
        """Stops every process of the host at once, as a machine that hangs; clocks go on."""
        ...

    def thaw_host(self, name: str) -> None:
        """Lets a frozen host go on where it stood; one that is not frozen is no error."""
        ...

    def cut(
        self,
        host: str,
        peer: str | None = None,
        direction: Direction = Direction.BOTH,
        share: float = 1.0,
    ) -> None:
        """Loses packets between `host` and another host, None: everybody, the operator included.

        Silently: nothing is refused, connections that stand are cut too. Adds to what is cut already;
        stays over a restart of the host.
        """
        ...

    def mend_links(self, host: str | None = None) -> None:
        """Ends every cut of `host`, None: of all hosts; none to end is no error."""
        ...

    def cuts(self, host: str) -> tuple[Cut, ...]:
        """The cuts of a host as they are, those in both directions as two."""
        ...

    def create_unit(self, unit: UnitSpec) -> UnitState:
        """Starts the unit and waits until it is ready; replaces one of another specification."""
        ...

    def inspect_unit(self, host: str, name: str) -> UnitState | None:
        """The unit as it is, None when there is none."""
        ...

    def delete_unit(self, host: str, name: str) -> None:
        """Stops and forgets the unit; nothing to do is no error."""
        ...

    def start_unit(self, host: str, name: str) -> None:
        """Starts a stopped unit and waits until it is ready."""
        ...

    def stop_unit(self, host: str, name: str) -> None:
        """Stops the unit; it stays known."""
        ...

    def signal(self, host: str, target: str, signal: str) -> None:
        """Sends a signal ("KILL", "STOP", …) to a unit or to "agent/<name>"."""
        ...

    def process(self, host: str, target: str) -> ProcessView | None:
        """The process of a unit or of "agent/<name>", None while none runs."""
        ...

    def limit_open_files(self, host: str, target: str, limit: int) -> int:
        """Sets how many files the present process may have open; what it was. Ends with the process."""
        ...

    def step_clock(self, host: str, offset_ms: float, drift_ppm: float = 0.0) -> None:
        """Sets the host's clock off by that much, and lets it drift; both 0: the true time again."""
        ...

    def slow_disk(self, host: str, write_kb_s: int | None) -> None:
        """Limits what the host's disk takes in a second, None: no longer."""
        ...

    def logs(self, host: str, name: str, lines: int = 100) -> str:
        """The last lines that the unit wrote."""
        ...

    def spawn(
        self,
        host: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] = {},
        stdout: int | IO[bytes] | None = None,
        stderr: int | IO[bytes] | None = None,
        stdin: int | IO[bytes] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Runs a program on the host: its network, its variables. "python" is the stack's own."""
        ...

    def address(self, host: str) -> str:
        """The host's address, reachable from here."""
        ...

    def credentials(self) -> Credentials:
        """The operator's certificate."""
        ...

    def run_folder(self, host: str) -> str:
        """THREENINES_RUN of the host; only to be handed to programs spawned there."""
        ...

    def sweep(self) -> tuple[str, ...]:
        """Removes what an earlier crash left, and says what it found."""
        ...

    def close(self) -> None:
        """Lets go of connections and files; hosts keep running."""
        ...
