"""What holds for a whole stack of the process substrate: its network, who has which address, who owns it."""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path

import msgspec

from infra.pki import Authority, Leaf, PkiError
from infra.plan import Environment, NetworkMode
from infra.substrates.base import Credentials, SubstrateError
from infra.substrates.census import MARK, Census, group_base, marked, remove_group
from infra.substrates.files import explained, locked, make_folder, remove_tree, write_atomic
from infra.substrates.layout import (
    HostRecord,
    Layout,
    StackRecord,
    check_run_folder,
    run_root,
)
from infra.substrates.network import LoopbackNetwork, NamespaceNetwork, Network, choose
from infra.tools.paths import BIN, PROJECT_ROOT
from infra.topology import HostRole, HostSpec, TopologyError, load_fleet

_PASSED_ON = ("TZ", "LD_LIBRARY_PATH", "CUDA_VISIBLE_DEVICES")


class Stack:
    """One stack's decisions, kept in `stack.json` from its first host to its last. Safe between sessions."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self.name = environment.stack
        self.layout = Layout(environment)
        self.authority = Authority(self.layout.pki, self.name)

    # -- decisions

    def record(self) -> StackRecord:
        """What was decided. Raises SubstrateError when no host was made yet."""
        record = self.layout.read()
        if record is None:
            raise SubstrateError(f"stack {self.name}", "it does not stand here", "run up first")
        return record

    def mode(self) -> str:
        """How hosts get addresses: as decided; before the first one is made, as it would be decided now.

        Raises SubstrateError when the network that the environment wants cannot be had.
        """
        record = self._standing()
        return self._wanted_network().mode if record is None else record.mode

    def network(self, record: StackRecord | None = None) -> Network:
        """The stack's network, as decided."""
        record = record or self.record()
        kind = NamespaceNetwork if record.mode == NetworkMode.NAMESPACE else LoopbackNetwork
        return kind(self.name, record.subnet_index)

    def claim(self, host: HostSpec) -> HostRecord:
        """Decides what is not decided yet, gives `host` its address, and writes the intent to make it.

        Raises SubstrateError when another state directory's stack of this name runs, or when the decisions
        do not fit the environment any more.
        """
        with locked(self.layout.lock):
            record = self._decided()
            if host.name not in record.hosts:
                record = self._with_hosts(record, self._fleet_hosts() or (host.name,))
            if host.name not in record.hosts:
                record = self._with_hosts(record, (host.name,))
            paths = self.layout.host(host.name)
            check_run_folder(paths.run)
            network = self.network(record)
            index = record.hosts[host.name]
            made = HostRecord(
                name=host.name, role=host.role, address=network.address(index), local=network.local(index)
            )
            self._own(Path(record.run))
            for folder in (paths.units, paths.pki, paths.state / "logs", paths.state / "config"):
                make_folder(folder)
            write_atomic(paths.record, msgspec.json.encode(made))
            self._certify(made)
            network.ensure(host.name, index)
            make_folder(paths.run)
            make_folder(paths.run / "agents")
            return made

    def release(self, host: str) -> None:
        """Forgets a host whose processes are gone; after the last one, everything that they shared."""
        with locked(self.layout.lock):
            record = self.record()
            paths = self.layout.host(host)
            network = self.network(record)
            network.remove(host)
            group = self.group(host, record)
            if group is not None:
                remove_group(group)
            remove_tree(paths.run)
            remove_tree(paths.units)
            remove_tree(paths.state / "config")
            remove_tree(paths.pki)
            with explained(paths.record):
                paths.supervisor_config.unlink(missing_ok=True)
                paths.record.unlink(missing_ok=True)
            if not self.layout.host_names():
                self.release_shared(record, network)

    def release_shared(self, record: StackRecord, network: Network) -> tuple[str, ...]:
        """Removes bridge, control group and run folder of a stack without hosts; says what there was."""
        found = list(network.remove_shared())
        if record.cgroup is not None:
            remove_group(Path(record.cgroup))
        remove_tree(Path(record.run))
        with explained(self.layout.record):
            if not any(run_root().glob("*")) and run_root().is_dir():
                run_root().rmdir()
            self.layout.record.unlink(missing_ok=True)
        return tuple(found)

    # -- views

    def host(self, name: str) -> HostRecord:
        """The record of a host that was made. Raises SubstrateError."""
        record = self.layout.read_host(name)
        if record is None:
            raise SubstrateError(f"host {name}", f"the stack {self.name} has no such host", "run up first")
        return record

    def address_of(self, host: str) -> str:
        """The address of a host that was made or will be: fixed by its place in the fleet."""
        record = self.record()
        if host not in record.hosts:
            with locked(self.layout.lock):
                record = self._with_hosts(self.record(), self._fleet_hosts())
        if host not in record.hosts:
            raise SubstrateError(f"host {host}", "the fleet has no such host", "add it to the manifest")
        return self.network(record).address(record.hosts[host])

    def group(self, host: str, record: StackRecord | None = None) -> Path | None:
        """The host's control group, None where there are none."""
        base = (record or self.record()).cgroup
        return None if base is None else Path(base) / host

    def census(self, host: str) -> Census:
        """Who belongs to the host."""
        record = self.record()
        return Census(
            stack=self.name,
            host=host,
            cgroup=self.group(host, record),
            namespace=self.network(record).namespace(host),
        )

    def launcher(self, host: str) -> tuple[str, ...]:
        """What to put before a command line so that it runs on the host: its control group, its network."""
        enter = self.network().enter(host)
        group = self.group(host)
        if group is None:
            return enter
        make_folder(group, 0o755)
        join = 'echo 0 > "$0" || exit 126; exec "$@"'
        return ("/bin/sh", "-c", join, str(group / "cgroup.procs"), *enter)

    def variables(self, host: HostRecord, data: Path) -> dict[str, str]:
        """The THREENINES_* variables of a program on `host` whose own folder is `data`."""
        paths = self.layout.host(host.name)
        return {
            "THREENINES_STACK": self.name,
            "THREENINES_HOST": host.name,
            "THREENINES_ADDRESS": host.address,
            "THREENINES_LOCAL": host.local,
            "THREENINES_RUN": str(paths.run),
            "THREENINES_DATA": str(data),
            "THREENINES_PKI": str(paths.pki),
            MARK: f"{self.name}/{host.name}",
        }

    def credentials(self) -> Credentials:
        """The operator's certificate. Raises SubstrateError when the stack has none yet."""
        leaf = self._operator()
        if not (leaf.cert.exists() and leaf.key.exists()):
            raise SubstrateError(f"stack {self.name}", "the operator has no certificate yet", "run up first")
        return Credentials(ca=self.authority.certificate_path, cert=leaf.cert, key=leaf.key)

    # -- inner

    def _decided(self) -> StackRecord:
        record, wanted = self._standing(), self.environment
        if record is not None:
            fits = wanted.network in (NetworkMode.AUTO, record.mode)
            if fits and wanted.subnet_index == record.subnet_index:
                return record
            raise SubstrateError(
                f"stack {self.name}",
                f"it stands on network {record.mode}, subnet_index {record.subnet_index}",
                "bring it down before you change them",
            )
        network = self._wanted_network()
        group = group_base(self.name)
        record = StackRecord(
            mode=network.mode,
            subnet_index=wanted.subnet_index,
            run=str(run_root() / self.name),
            cgroup=None if group is None else str(group),
            hosts={name: index for index, name in enumerate(self._fleet_hosts())},
        )
        self.layout.write(record)
        return record

    def _standing(self) -> StackRecord | None:
        """What was decided, while there is a host for which it holds."""
        return self.layout.read() if self.layout.host_names() else None

    def _wanted_network(self) -> Network:
        return choose(self.environment.network, self.name, self.environment.subnet_index)

    def _with_hosts(self, record: StackRecord, names: tuple[str, ...]) -> StackRecord:
        hosts = dict(record.hosts)
        for name in names:
            hosts.setdefault(name, max(hosts.values(), default=-1) + 1)
        record = StackRecord(
            mode=record.mode,
            subnet_index=record.subnet_index,
            run=record.run,
            cgroup=record.cgroup,
            hosts=hosts,
        )
        self.layout.write(record)
        return record

    def _fleet_hosts(self) -> tuple[str, ...]:
        """The hosts in the fleet's order; empty where the environment names no manifest."""
        if not self.environment.fleet or not Path(self.environment.fleet).is_file():
            return ()
        try:
            return tuple(host.name for host in load_fleet(self.environment.fleet).hosts)
        except TopologyError as error:
            raise SubstrateError(
                self.environment.fleet, "the manifest is not valid", "see threenines check"
            ) from error

    def _own(self, run: Path) -> None:
        """Marks the run folder as this state directory's. Raises SubstrateError when that is not so."""
        for folder in (run.parent, run):
            make_folder(folder)
            with explained(folder):
                found = folder.lstat()
                if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
                    raise SubstrateError(str(folder), "it belongs to somebody else", "set XDG_RUNTIME_DIR")
                folder.chmod(0o700)
        owner = run / "owner"
        with explained(owner):
            other = owner.read_text(encoding="utf-8") if owner.exists() else ""
        if other and other != str(self.layout.state) and self.alive():
            raise SubstrateError(
                f"stack {self.name}",
                f"one of this name runs from {other}",
                "bring it down or name yours otherwise",
            )
        write_atomic(owner, str(self.layout.state))

    def foreign(self) -> bool:
        """Whether the run folder is another state directory's, whose stack lives."""
        owner = self.layout.run() / "owner"
        with explained(owner):
            other = owner.read_text(encoding="utf-8") if owner.exists() else ""
        return bool(other) and other != str(self.layout.state) and self.alive()

    def alive(self) -> bool:
        """Whether any process carries a mark of a stack of this name."""
        return bool(marked(lambda environ: environ.get(MARK, "").startswith(f"{self.name}/")))

    def _operator(self) -> Leaf:
        return Leaf(self.layout.pki / "operator.pem", self.layout.pki / "operator.key")

    def _certify(self, host: HostRecord) -> None:
        folder = self.layout.host(host.name).pki
        # A program on a host without a namespace leaves by 127.0.0.1, whatever address it listens on.
        names = tuple(dict.fromkeys((host.name, host.address, host.local, "localhost", "127.0.0.1")))
        try:
            write_atomic(folder / "ca.pem", self.authority.ensure())
            self.authority.ensure_leaf(self._operator(), "operator", ("operator",))
            leaf = Leaf(folder / "host.pem", folder / "host.key")
            self.authority.ensure_leaf(leaf, f"host:{host.name}", names)
            if host.role is HostRole.WORKER:
                monitor = Leaf(folder / "monitor.pem", folder / "monitor.key")
                self.authority.ensure_leaf(monitor, "monitor", names)
        except PkiError as error:
            raise SubstrateError(
                f"stack {self.name}", str(error), "certificates are made anew by up"
            ) from error


def base_environment() -> dict[str, str]:
    """What every program starts with, whoever starts it: never the caller's whole environment."""
    system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {
        **env,
        "PATH": os.pathsep.join((str(BIN), str(Path(sys.executable).parent), system)),
        "HOME": os.environ.get("HOME", "/"),
        "LANG": "C.UTF-8",
        "PYTHONPATH": str(PROJECT_ROOT),
        "PYTHONUNBUFFERED": "1",
    }
