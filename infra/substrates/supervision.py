"""One supervisor instance (the `supervisor` package) for each host, driven over its Unix socket.

Its configuration has one file a unit, so that units come and go without touching the others. What a unit
runs stands in a small shell script beside it: no second syntax for quoting, and a person can run it by hand.
"""

from __future__ import annotations

import http.client
import math
import os
import resource
import shlex
import socket
import sys
import xmlrpc.client
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar, cast

from infra.plan import UnitSpec
from infra.substrates.base import SubstrateError
from infra.substrates.layout import HostPaths
from infra.substrates.weights import FIRST

T = TypeVar("T")

START_RETRIES = 10
"""Starts in a row that may fail within a second before the supervisor gives a unit up (about a minute)."""
LOG_BYTES = 8 << 20
OPEN_FILES = 65536
_FAULT_BAD_NAME, _FAULT_NOT_RUNNING, _FAULT_ALREADY_STARTED, _FAULT_ALREADY_ADDED = 10, 70, 60, 90


class SupervisorDown(Exception):
    """Nobody answers on the supervisor's socket: the host does not run."""


class UnitPhase(StrEnum):
    """A process as its supervisor sees it (supervisord.org, Process States)."""

    STOPPED = "STOPPED"
    STARTING = "STARTING"
    RUNNING = "RUNNING"
    BACKOFF = "BACKOFF"
    STOPPING = "STOPPING"
    EXITED = "EXITED"
    FATAL = "FATAL"
    UNKNOWN = "UNKNOWN"


@dataclass(frozen=True)
class UnitProcess:
    """What the supervisor knows of a unit; `pid` is 0 while nothing runs."""

    pid: int
    phase: UnitPhase
    exit_status: int
    trouble: str

    @property
    def running(self) -> bool:
        return self.pid > 0 and self.phase in (UnitPhase.STARTING, UnitPhase.RUNNING)

    @property
    def detail(self) -> str:
        """For people: the phase, and why nothing runs."""
        if self.running:
            return "running"
        reason = f": {self.trouble}" if self.trouble else ""
        return f"{self.phase.value.lower()}, exit status {self.exit_status}{reason}"


class Supervisor:
    """A client of one host's supervisor. Raises SupervisorDown, and SubstrateError for anything else."""

    def __init__(self, host: str, socket_path: Path, timeout_s: float = 10.0) -> None:
        self.host = host
        self.socket_path = socket_path
        self.timeout_s = timeout_s

    def alive(self) -> bool:
        """Whether it answers. Raises SubstrateError when it is there and does not."""
        try:
            self._call(lambda rpc: rpc.getState(), 5.0)
        except SupervisorDown:
            return False
        return True

    def pid(self) -> int:
        """The supervisor's own process."""
        return int(self._call(lambda rpc: rpc.getPID()))

    def process(self, unit: str) -> UnitProcess | None:
        """The unit's process, None when the supervisor does not know the unit."""
        try:
            info: Mapping[str, Any] = self._call(lambda rpc: rpc.getProcessInfo(unit))
        except xmlrpc.client.Fault as fault:
            if fault.faultCode == _FAULT_BAD_NAME:
                return None
            raise self._refused(unit, fault) from fault
        return UnitProcess(
            pid=int(info["pid"]),
            phase=UnitPhase(str(info["statename"])),
            exit_status=int(info["exitstatus"]),
            trouble=str(info["spawnerr"]),
        )

    def add(self, unit: str) -> None:
        """Reads the unit's file and starts the unit."""
        self._reload()
        self._tolerant(unit, lambda rpc: rpc.addProcessGroup(unit), (_FAULT_ALREADY_ADDED,))

    def remove(self, unit: UnitSpec) -> None:
        """Stops the unit and forgets it."""
        self.stop(unit)
        self._tolerant(unit.name, lambda rpc: rpc.removeProcessGroup(unit.name), (_FAULT_BAD_NAME,))

    def start(self, unit: str) -> None:
        """Starts the unit; one that runs already stays."""
        self._tolerant(unit, lambda rpc: rpc.startProcess(unit, False), (_FAULT_ALREADY_STARTED,))

    def stop(self, unit: UnitSpec) -> None:
        """Stops the unit and waits for its end: its stop signal, after its stop time SIGKILL."""
        self._tolerant(
            unit.name,
            lambda rpc: rpc.stopProcess(unit.name),
            (_FAULT_BAD_NAME, _FAULT_NOT_RUNNING),
            timeout_s=self.timeout_s + unit.stop_timeout_s,
        )

    def _reload(self) -> None:
        try:
            self._call(lambda rpc: rpc.reloadConfig())
        except xmlrpc.client.Fault as fault:
            raise self._refused("supervisor", fault) from fault

    def _tolerant(
        self,
        unit: str,
        call: Callable[[Any], object],
        accepted: tuple[int, ...],
        timeout_s: float | None = None,
    ) -> None:
        try:
            self._call(call, timeout_s)
        except xmlrpc.client.Fault as fault:
            if fault.faultCode not in accepted:
                raise self._refused(unit, fault) from fault

    def _refused(self, unit: str, fault: xmlrpc.client.Fault) -> SubstrateError:
        return SubstrateError(
            f"{self.host}/{unit}", f"the supervisor refused: {fault.faultString}", "look at its log"
        )

    def _call(self, call: Callable[[Any], T], timeout_s: float | None = None) -> T:
        transport = _Transport(self.socket_path, timeout_s or self.timeout_s)
        try:
            with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
                return call(cast(Any, proxy).supervisor)
        except TimeoutError as error:
            raise SubstrateError(
                f"host {self.host}", "its supervisor does not answer", "kill the host and restart it"
            ) from error
        except (FileNotFoundError, ConnectionError, http.client.HTTPException) as error:
            raise SupervisorDown(self.host) from error
        except OSError as error:
            raise SubstrateError(
                f"host {self.host}",
                f"its supervisor cannot be reached: {error}",
                "run as the user who made it",
            ) from error


