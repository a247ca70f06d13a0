"""Hosts as groups of processes on this machine: the substrate that needs neither Docker nor a second machine.

A host is an address (network.py), a control group or a mark (census.py) and a supervisor (supervision.py).
Any number of sessions may work with one stack at once: decisions, records and supervisors are on disk and on
sockets, changes to a host happen under its lock, and nothing is remembered in the session.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal as signals
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import IO

from infra.plan import Environment, NetworkMode, UnitSpec
from infra.substrates import links
from infra.substrates.base import (
    Capability,
    Credentials,
    Cut,
    Direction,
    HostState,
    ProcessView,
    SubstrateError,
    UnitState,
)
from infra.substrates.census import SPAWNER, Process, identify, is_frozen, send, set_frozen, stopped, view_of
from infra.substrates.files import locked, make_folder, remove_tree, tail, write_atomic
from infra.substrates.layout import HostRecord
from infra.substrates.stack import Stack, base_environment
from infra.substrates.supervision import Supervisor, supervisor_argv, supervisor_config
from infra.substrates.sweeping import sweep_stack
from infra.substrates.unitrunner import UnitRunner
from infra.topology import NAME_PATTERN, HostSpec

_START_S = 30.0


class ProcessSubstrate:
    """The Protocol of base.py on this machine. Opening it changes nothing."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        _check_name("stack", environment.stack)
        self._stack = Stack(environment)
        self._layout = self._stack.layout
        self._units = UnitRunner(self._stack)

    # -- hosts

    def create_host(self, host: HostSpec) -> HostState:
        """Makes the host or adopts it; one that was killed comes back with its units."""
        _check_name("host", host.name)
        record = self._stack.claim(host)
        with locked(self._layout.host(host.name).lock):
            if not self._supervisor(host.name).alive():
                self._boot(record)
        return HostState(name=host.name, address=record.address, running=True)

    def inspect_host(self, name: str) -> HostState | None:
        record = self._layout.read_host(name)
        if record is None:
            return None
        if self._frozen(name):
            return HostState(name=name, address=record.address, running=False, frozen=True)
        try:
            running = self._supervisor(name).alive()
        except SubstrateError:  # it is there and does not answer
            running = False
        return HostState(name=name, address=record.address, running=running)

    def delete_host(self, name: str) -> None:
        if self._layout.read_host(name) is None:
            return
        with locked(self._layout.host(name).lock):
            self._stack.census(name).kill()
        self._stack.release(name)

    def kill_host(self, name: str) -> None:
        self._stack.host(name)
        self._stack.census(name).kill()

    def restart_host(self, name: str) -> None:
        """Starts the supervisor, and with it every unit, as after a power cut; awaits none of them."""
        record = self._stack.host(name)
        with locked(self._layout.host(name).lock):
            self._boot(record)

    def capabilities(self) -> frozenset[Capability]:
        """Links can be cut where hosts have some; clock and disk are the machine's."""
        found = {Capability.KILL_HOST, Capability.FREEZE_HOST}
        if self._stack.mode() == NetworkMode.NAMESPACE and links.possible():
            found |= {Capability.CUT_LINKS, Capability.LOSE_PACKETS}
        return frozenset(found)

    def freeze_host(self, name: str) -> None:
        self._stack.host(name)
        self._stack.census(name).freeze()

    def thaw_host(self, name: str) -> None:
        self._stack.host(name)
        self._stack.census(name).thaw()

    def cut(
        self,
        host: str,
        peer: str | None = None,
        direction: Direction = Direction.BOTH,
        share: float = 1.0,
    ) -> None:
        if not 0 < share <= 1:
            raise SubstrateError(f"host {host}", f"a share of {share:g}", "give one above 0 and at most 1")
        if peer == host:
            raise SubstrateError(f"host {host}", "it is its own peer", "name another host")
        address = None if peer is None else self._stack.host(peer).address
        link = self._links(host)
        if link is None or not links.possible():
            mend = "cut the ways through Toxiproxy" if link is None else "load cls_bpf, install iproute2"
            raise SubstrateError(f"host {host}", "its link cannot be cut here", mend)
        link.cut(direction, address, share)

    def mend_links(self, host: str | None = None) -> None:
        for name in self._layout.host_names() if host is None else (host,):
            link = self._links(name)
            if link is not None:
                link.mend()

    def cuts(self, host: str) -> tuple[Cut, ...]:
        link = self._links(host)
        found = () if link is None else link.cuts()
        names = {self._stack.address_of(name): name for name in self._stack.record().hosts}
        return tuple(links.as_cut(one, names) for one in found)

    # -- units

    def create_unit(self, unit: UnitSpec) -> UnitState:
        _check_name("unit", unit.name)
        return self._units.create(unit)

    def inspect_unit(self, host: str, name: str) -> UnitState | None:
        return self._units.inspect(host, name)

    def delete_unit(self, host: str, name: str) -> None:
        self._units.delete(host, name)

    def start_unit(self, host: str, name: str) -> None:
        self._units.start(host, name)

    def stop_unit(self, host: str, name: str) -> None:
        self._units.stop(host, name)

    def signal(self, host: str, target: str, signal: str) -> None:
        where = f"{host}/{target}"
        number = getattr(signals.Signals, f"SIG{signal.upper().removeprefix('SIG')}", None)
        if number is None:
            raise SubstrateError(where, f"there is no signal {signal!r}", "use KILL, STOP, CONT, TERM, …")
        process = self._process(host, target)
        try:
            delivered = process is not None and send(process, number)
        except PermissionError as error:
            raise SubstrateError(where, "it is not yours to signal", "run as the user who made it") from error
        if not delivered:
            raise SubstrateError(where, "it does not run", "look at its logs")

    def process(self, host: str, target: str) -> ProcessView | None:
        process = self._process(host, target)
        return None if process is None else view_of(process)

    def limit_open_files(self, host: str, target: str, limit: int) -> int:
        where = f"{host}/{target}"
        process = self._process(host, target)
        if process is None or identify(process.pid) != process:
            raise SubstrateError(where, "it does not run", "look at its logs")
        try:
            soft, hard = resource.prlimit(process.pid, resource.RLIMIT_NOFILE)
            resource.prlimit(process.pid, resource.RLIMIT_NOFILE, (min(limit, hard), hard))
        except (OSError, ValueError) as error:
            raise SubstrateError(where, f"its limits cannot be set: {error}", "run as its user") from error
        return soft

    def step_clock(self, host: str, offset_ms: float, drift_ppm: float = 0.0) -> None:
        raise SubstrateError(
            f"host {host}", "its clock is this machine's", "use a substrate of whole machines"
        )

    def slow_disk(self, host: str, write_kb_s: int | None) -> None:
        raise SubstrateError(
            f"host {host}", "its disk is this machine's", "use a substrate of whole machines"
        )

    def logs(self, host: str, name: str, lines: int = 100) -> str:
        """The last lines of a unit, or of `supervisor`."""
        paths = self._layout.host(host)
        self._stack.host(host)
        if name == "supervisor":
            return tail(paths.supervisor_log, lines)
        _check_name("unit", name)
        if not paths.log(name).exists() and self._layout.read_unit(host, name) is None:
            known = ", ".join(self._layout.unit_names(host))
            raise SubstrateError(f"{host}/{name}", "it has no log", f"choose one of {known or 'none'}")
        return tail(paths.log(name), lines)

    # -- programs

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
        """Runs a program on the host. When this session dies without ending it, a sweep does."""
        record = self._stack.host(host)
        data = make_folder(self._layout.host(host).data("spawned"))
        myself = identify(os.getpid())
        assert myself is not None
        command = (*self._stack.launcher(host), _program(argv[0], host), *argv[1:])
        variables = {
            **base_environment(),
            **self._stack.variables(record, data),
            SPAWNER: f"{myself.pid} {myself.starttime}",
            **env,
        }
        try:
            return subprocess.Popen(command, env=variables, stdout=stdout, stderr=stderr, stdin=stdin)
        except OSError as error:
            raise _cannot_start(f"host {host}", error) from error

    def address(self, host: str) -> str:
        return self._stack.address_of(host)

    def credentials(self) -> Credentials:
        return self._stack.credentials()

    def run_folder(self, host: str) -> str:
        self._stack.host(host)
        return str(self._layout.host(host).run)

    def sweep(self) -> tuple[str, ...]:
        return sweep_stack(self._stack, lambda host: self._supervisor(host).alive())

    def close(self) -> None:
        """Nothing is held between calls."""

    # -- inner

    def _supervisor(self, host: str) -> Supervisor:
        return Supervisor(host, self._layout.host(host).supervisor_socket)

    def _frozen(self, host: str) -> bool:
        """Whether the host stands still: its control group, or its supervisor by a signal."""
        group = self._stack.group(host)
        if group is not None and is_frozen(group):
            return True
        try:
            pid = int((self._layout.host(host).run / "supervisor.pid").read_text(encoding="ascii"))
        except (OSError, ValueError):
            return False
        return stopped(pid) and identify(pid) in self._stack.census(host).processes()

    def _links(self, host: str) -> links.Links | None:
        self._stack.host(host)
        device = self._stack.network().link(host)
        return None if device is None else links.Links(device)

    def _boot(self, host: HostRecord) -> None:
        """Starts the supervisor on a host where nothing may run any more, as after a power cut."""
        paths = self._layout.host(host.name)
        census = self._stack.census(host.name)
        census.kill()
        if census.cgroup is not None and census.cgroup.is_dir():
            set_frozen(census.cgroup, False)
        remove_tree(paths.run)
        make_folder(paths.run / "agents")
        self._stack.network().ensure(host.name, self._stack.record().hosts[host.name])
        write_atomic(
            paths.supervisor_config, supervisor_config(paths, f"{self.environment.stack}-{host.name}")
        )
        command = (*self._stack.launcher(host.name), *supervisor_argv(paths))
        where = f"host {host.name}"
        env = {**base_environment(), **self._stack.variables(host, paths.data("spawned"))}
        try:
            done = subprocess.run(
                command, env=env, stdin=subprocess.DEVNULL, capture_output=True, timeout=_START_S, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise SubstrateError(
                where, f"its supervisor did not start in {_START_S:.0f} s", "try again"
            ) from error
        except OSError as error:
            raise _cannot_start(where, error) from error
        if done.returncode != 0:
            said = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
            raise SubstrateError(
                where, f"its supervisor did not start: {said}", f"see {paths.supervisor_log}"
            )

    def _process(self, host: str, target: str) -> Process | None:
        kind, _, agent = target.rpartition("/")
        return self._agent(host, agent) if kind == "agent" else self._units.process(host, target)

    def _agent(self, host: str, agent: str) -> Process | None:
        """The agent's process, as the zygote wrote it down: `PID STARTTIME`, and what a reader ignores."""
        self._stack.host(host)
        _check_name("agent", agent)
        path = self._layout.host(host).run / "agents" / f"{agent}.pid"
        try:
            pid, starttime, *_ = path.read_text(encoding="ascii").split()
            return Process(int(pid), int(starttime))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SubstrateError(
                f"{host}/agent/{agent}", f"{path} cannot be read: {error}", "restart it"
            ) from error


def _program(name: str, host: str) -> str:
    """A program to spawn: "python" is the stack's own, any other is looked for where hosts look."""
    if name == "python":
        return sys.executable
    found = shutil.which(name, path=base_environment()["PATH"])
    if found is None:
        raise SubstrateError(
            f"host {host}", f"there is no program {name}", "install it or give its whole path"
        )
    return found


def _cannot_start(where: str, error: OSError) -> SubstrateError:
    reason = (error.strerror or str(error)).lower()
    return SubstrateError(where, f"{error.filename} cannot be started: {reason}", "see that it may be run")


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise SubstrateError(
            f"{kind} {name!r}", "it is no name", "use a-z, 0-9 and -, a letter first, at most 63"
        )
