"""One or more hosts on loopback addresses with a real etcd, zygote and hostd each: the live tests' ground."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from infra.pki import Authority, Leaf
from infra.tools.paths import ToolMissing, tool_path
from infra.topology import AgentSpec

T = TypeVar("T")
PATIENCE_S = 45.0


def wait_for(what: str, probe: Callable[[], T | None], timeout_s: float = PATIENCE_S) -> T:
    """The first answer of `probe` that is neither None nor False; asked every few milliseconds."""
    deadline = time.monotonic() + timeout_s
    last: BaseException | None = None
    while time.monotonic() < deadline:
        try:
            value = probe()
        except (OSError, http.client.HTTPException, ValueError, KeyError) as error:
            last, value = error, None
        if value is not None and value is not False:
            return value
        time.sleep(0.01)
    raise AssertionError(f"{what} did not happen within {timeout_s:g} s ({last!r})")


def etcd_path() -> Path | None:
    try:
        return tool_path("etcd")
    except ToolMissing:
        return None


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


class Etcd:
    """A single member, to be killed, frozen and started again."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.port = free_port("127.0.0.1")
        self._peer_port = free_port("127.0.0.1")
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        program = etcd_path()
        assert program is not None
        self.process = subprocess.Popen(
            [
                str(program),
                f"--data-dir={self._folder}/etcd",
                f"--listen-client-urls={self.url}",
                f"--advertise-client-urls={self.url}",
                f"--listen-peer-urls=http://127.0.0.1:{self._peer_port}",
                f"--initial-advertise-peer-urls=http://127.0.0.1:{self._peer_port}",
                f"--initial-cluster=default=http://127.0.0.1:{self._peer_port}",
                "--heartbeat-interval=50",
                "--election-timeout=500",
                "--watch-progress-notify-interval=500ms",
                "--unsafe-no-fsync",
                "--log-level=error",
            ],
            stdout=subprocess.DEVNULL,
            stderr=(self._folder / "etcd.log").open("ab"),
        )

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None


