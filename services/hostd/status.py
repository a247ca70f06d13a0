"""What `GET /v1/status` answers."""

from __future__ import annotations

import socket
from pathlib import Path

import msgspec


class EtcdStatus(msgspec.Struct, frozen=True):
    ok: bool
    revision: int
    lag_ms: float | None


class SnapshotStatus(msgspec.Struct, frozen=True):
    generation: int
    age_ms: float | None
    stale: bool


class Status(msgspec.Struct, frozen=True):
    """`GET /v1/status`. `trouble`: what is wrong at present, in one line each."""

    host: str
    stack: str
    boot_id: str
    started_ns: int
    epoch: int
    lease_deadline_ns: int
    etcd: EtcdStatus
    agents: dict[str, int]
    zygote: str
    gateway: str
    snapshot: SnapshotStatus
    trouble: tuple[str, ...]


def listening(path: Path) -> str:
    """Whether somebody accepts on a socket: `up` or `down`. A Unix connect never waits."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except OSError:
            return "down"
    return "up"
