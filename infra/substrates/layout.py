"""Where the process substrate keeps things: what lasts in the state directory, what is volatile elsewhere.

<state_dir>/stacks/<stack>/
    stack.json       what was decided for the stack: network, addresses, run folder
    pki/             the authority and the operator's certificate
    hosts/<host>/    host.json, pki/, supervisord.conf, units/, config/, data/, logs/
/run/threenines/<stack>/<host>/
    sockets, pid files, the discovery snapshot (as root; else see run_root)
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from infra.plan import Environment
from infra.substrates.base import SubstrateError
from infra.substrates.files import UNIX_PATH_MAX_BYTES, write_atomic
from infra.topology import HostRole

T = TypeVar("T")

_UNFIT = re.compile(r"[\x00-\x1f\x7f\"';#%$`\\*?\[\]]")
_LONGEST_SOCKET = len("/agents/") + 40 + len(".sock")


class StackRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What was decided when the stack's first host was made, and holds until its last one is gone."""

    mode: str
    subnet_index: int
    run: str
    cgroup: str | None
    hosts: dict[str, int]
    """Host names and their places in the subnet, from 0, in the fleet's order."""


class HostRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A host that was made (or was being made when its maker died)."""

    name: str
    role: HostRole
    address: str
    local: str


class UnitRecord(msgspec.Struct, frozen=True, kw_only=True):
    """A unit that was made: `rendition_sha256` also covers addresses, paths and certificates."""

    spec_sha256: str
    rendition_sha256: str
    spec: bytes
    log_start_bytes: int = 0


def run_root() -> Path:
    """The folder for volatile things of every stack of this user; its path is short."""
    if os.geteuid() == 0:
        return Path("/run/threenines")
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    if runtime and os.access(runtime, os.W_OK):
        return Path(runtime) / "threenines"
    return Path(f"/tmp/threenines-{os.geteuid()}")  # noqa: S108  # made with 0700 and checked for its owner


@dataclass(frozen=True)
class HostPaths:
    """The places of one host."""

    state: Path
    run: Path

    @property
    def record(self) -> Path:
        return self.state / "host.json"

    @property
    def lock(self) -> Path:
        return self.state / ".lock"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def units(self) -> Path:
        return self.state / "units"

    @property
    def supervisor_config(self) -> Path:
        return self.state / "supervisord.conf"

    @property
    def supervisor_log(self) -> Path:
        return self.state / "logs" / "supervisor.log"

    @property
    def supervisor_socket(self) -> Path:
        return self.run / "supervisor.sock"

    def ini(self, unit: str) -> Path:
        return self.units / f"{unit}.ini"

    def script(self, unit: str) -> Path:
        return self.units / f"{unit}.sh"

    def unit_record(self, unit: str) -> Path:
        return self.units / f"{unit}.json"

    def config(self, unit: str) -> Path:
        return self.state / "config" / unit

    def data(self, unit: str) -> Path:
        return self.state / "data" / unit

    def log(self, unit: str) -> Path:
        return self.state / "logs" / f"{unit}.log"


class Layout:
    """The paths of one stack. Raises SubstrateError for a state directory that no server could use."""

    def __init__(self, environment: Environment) -> None:
        state_dir = Path(environment.state_dir)
        where = f"state directory {environment.state_dir!r}"
        if not state_dir.is_absolute():
            raise SubstrateError(where, "it is not absolute", "give its whole path")
        found = _UNFIT.search(environment.state_dir)
        if found or " " in environment.state_dir:
            sign = found.group() if found else " "
            raise SubstrateError(
                where, f"{sign!r} in a path breaks servers' files", "choose another state_dir"
            )
        self.stack = environment.stack
        self.state = state_dir / "stacks" / environment.stack

    @property
    def record(self) -> Path:
        return self.state / "stack.json"

    @property
    def lock(self) -> Path:
        return self.state / ".lock"

    @property
    def pki(self) -> Path:
        return self.state / "pki"

    @property
    def hosts(self) -> Path:
        return self.state / "hosts"

    def run(self) -> Path:
        """The stack's volatile folder, as decided; else as it would be."""
        record = self.read()
        return Path(record.run) if record else run_root() / self.stack

    def host(self, name: str) -> HostPaths:
        """The places of host `name`."""
        return HostPaths(state=self.hosts / name, run=self.run() / name)

    def read(self) -> StackRecord | None:
        """What was decided for the stack, None before its first host."""
        return _read(self.record, StackRecord)

    def write(self, record: StackRecord) -> None:
        write_atomic(self.record, msgspec.json.encode(record))

    def read_host(self, name: str) -> HostRecord | None:
        return _read(self.host(name).record, HostRecord)

    def read_unit(self, host: str, name: str) -> UnitRecord | None:
        return _read(self.host(host).unit_record(name), UnitRecord)

    def host_names(self) -> tuple[str, ...]:
        """The hosts that were made, by name."""
        return tuple(sorted(path.parent.name for path in self.hosts.glob("*/host.json")))

    def unit_names(self, host: str) -> tuple[str, ...]:
        """The units of a host that were made, by name."""
        return tuple(sorted(path.stem for path in self.host(host).units.glob("*.json")))


def check_run_folder(path: Path) -> None:
    """Raises SubstrateError when the sockets below `path` would not fit in a Unix socket's address."""
    length = len(os.fsencode(path))
    if length + _LONGEST_SOCKET > UNIX_PATH_MAX_BYTES:
        raise SubstrateError(
            f"run folder {path}",
            f"it has {length} bytes, and sockets in it need {_LONGEST_SOCKET} of {UNIX_PATH_MAX_BYTES}",
            "choose a shorter stack name, host name or XDG_RUNTIME_DIR",
        )


def _read(path: Path, kind: type[T]) -> T | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise SubstrateError(str(path), "it cannot be read", "run as the user who made the stack") from error
    except OSError as error:
        raise SubstrateError(
            str(path), f"it cannot be read ({error.strerror})", "choose another state_dir"
        ) from error
    except msgspec.MsgspecError as error:
        raise SubstrateError(str(path), f"it is damaged ({error})", "remove it and run up again") from error