class _Connection(http.client.HTTPConnection):
    """HTTP over a Unix socket, with a deadline for every operation."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


class _Transport(xmlrpc.client.Transport):
    """The package's own transport has no deadlines, and a stopped host must not stop its harness."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__()
        self._path = path
        self._timeout_s = timeout_s

    def make_connection(self, host: Any) -> http.client.HTTPConnection:
        return _Connection(self._path, self._timeout_s)


def supervisor_argv(paths: HostPaths) -> tuple[str, ...]:
    """The command that starts a host's supervisor: it answers on its socket once this command has ended."""
    return (sys.executable, "-m", "infra.substrates.supervisord", "-c", str(paths.supervisor_config))


def supervisor_config(paths: HostPaths, identifier: str) -> str:
    """The supervisor's own file. It becomes a daemon after its socket is open."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    files = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    user = "user=root\n" if os.geteuid() == 0 else ""
    return (
        "[supervisord]\n"
        f"identifier={identifier}\n"
        f"{user}"
        f"logfile={paths.supervisor_log}\n"
        f"logfile_maxbytes={LOG_BYTES}\n"
        "logfile_backups=1\n"
        f"pidfile={paths.run / 'supervisor.pid'}\n"
        f"childlogdir={paths.state / 'logs'}\n"
        f"directory={paths.state}\n"
        "umask=077\n"
        "nocleanup=true\n"
        f"minfds={files}\n\n"
        "[unix_http_server]\n"
        f"file={paths.supervisor_socket}\n"
        "chmod=0700\n\n"
        "[rpcinterface:supervisor]\n"
        "supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface\n\n"
        "[include]\n"
        "files=units/*.ini\n"
    )


def unit_ini(unit: UnitSpec, paths: HostPaths) -> str:
    """The supervisor's file for a unit: started with the host, started again when it ends by itself."""
    # What outlives the unit must not write into a pipe that ends with it, so that log is a plain file.
    log = "NONE" if unit.keeps_children else str(paths.log(unit.name))
    return (
        f"[program:{unit.name}]\n"
        f"command=/bin/sh {paths.script(unit.name)}\n"
        "autostart=true\n"
        "autorestart=true\n"
        "startsecs=1\n"
        f"startretries={START_RETRIES}\n"
        f"stopsignal={unit.stop_signal}\n"
        f"stopwaitsecs={max(1, math.ceil(unit.stop_timeout_s))}\n"
        "redirect_stderr=true\n"
        f"stdout_logfile={log}\n"
        f"stdout_logfile_maxbytes={LOG_BYTES}\n"
        "stdout_logfile_backups=1\n"
    )


def unit_script(unit: UnitSpec, argv: Sequence[str], env: Mapping[str, str], paths: HostPaths) -> str:
    """The shell script that becomes the unit: its variables, its folder, its program."""
    lines = [
        "#!/bin/sh",
        f"# {unit.host}/{unit.name}: written by threenines, replaced when the unit changes.",
    ]
    lines += [f"export {name}={shlex.quote(value)}" for name, value in sorted(env.items())]
    # Where sessions are weighed against each other and it is allowed, a host's servers go before its agents,
    # but for those that can wait.
    lines.append(f"{{ echo {unit.nice or FIRST} >/proc/self/autogroup; }} 2>/dev/null")
    lines.append(f"cd {shlex.quote(str(paths.data(unit.name)))} || exit 111")
    if unit.keeps_children:
        lines.append(f"exec >>{shlex.quote(str(paths.log(unit.name)))} 2>&1 </dev/null")
    patient = ("nice", "-n", str(unit.nice)) if unit.nice else ()
    lines.append("exec " + " ".join(shlex.quote(part) for part in (*patient, *argv)))
    return "\n".join(lines) + "\n"