class Redis:
    """A Redis with the certificate of one host; asks for the client's."""

    def __init__(self, folder: Path, pki: Path, host: str) -> None:
        self.host = host
        self.port = free_port("127.0.0.1")
        self._process = subprocess.Popen(
            [
                str(tool_path("redis-server")),
                *("--port", "0", "--tls-port", str(self.port), "--bind", "127.0.0.1"),
                *("--tls-cert-file", f"{pki}/host.pem", "--tls-key-file", f"{pki}/host.key"),
                *("--tls-ca-cert-file", f"{pki}/ca.pem", "--tls-auth-clients", "yes"),
                *("--dir", str(folder), "--save", ""),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class MiniHost:
    """hostd and zygote of one host."""

    def __init__(self, stack: MiniStack, name: str, address: str) -> None:
        self.stack = stack
        self.name = name
        self.address = address
        self.local = f"127.77.{91 + stack.index(name)}.1"
        self.run = stack.folder / name
        self.data = stack.folder / f"{name}-data"
        self.pki = stack.folder / f"{name}-pki"
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        for folder in (self.run, self.data, self.pki):
            folder.mkdir(exist_ok=True)
        self.ports = {
            "hostd": free_port(address),
            "hostd_local": free_port(self.local),
            "gateway": free_port(address),
        }

    def configure(self) -> None:
        shutil.copy(self.stack.folder / "ca" / "ca.pem", self.pki / "ca.pem")
        leaf = Leaf(self.pki / "host.pem", self.pki / "host.key")
        names = (self.name, "localhost", self.address, self.local, "127.0.0.1")
        self.stack.authority.ensure_leaf(leaf, f"host:{self.name}", names)
        config = {
            "schema": "threenines.host/1",
            "stack": "mini",
            "host": self.name,
            "role": "worker",
            "index": 0,
            "address": self.address,
            "local": self.local,
            "run": str(self.run),
            "data": str(self.data),
            "pki": str(self.pki),
            "chaos": True,
            "hosts": [
                {"name": other.name, "role": "worker", "index": 0, "address": other.address}
                for other in self.stack.hosts.values()
            ],
            "etcd": [{"host": "mainpc", "url": self.stack.etcd.url}],
            "redis": [{"host": self.stack.redis.host, "address": "127.0.0.1", "port": self.stack.redis.port}]
            if self.stack.redis is not None
            else [],
            "peers": [
                {"host": other.name, "connect_host": other.address, "connect_port": other.ports["gateway"]}
                for other in self.stack.hosts.values()
                if other is not self
            ],
            "ports": self.ports,
            "supervision": self.stack.supervision,
            **self.stack.more,
        }
        (self.data / "hostd.json").write_text(json.dumps(config))

    def start(self, unit: str) -> None:
        module = {
            "hostd": "services.hostd",
            "zygote": "services.agent.zygote",
            "gateway": "services.gateway",
        }[unit]
        environment = {
            **os.environ,
            "THREENINES_STACK": "mini",
            "THREENINES_HOST": self.name,
            "THREENINES_ADDRESS": self.address,
            "THREENINES_LOCAL": self.local,
            "THREENINES_RUN": str(self.run),
            "THREENINES_DATA": str(self.data),
            "THREENINES_PKI": str(self.pki),
            "THREENINES_CONFIG": str(self.data / "hostd.json"),
            "THREENINES_PRELOAD": "services.agent.reference,tests.hostd.subjects",
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
        }
        self.processes[unit] = subprocess.Popen(
            [sys.executable, "-m", module],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=(self.data / f"{unit}.log").open("ab"),
        )

    def stop(self, unit: str, number: signal.Signals = signal.SIGTERM) -> int:
        process = self.processes.pop(unit)
        process.send_signal(number)
        return process.wait(10.0)

    def get(self, path: str) -> tuple[int, Any]:
        """Over the plain local port."""
        connection = http.client.HTTPConnection(self.local, self.ports["hostd_local"], timeout=10)
        with contextlib.closing(connection):
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, _decoded(answer)

    def ask(self, method: str, path: str, body: object = None, *, role: str = "operator") -> tuple[int, Any]:
        """Over mutual TLS with the certificate of a role."""
        context = ssl.create_default_context(cafile=str(self.stack.folder / "ca" / "ca.pem"))
        leaf = self.stack.leaf(role)
        context.load_cert_chain(leaf.cert, leaf.key)
        connection = http.client.HTTPSConnection(
            self.address, self.ports["hostd"], timeout=30, context=context
        )
        with contextlib.closing(connection):
            raw = body if isinstance(body, bytes) or body is None else msgspec.json.encode(body)
            connection.request(method, path, raw)
            answer = connection.getresponse()
            return answer.status, _decoded(answer)

    def ready(self) -> None:
        wait_for(f"hostd on {self.name} ready", lambda: self.get("/v1/ready")[0] == 200)

    def put(self, spec: AgentSpec, wait_s: float = 10.0) -> Any:
        status, answer = self.ask("PUT", f"/v1/agents/{spec.name}?wait_s={wait_s}", spec)
        assert status == 200, answer
        return answer

    def pid(self, agent: str) -> int:
        return int((self.run / "agents" / f"{agent}.pid").read_text().split()[0])

    def up(self, agent: str) -> int | None:
        """The incarnation that is in this host's answers, None when nobody is."""
        status, answer = self.get(f"/v1/resolve/{agent}")
        if status != 200 or not answer["instances"]:
            return None
        return int(answer["instances"][0]["incarnation"])

    def events(self, agent: str | None = None) -> list[dict[str, Any]]:
        _, lines = self.get("/v1/events")
        return [one for one in lines if agent is None or one["agent"] == agent]

    def kill_agents(self) -> None:
        for path in (self.run / "agents").glob("*.pid"):
            pid, ticks = path.read_text().split()[:2]
            with contextlib.suppress(OSError, IndexError):
                now = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19]
                if now.decode() == ticks:
                    os.kill(int(pid), signal.SIGKILL)


class MiniStack:
    """Hosts by name; use as a context manager."""

    def __init__(
        self,
        hosts: Sequence[str] = ("mainpc",),
        supervision: dict[str, int] | None = None,
        more: dict[str, object] | None = None,
    ) -> None:
        """`more`: further keys of every host's configuration."""
        self.more = more or {}
        self.folder = Path(tempfile.mkdtemp(prefix="3nh-", dir="/tmp"))
        self.supervision = supervision or {}
        self._names = tuple(hosts)
        self.etcd = Etcd(self.folder)
        self.redis: Redis | None = None
        self.authority = Authority(self.folder / "ca", "mini", write=_write)
        self.authority.ensure()
        self._leaves: dict[str, Leaf] = {}
        self.hosts = {name: MiniHost(self, name, f"127.77.90.{1 + self.index(name)}") for name in self._names}

    def index(self, name: str) -> int:
        return self._names.index(name)

    def leaf(self, role: str) -> Leaf:
        if role not in self._leaves:
            stem = role.replace(":", "-")
            leaf = Leaf(self.folder / f"{stem}.pem", self.folder / f"{stem}.key")
            self.authority.ensure_leaf(leaf, role, ())
            self._leaves[role] = leaf
        return self._leaves[role]

    def __enter__(self) -> MiniStack:
        for host in self.hosts.values():
            host.configure()
        self.leaf("operator")
        return self

    def add_redis(self, host: str) -> None:
        """Before `start`: a Redis on one host, which all know of."""
        self.redis = Redis(self.folder, self.hosts[host].pki, host)
        for one in self.hosts.values():
            one.configure()

    def start(self) -> None:
        self.etcd.start()
        for host in self.hosts.values():
            host.start("zygote")
            host.start("hostd")
        for host in self.hosts.values():
            host.ready()

    def __exit__(self, *_: object) -> None:
        for host in self.hosts.values():
            for process in host.processes.values():
                process.kill()
                process.wait()
            host.kill_agents()
        self.etcd.stop()
        if self.redis is not None:
            self.redis.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def logs(self) -> Iterator[str]:
        for path in sorted(self.folder.glob("*-data/*.log")):
            yield f"--- {path.name}\n{path.read_text(errors='replace')[-4000:]}"


def _write(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)


def _decoded(answer: http.client.HTTPResponse) -> Any:
    raw = answer.read()
    kind = answer.headers.get_content_type()
    if kind == "application/x-ndjson":
        return [json.loads(line) for line in raw.splitlines()]
    return json.loads(raw) if kind == "application/json" else raw.decode()
