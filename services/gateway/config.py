"""What the gateway finds in `THREENINES_CONFIG` (docs/contracts.md, Host configuration)."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec


class HostEntry(msgspec.Struct, frozen=True):
    """One host of the stack."""

    name: str
    address: str


class Peer(msgspec.Struct, frozen=True):
    """Another worker: its name, which its certificate must carry, and where to dial its gateway."""

    host: str
    connect_host: str
    connect_port: int


class Ports(msgspec.Struct, frozen=True):
    """Ports of this host's servers."""

    gateway: int = 7710


class GatewayConfig(msgspec.Struct, frozen=True):
    """The keys that the gateway uses; others are ignored."""

    host: str
    address: str
    local: str
    run: str
    pki: str
    hosts: tuple[HostEntry, ...] = ()
    peers: tuple[Peer, ...] = ()
    ports: Ports = Ports()


class ConfigError(Exception):
    """The configuration cannot be used; the text names file and mend."""


def load_config() -> GatewayConfig:
    """Reads the file that `THREENINES_CONFIG` names. Raises `ConfigError`."""
    name = os.environ.get("THREENINES_CONFIG")
    if not name:
        raise ConfigError("THREENINES_CONFIG is not set; start the gateway as a unit of a stack")
    try:
        return msgspec.json.decode(Path(name).read_bytes(), type=GatewayConfig)
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(f"{name}: {error}; write it with infra/units.py") from None
