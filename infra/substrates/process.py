"""Hosts as groups of processes on this machine: the substrate that needs neither Docker nor a second machine.

A host is an address (network.py), a control group or a mark (census.py) and a supervisor (supervision.py).
Any number of sessions may work with one stack at once: decisions, records and supervisors are on disk and on
sockets, changes to a host happen under its lock, and nothing is remembered in the session.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal as signals
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from typing import IO

import msgspec

from infra.plan import Environment, UnitSpec
from infra.substrates.base import Credentials, HostState, SubstrateError, UnitState
from infra.substrates.census import SPAWNER, Process, identify, send
from infra.substrates.files import explain, explained, locked, make_folder, remove_tree, tail, write_atomic
from infra.substrates.layout import HostPaths, HostRecord, UnitRecord
from infra.substrates.placeholders import Places, Rendition, render
from infra.substrates.readiness import Target, holder, listeners, pause, telling_line
from infra.substrates.stack import Stack, base_environment
from infra.substrates.supervision import (
    LOG_BYTES,
    Supervisor,
    SupervisorDown,
    UnitPhase,
    UnitProcess,
    supervisor_argv,
    supervisor_config,
    unit_ini,
    unit_script,
)
from infra.substrates.sweeping import sweep_stack
from infra.tools.paths import ToolMissing, tool_path
from infra.topology import NAME_PATTERN, HostSpec

_START_S = 30.0


class ProcessSubstrate:
    """The Protocol of base.py on this machine. Opening it changes nothing."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        _check_name("stack", environment.stack)
        self._stack = Stack(environment)
        self._layout = self._stack.layout

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
        return HostState(name=name, address=record.address, running=self._supervisor(name).alive())

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
        """Starts the supervisor, and with it every unit, as after a power cut; does not wait for readiness."""
        record = self._stack.host(name)
        with locked(self._layout.host(name).lock):
            self._boot(record)

    # -- units

    def create_unit(self, unit: UnitSpec) -> UnitState:
        _check_name("unit", unit.name)
        host = self._stack.host(unit.host)
        paths = self._layout.host(unit.host)
        rendition = self._render(host, unit)
        argv = (self._program(unit.program, f"{unit.host}/{unit.name}"), *rendition.args)
        fingerprint = self._fingerprint(unit, argv, rendition, paths)
        with locked(paths.lock), self._answering(unit.host):
            supervisor = self._supervisor(unit.host)
            known = self._layout.read_unit(unit.host, unit.name)
            process = supervisor.process(unit.name)
            current = known is not None and known.rendition_sha256 == fingerprint
            if not (current and process is not None and process.running):
                if process is not None:
                    supervisor.remove(unit)
                self._check_port(host, unit, supervisor.pid())
                self._write_unit(unit, host, rendition, argv, fingerprint)
                supervisor.add(unit.name)
        return self._await_ready(host, unit)

    def inspect_unit(self, host: str, name: str) -> UnitState | None:
        record = self._layout.read_unit(host, name)
        if record is None:
            return None
        try:
            process = self._supervisor(host).process(name)
        except SupervisorDown:
            process = None
        return _unit_state(host, name, record.spec_sha256, process)

    def delete_unit(self, host: str, name: str) -> None:
        if self._layout.read_unit(host, name) is None:
            return
        paths = self._layout.host(host)
        with locked(paths.lock):
            _, unit = self._known(host, name)
            # The file goes first: a supervisor that starts meanwhile must not bring the unit back.
            with explained(paths.ini(name)):
                paths.ini(name).unlink(missing_ok=True)
            supervisor = self._supervisor(host)
            if supervisor.alive():
                supervisor.remove(unit)
            with explained(paths.units):
                paths.script(name).unlink(missing_ok=True)
                paths.unit_record(name).unlink(missing_ok=True)
            remove_tree(paths.config(name))

    def start_unit(self, host: str, name: str) -> None:
        record, unit = self._known(host, name)
        with locked(self._layout.host(host).lock), self._answering(host):
            supervisor = self._supervisor(host)
            process = supervisor.process(name)
            if process is None:
                supervisor.add(name)
            elif not process.running:
                supervisor.start(name)
        self._await_ready(record, unit)

    def stop_unit(self, host: str, name: str) -> None:
        _, unit = self._known(host, name)
        with locked(self._layout.host(host).lock), self._answering(host):
            self._supervisor(host).stop(unit)

    def signal(self, host: str, target: str, signal: str) -> None:
        where = f"{host}/{target}"
        number = getattr(signals.Signals, f"SIG{signal.upper().removeprefix('SIG')}", None)
        if number is None:
            raise SubstrateError(where, f"there is no signal {signal!r}", "use KILL, STOP, CONT, TERM, …")
        kind, _, agent = target.rpartition("/")
        process = self._agent(host, agent) if kind == "agent" else self._unit_process(host, target)
        try:
            delivered = process is not None and send(process, number)
        except PermissionError as error:
            raise SubstrateError(where, "it is not yours to signal", "run as the user who made it") from error
        if not delivered:
            raise SubstrateError(where, "it does not run", "look at its logs")

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
        command = (*self._stack.launcher(host), self._program(argv[0], f"host {host}"), *argv[1:])
        variables = {
            **base_environment(),
            **self._stack.variables(record, data),
            SPAWNER: f"{myself.pid} {myself.starttime}",
            **env,
        }
        try:
            return subprocess.Popen(command, env=variables, stdout=stdout, stderr=stderr, stdin=stdin)
        except OSError as error:
            raise explain(error, data) from error

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

    # -- inner: hosts

    def _supervisor(self, host: str) -> Supervisor:
        return Supervisor(host, self._layout.host(host).supervisor_socket)

    def _answering(self, host: str) -> _Answering:
        return _Answering(host)

    def _boot(self, host: HostRecord) -> None:
        """Starts the supervisor on a host where nothing may run any more, as after a power cut."""
        paths = self._layout.host(host.name)
        self._stack.census(host.name).kill()
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
            raise explain(error, paths.state) from error
        if done.returncode != 0:
            said = " ".join((done.stderr or done.stdout).decode(errors="replace").split())
            raise SubstrateError(
                where, f"its supervisor did not start: {said}", f"see {paths.supervisor_log}"
            )

    # -- inner: units

    def _known(self, host: str, name: str) -> tuple[HostRecord, UnitSpec]:
        record = self._layout.read_unit(host, name)
        if record is None:
            raise SubstrateError(f"{host}/{name}", "there is no such unit", "run up first")
        return self._stack.host(host), msgspec.json.decode(record.spec, type=UnitSpec)

    def _render(self, host: HostRecord, unit: UnitSpec) -> Rendition:
        paths = self._layout.host(host.name)
        return render(
            unit,
            Places(
                data=str(paths.data(unit.name)),
                config=str(paths.config(unit.name)),
                run=str(paths.run),
                pki=str(paths.pki),
                address=host.address,
                local=host.local,
                address_of=self._stack.address_of,
            ),
        )

    def _program(self, name: str, where: str) -> str:
        if name == "python":
            return sys.executable
        if "/" in name:
            return name
        try:
            return str(tool_path(name))
        except ToolMissing as error:
            raise SubstrateError(where, f"the program {name} is missing", "run make setup") from error

    def _fingerprint(
        self, unit: UnitSpec, argv: tuple[str, ...], rendition: Rendition, paths: HostPaths
    ) -> str:
        """What decides whether a running unit may stay: its resolved form and its host's certificate."""
        with explained(paths.pki):
            certificate = (paths.pki / "host.pem").read_bytes()
        parts = [unit.sha256, argv, rendition.env, rendition.files, certificate]
        return hashlib.sha256(msgspec.json.encode(parts, order="deterministic")).hexdigest()

    def _write_unit(
        self, unit: UnitSpec, host: HostRecord, rendition: Rendition, argv: tuple[str, ...], fingerprint: str
    ) -> None:
        paths = self._layout.host(host.name)
        folder, data, log = paths.config(unit.name), make_folder(paths.data(unit.name)), paths.log(unit.name)
        remove_tree(folder)
        make_folder(folder)
        for name, content in rendition.files.items():
            write_atomic(folder / name, content)
        with explained(log):
            if unit.keeps_children and log.exists() and log.stat().st_size > LOG_BYTES:
                log.replace(log.with_suffix(".log.1"))
            written = log.stat().st_size if log.exists() else 0
        env = {**self._stack.variables(host, data), **rendition.env}
        write_atomic(paths.script(unit.name), unit_script(unit, argv, env, paths))
        record = UnitRecord(
            spec_sha256=unit.sha256,
            rendition_sha256=fingerprint,
            spec=msgspec.json.encode(unit),
            log_start_bytes=written,
        )
        write_atomic(paths.unit_record(unit.name), msgspec.json.encode(record))
        write_atomic(paths.ini(unit.name), unit_ini(unit, paths))

    def _check_port(self, host: HostRecord, unit: UnitSpec, supervisor_pid: int) -> None:
        port = unit.ready.port
        if port is None:
            return
        taken = listeners(supervisor_pid, port, (host.address, host.local))
        if taken:
            who = holder(taken)
            by = f"process {who[0]} ({who[1]})" if who else "another process"
            raise SubstrateError(
                f"{host.name}/{unit.name}",
                f"port {port} of {host.address} is taken by {by}",
                "end that process or choose another subnet_index",
            )

    def _await_ready(self, host: HostRecord, unit: UnitSpec) -> UnitState:
        """Waits until the unit serves. Raises SubstrateError when it dies twice or the time is over."""
        where = f"{unit.host}/{unit.name}"
        target = Target(
            kind=unit.ready.kind,
            host=host.name,
            address=host.address,
            local=host.local,
            port=unit.ready.port,
            path=self._render(host, unit).ready_path,
            credentials=self.credentials(),
        )
        end = time.monotonic() + unit.ready.timeout_s
        seen: set[Process] = set()
        wait_s = 0.01
        while True:
            with self._answering(unit.host):
                process = self._supervisor(unit.host).process(unit.name)
            if process is None:
                raise SubstrateError(where, "it was removed while it started", "run up again")
            running = identify(process.pid) if process.running else None
            if running is not None:
                seen.add(running)
                obstacle = target.obstacle(running)
                if obstacle is None and identify(running.pid) == running:
                    return _unit_state(unit.host, unit.name, unit.sha256, process)
            else:
                obstacle = process.detail
            gave_up = process.phase is UnitPhase.FATAL or (running is None and len(seen) > 1)
            if gave_up or time.monotonic() >= end:
                raise self._not_ready(unit, obstacle or "it ended", gave_up)
            pause(running, min(wait_s, max(0.0, end - time.monotonic())))
            wait_s = min(wait_s * 1.5, 0.2)

    def _not_ready(self, unit: UnitSpec, obstacle: str, gave_up: bool) -> SubstrateError:
        """Stops a unit that does not come up, so that it does not crash on and on, and says why."""
        paths = self._layout.host(unit.host)
        record = self._layout.read_unit(unit.host, unit.name)
        said = tail(paths.log(unit.name), 40, record.log_start_bytes if record else 0)
        with locked(paths.lock), self._answering(unit.host):
            self._supervisor(unit.host).stop(unit)
        last = telling_line(said)
        what = obstacle if gave_up else f"not ready in {unit.ready.timeout_s:g} s: {obstacle}"
        return SubstrateError(
            f"{unit.host}/{unit.name}",
            f"{what}; its log says: {last}" if last else what,
            f"see {paths.log(unit.name)}, mend it, run up again",
        )

    def _unit_process(self, host: str, name: str) -> Process | None:
        self._known(host, name)
        with self._answering(host):
            process = self._supervisor(host).process(name)
        return identify(process.pid) if process is not None and process.pid else None

    def _agent(self, host: str, agent: str) -> Process | None:
        """The agent's process, as hostd wrote it down: `PID STARTTIME`."""
        self._stack.host(host)
        _check_name("agent", agent)
        path = self._layout.host(host).run / "agents" / f"{agent}.pid"
        try:
            pid, starttime = path.read_text(encoding="ascii").split()
            return Process(int(pid), int(starttime))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise SubstrateError(
                f"{host}/agent/{agent}", f"{path} cannot be read: {error}", "restart it"
            ) from error


class _Answering:
    """Turns a supervisor that is down into a SubstrateError."""

    def __init__(self, host: str) -> None:
        self.host = host

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if isinstance(error, SupervisorDown):
            raise SubstrateError(f"host {self.host}", "it does not run", "run up, or restart it") from error


def _unit_state(host: str, name: str, spec_sha256: str, process: UnitProcess | None) -> UnitState:
    running = process is not None and process.running
    identity = identify(process.pid) if process is not None and running else None
    return UnitState(
        host=host,
        name=name,
        running=identity is not None,
        spec_sha256=spec_sha256,
        detail=process.detail if process is not None else "the host does not run it",
        instance=identity.instance if identity is not None else "",
    )


def _check_name(kind: str, name: str) -> None:
    if not re.fullmatch(NAME_PATTERN, name):
        raise SubstrateError(
            f"{kind} {name!r}", "it is no name", "use a-z, 0-9 and -, a letter first, at most 63"
        )
