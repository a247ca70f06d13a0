"""Three hosts on a bridge, for every system the same: the project's process substrate without its units.

A host is a network namespace; programs are started on it with `spawn`, and `kill` ends every one of them at
once. `unplug` takes the host's link off the bridge: nothing passes, nothing is refused, and the host sees its
link up, as when a switch fails; a pulled cable would tell the host.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from benchmarks.peers.packages import Tools
from infra.exclusive import exclusive
from infra.plan import Environment
from infra.substrates import open_substrate
from infra.substrates.base import Substrate, SubstrateError
from infra.substrates.network import NamespaceNetwork
from infra.topology import HostRole, HostSpec

STACK = "peers"
SUBNET_INDEX = 191
MAIN, OTHER, WITNESS = "mainpc", "pc2", "witness"
WORKERS = (MAIN, OTHER)
HOSTS = (MAIN, OTHER, WITNESS)
ROOT = Path(tempfile.gettempdir()) / f"threenines-peers-{os.geteuid()}"
"""Always the same place, so that the next start finds what a killed one left."""

_MEMORY = 'category: core, handler: "services.agent.reference:MemoryAgent"'
FLEET = f"""\
schema: threenines.fleet/1
name: peers
hosts:
  - {{name: mainpc, role: worker}}
  - {{name: pc2, role: worker}}
  - {{name: witness, role: witness}}
agents:
  - name: register
    home: mainpc
    standby: pc2
    criticality: critical
    category: core
    handler: benchmarks.peers.register_agent:RegisterAgent
  - {{name: memory-a, home: mainpc, standby: pc2, {_MEMORY}}}
  - {{name: memory-b, home: mainpc, standby: pc2, {_MEMORY}}}
  - {{name: memory-c, home: pc2, standby: mainpc, {_MEMORY}}}
  - {{name: memory-d, home: pc2, standby: mainpc, {_MEMORY}}}
"""
"""What ours runs; the peers use only the hosts."""


class Site:
    """The hosts, and the programs of one system on them."""

    def __init__(self, environment: Environment, tools: Tools) -> None:
        self.environment = environment
        self.tools = tools
        self.substrate: Substrate = open_substrate(environment)
        self.folder = ROOT / "files"
        self._network = NamespaceNetwork(environment.stack, environment.subnet_index)
        self._started: list[tuple[str, subprocess.Popen[bytes]]] = []
        self._logs: list[IO[bytes]] = []
        self._links: dict[str, str] = {}

    def address(self, host: str) -> str:
        """The host's address on the bridge."""
        return self.substrate.address(host)

    @property
    def virtual(self) -> str:
        """An address of the bridge's network that belongs to nobody."""
        return self.address(MAIN).rsplit(".", 1)[0] + ".100"

    def make(self) -> None:
        """Empty hosts and an empty folder for files."""
        self.clear()
        self.folder.mkdir(mode=0o711, parents=True)
        for name in HOSTS:
            role = HostRole.WITNESS if name == WITNESS else HostRole.WORKER
            self.substrate.create_host(HostSpec(name=name, role=role))
            self._links[name] = self._link(name)

    def clear(self) -> None:
        """No hosts, no programs, no files. Also of an earlier session that was killed."""
        for host in HOSTS:
            self.substrate.delete_host(host)
        for _, process in self._started:
            process.wait()
        self._started.clear()
        for log in self._logs:
            log.close()
        self._logs.clear()
        self.substrate.sweep()
        subprocess.run(["rm", "-rf", "--", str(self.folder)], check=True)

    def spawn(
        self,
        host: str,
        argv: Sequence[str],
        *,
        name: str,
        env: Mapping[str, str] = {},
        stdin: int | None = subprocess.DEVNULL,
        stdout: int | None = None,
    ) -> subprocess.Popen[bytes]:
        """Runs a program on the host; what it says is in `files/<host>-<name>.log`."""
        log = (self.folder / f"{host}-{name}.log").open("ab")
        self._logs.append(log)
        process = self.substrate.spawn(
            host, argv, env=env, stdin=stdin, stdout=log if stdout is None else stdout, stderr=log
        )
        self._started = [(place, one) for place, one in self._started if one.poll() is None]
        self._started.append((host, process))
        return process

    def kill(self, host: str) -> None:
        """SIGKILL to every program of the host."""
        self.substrate.kill_host(host)

    def restart(self, host: str) -> None:
        """The killed host is there again, with its units, if it has any."""
        self.substrate.restart_host(host)

    def keep_logs(self, target: Path) -> None:
        """Copies what the programs said to a folder that stays."""
        for log in ROOT.rglob("*.log"):
            place = target / log.relative_to(ROOT)
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(log, place)

    def unplug(self, host: str) -> None:
        """Takes the host off the bridge."""
        _ip("link", "set", "dev", self._links[host], "nomaster")

    def plug(self, host: str) -> None:
        """Puts it on again."""
        _ip("link", "set", "dev", self._links[host], "master", self._network.bridge)

    def forget_address(self, host: str, address: str) -> None:
        """Takes an address away from the host, if it has it: it would not have come back from a power cut."""
        namespace = self._network.namespace(host).name
        if address in self.addresses(host):
            _ip("-n", namespace, "address", "delete", f"{address}/24", "dev", "eth0")

    def addresses(self, host: str) -> frozenset[str]:
        """The addresses that the host has on the bridge."""
        namespace = self._network.namespace(host).name
        shown = json.loads(_ip("-n", namespace, "-j", "-4", "address", "show", "dev", "eth0"))
        return frozenset(str(one["local"]) for one in shown[0]["addr_info"])

    def _link(self, host: str) -> str:
        namespace = self._network.namespace(host).name
        inside = json.loads(_ip("-n", namespace, "-j", "link", "show", "dev", "eth0"))[0]
        for outside in json.loads(_ip("-j", "link", "show")):
            if outside["ifindex"] == inside["link_index"]:
                return str(outside["ifname"])
        raise SubstrateError(f"host {host}", "its link has no root side", "start the comparison again")


@contextlib.contextmanager
def open_site(tools: Tools) -> Iterator[Site]:
    """The place for the comparison, cleared before and after. Raises SubstrateError (Occupied)."""
    ROOT.mkdir(mode=0o711, exist_ok=True)
    fleet = ROOT / "fleet.yaml"
    fleet.write_text(FLEET)
    environment = Environment(
        stack=STACK,
        failover=True,
        fleet=str(fleet),
        state_dir=str(ROOT / "state"),
        network="namespace",
        subnet_index=SUBNET_INDEX,
    )
    with exclusive(environment, "benchmarks peers"):
        site = Site(environment, tools)
        try:
            yield site
        finally:
            site.clear()
    subprocess.run(["rm", "-rf", "--", str(ROOT)], check=True)


def _ip(*args: str) -> str:
    try:
        done = subprocess.run(["ip", *args], capture_output=True, text=True, check=True, timeout=20)
    except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
        said = " ".join(str(error.stderr or error).split())
        raise SubstrateError(f"ip {' '.join(args)}", said, "run as root, with iproute2") from error
    return done.stdout
