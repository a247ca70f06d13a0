"""Real etcd members on loopback ports, for tests and benchmarks: started, killed, frozen, cleaned up."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from services.registry.etcd import EtcdClient
from services.registry.etcd_types import Endpoint, EtcdError, MemberStatus

ROOT = Path(__file__).resolve().parents[2]
READY_S = 20.0


def etcd_binary() -> str | None:
    own = ROOT / ".tools" / "bin" / "etcd"
    return str(own) if own.exists() else shutil.which("etcd")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


@dataclass
class Member:
    name: str
    client_port: int
    peer_port: int
    endpoint: Endpoint
    process: subprocess.Popen[bytes] | None = None


@dataclass
class EtcdCluster:
    """`tls` (a folder with ca.pem, host.pem, host.key) makes it ask for client certificates."""

    size: int
    tls: Path | None = None
    extra: tuple[str, ...] = ()
    members: list[Member] = field(default_factory=list)
    folder: Path = field(default_factory=Path)

    def __enter__(self) -> EtcdCluster:
        shm = Path("/dev/shm")
        self.folder = Path(tempfile.mkdtemp(prefix="registry-etcd-", dir=shm if shm.is_dir() else None))
        ports = free_ports(2 * self.size)
        scheme = "https" if self.tls else "http"
        for index in range(self.size):
            name = f"m{index}"
            client, peer = ports[2 * index], ports[2 * index + 1]
            self.members.append(Member(name, client, peer, Endpoint(name, f"{scheme}://127.0.0.1:{client}")))
        try:
            for member in self.members:
                self.start(member)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for member in self.members:
            self.kill(member)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        return tuple(member.endpoint for member in self.members)

    def start(self, member: Member) -> None:
        binary = etcd_binary()
        assert binary is not None
        arguments = [
            binary,
            f"--name={member.name}",
            f"--data-dir={self.folder / member.name}",
            f"--listen-client-urls={member.endpoint.url}",
            f"--advertise-client-urls={member.endpoint.url}",
            f"--listen-peer-urls=http://127.0.0.1:{member.peer_port}",
            f"--initial-advertise-peer-urls=http://127.0.0.1:{member.peer_port}",
            "--initial-cluster=" + ",".join(f"{m.name}=http://127.0.0.1:{m.peer_port}" for m in self.members),
            "--heartbeat-interval=50",
            "--election-timeout=500",
            "--watch-progress-notify-interval=300ms",
            "--unsafe-no-fsync",
            "--log-level=error",
            *self.extra,
        ]
        if self.tls:
            arguments += [
                "--client-cert-auth",
                f"--trusted-ca-file={self.tls / 'ca.pem'}",
                f"--cert-file={self.tls / 'host.pem'}",
                f"--key-file={self.tls / 'host.key'}",
            ]
        with (self.folder / f"{member.name}.log").open("ab") as log:
            member.process = subprocess.Popen(
                arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={"PATH": os.environ["PATH"]}
            )

    def kill(self, member: Member) -> None:
        if member.process is not None:
            with contextlib.suppress(ProcessLookupError):
                member.process.send_signal(signal.SIGKILL)
            member.process.wait(timeout=10)
            member.process = None

    def freeze(self, member: Member) -> None:
        assert member.process is not None
        member.process.send_signal(signal.SIGSTOP)

    def thaw(self, member: Member) -> None:
        assert member.process is not None
        member.process.send_signal(signal.SIGCONT)

    def client(self, tls: ssl.SSLContext | None = None, **options: float) -> EtcdClient:
        return EtcdClient(self.endpoints, tls=tls, **options)

    async def ready(self, client: EtcdClient) -> None:
        async with asyncio.timeout(READY_S):
            while True:
                try:
                    await client.range("ready", timeout_s=1.0)
                    return
                except EtcdError:
                    await asyncio.sleep(0.05)

    async def statuses(self, client: EtcdClient) -> list[tuple[Member, MemberStatus]]:
        found: list[tuple[Member, MemberStatus]] = []
        for member in self.members:
            with contextlib.suppress(EtcdError):
                found.append((member, await client.status(member.endpoint, timeout_s=0.5)))
        return found

    async def whole(self, client: EtcdClient) -> None:
        """Every member answers."""
        for member in self.members:
            async with asyncio.timeout(READY_S):
                while True:
                    try:
                        await client.status(member.endpoint, timeout_s=0.5)
                        break
                    except EtcdError:
                        await asyncio.sleep(0.1)

    async def leader(self, client: EtcdClient) -> Member:
        async with asyncio.timeout(READY_S):
            while True:
                for member, status in await self.statuses(client):
                    if status.is_leader:
                        return member
                await asyncio.sleep(0.05)
