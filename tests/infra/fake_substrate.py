"""A substrate in a file: hosts and units are entries of a JSON document that a test may edit by hand."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from infra.plan import Environment, UnitSpec
from infra.substrates.base import Credentials, HostState, SubstrateError, UnitState
from infra.topology import HostSpec


class FakeSubstrate:
    """Keeps `{hosts: {name: {address, running}}, units: {host/name: {sha256, running}}, calls: […]}`."""

    def __init__(self, environment: Environment) -> None:
        self.folder = Path(environment.state_dir) / "fake"
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextmanager
    def edit(self) -> Iterator[dict[str, Any]]:
        with (self.folder / "world.json").open("a+") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            text = file.read()
            world = json.loads(text) if text else {"hosts": {}, "units": {}, "calls": [], "addresses": {}}
            yield world
            file.truncate(0)
            file.write(json.dumps(world))

    def create_host(self, host: HostSpec) -> HostState:
        with self.edit() as world:
            world["calls"].append(f"create_host {host.name}")
            address = world["addresses"].get(host.name, "127.0.0.1")
            world["hosts"][host.name] = {"address": address, "running": True}
            return HostState(name=host.name, address=address, running=True)

    def inspect_host(self, name: str) -> HostState | None:
        with self.edit() as world:
            found = world["hosts"].get(name)
            return HostState(name=name, **found) if found else None

    def delete_host(self, name: str) -> None:
        with self.edit() as world:
            world["calls"].append(f"delete_host {name}")
            world["hosts"].pop(name, None)
            world["units"] = {k: v for k, v in world["units"].items() if not k.startswith(f"{name}/")}

    def kill_host(self, name: str) -> None:
        with self.edit() as world:
            world["hosts"][name]["running"] = False

    def restart_host(self, name: str) -> None:
        with self.edit() as world:
            world["calls"].append(f"restart_host {name}")
            world["hosts"][name]["running"] = True

    def create_unit(self, unit: UnitSpec) -> UnitState:
        key = f"{unit.host}/{unit.name}"
        with self.edit() as world:
            world["calls"].append(f"create_unit {key}")
            if world.get("broken") == key:
                raise SubstrateError(key, "did not become ready within 10 s", "read its log")
            pause = world.get("pause")
            world["units"][key] = {"sha256": unit.sha256, "running": True}
        if pause:
            (self.folder / "paused").write_text(str(os.getpid()))
            with open(pause, "rb") as fifo:  # the test lets go by closing its end
                fifo.read()
        return UnitState(host=unit.host, name=unit.name, running=True, spec_sha256=unit.sha256)

    def inspect_unit(self, host: str, name: str) -> UnitState | None:
        with self.edit() as world:
            found = world["units"].get(f"{host}/{name}")
        if not found:
            return None
        return UnitState(host=host, name=name, running=found["running"], spec_sha256=found["sha256"])

    def delete_unit(self, host: str, name: str) -> None:
        with self.edit() as world:
            world["calls"].append(f"delete_unit {host}/{name}")
            world["units"].pop(f"{host}/{name}", None)

    def _set(self, host: str, name: str, running: bool) -> None:
        with self.edit() as world:
            world["calls"].append(f"{'start' if running else 'stop'}_unit {host}/{name}")
            world["units"][f"{host}/{name}"]["running"] = running

    def start_unit(self, host: str, name: str) -> None:
        self._set(host, name, True)

    def stop_unit(self, host: str, name: str) -> None:
        self._set(host, name, False)

    def signal(self, host: str, target: str, signal: str) -> None:
        self._set(host, target, False)

    def logs(self, host: str, name: str, lines: int = 100) -> str:
        return ""

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
        raise SubstrateError(host, "the fake runs nothing", "use a real substrate")

    def address(self, host: str) -> str:
        found = self.inspect_host(host)
        if found is None:
            raise SubstrateError(f"host {host}", "is not there", "bring the stack up")
        return found.address

    def credentials(self) -> Credentials:
        pki = self.folder / "pki"
        return Credentials(ca=pki / "ca.pem", cert=pki / "operator.pem", key=pki / "operator.key")

    def run_folder(self, host: str) -> str:
        return str(self.folder)

    def sweep(self) -> tuple[str, ...]:
        return ()

    def close(self) -> None:
        pass


def install(patch: Callable[[object, str, object], None] = setattr) -> None:
    """Makes every `open_substrate` of this process give the fake."""
    import infra.substrates

    patch(infra.substrates, "open_substrate", FakeSubstrate)
