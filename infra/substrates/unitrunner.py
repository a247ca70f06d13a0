"""Units on the hosts of a stack: written down, handed to the host's supervisor, waited for, taken away."""

from __future__ import annotations

import hashlib
import sys
import time

import msgspec

from infra.plan import UnitSpec
from infra.substrates.base import SubstrateError, UnitState
from infra.substrates.census import Process, identify
from infra.substrates.files import explained, locked, make_folder, remove_tree, tail, write_atomic
from infra.substrates.layout import HostPaths, HostRecord, UnitRecord
from infra.substrates.placeholders import Places, Rendition, render
from infra.substrates.readiness import Target, holder, listeners, pause, telling_line
from infra.substrates.stack import Stack
from infra.substrates.supervision import (
    LOG_BYTES,
    Supervisor,
    SupervisorDown,
    UnitPhase,
    UnitProcess,
    unit_ini,
    unit_script,
)
from infra.tools.paths import ToolMissing, tool_path


class UnitRunner:
    """The units of one stack. Every method raises SubstrateError."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._layout = stack.layout

    def create(self, unit: UnitSpec) -> UnitState:
        """Starts the unit, or replaces one of another form, and waits until it is ready."""
        host = self._stack.host(unit.host)
        paths = self._layout.host(unit.host)
        rendition = self._render(host, unit)
        argv = (program_of(unit.program, f"{unit.host}/{unit.name}"), *rendition.args)
        fingerprint = self._fingerprint(unit, argv, rendition, paths)
        with locked(paths.lock), answering(unit.host):
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

    def inspect(self, host: str, name: str) -> UnitState | None:
        """The unit as it is, None when there is none."""
        record = self._layout.read_unit(host, name)
        if record is None:
            return None
        try:
            process = self._supervisor(host).process(name)
        except SupervisorDown:
            process = None
        return _unit_state(host, name, record.spec_sha256, process)

    def delete(self, host: str, name: str) -> None:
        """Stops the unit and forgets it; its data and its log stay."""
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

    def start(self, host: str, name: str) -> None:
        """Starts a stopped unit and waits until it is ready."""
        record, unit = self._known(host, name)
        with locked(self._layout.host(host).lock), answering(host):
            supervisor = self._supervisor(host)
            process = supervisor.process(name)
            if process is None:
                supervisor.add(name)
            elif not process.running:
                supervisor.start(name)
        self._await_ready(record, unit)

    def stop(self, host: str, name: str) -> None:
        """Stops the unit; it stays known."""
        _, unit = self._known(host, name)
        with locked(self._layout.host(host).lock), answering(host):
            self._supervisor(host).stop(unit)

    def process(self, host: str, name: str) -> Process | None:
        """The process that the unit runs as, None when it does not run."""
        self._known(host, name)
        with answering(host):
            process = self._supervisor(host).process(name)
        return identify(process.pid) if process is not None and process.pid else None

    # -- inner

    def _supervisor(self, host: str) -> Supervisor:
        return Supervisor(host, self._layout.host(host).supervisor_socket)

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
            credentials=self._stack.credentials(),
        )
        end = time.monotonic() + unit.ready.timeout_s
        seen: set[Process] = set()
        wait_s = 0.01
        while True:
            with answering(unit.host):
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
        with locked(paths.lock), answering(unit.host):
            self._supervisor(unit.host).stop(unit)
        last = telling_line(said)
        what = obstacle if gave_up else f"not ready in {unit.ready.timeout_s:g} s: {obstacle}"
        return SubstrateError(
            f"{unit.host}/{unit.name}",
            f"{what}; its log says: {last}" if last else what,
            f"see {paths.log(unit.name)}, mend it, run up again",
        )


def program_of(name: str, where: str) -> str:
    """The path of a logical program ("python", "etcd"). Raises SubstrateError when it is missing."""
    if name == "python":
        return sys.executable
    if "/" in name:
        return name
    try:
        return str(tool_path(name))
    except ToolMissing as error:
        raise SubstrateError(where, error.what, error.mend) from error


class answering:
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
