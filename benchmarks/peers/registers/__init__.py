"""How a client of each system writes and reads: by the means that the system's own users have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

OPERATION_S = 0.15
"""What one write may take, finding the server included, for every system."""


class Register(Protocol):
    """Sets of numbers, one per client. An exception: not acknowledged, and nobody knows what became of it."""

    async def add(self, client: str, n: int) -> str:
        """Puts `n` into the client's set; the host that acknowledged it."""
        ...

    async def kept(self, client: str) -> set[int]:
        """The client's set as the system holds it now."""
        ...

    async def drop(self) -> None:
        """Gives up connections after a failure; the next operation looks anew for who serves."""
        ...


def open_register(system: str, settings: Mapping[str, str]) -> Register:
    """The client's side of `system`. Imports late: not every interpreter has every system's library."""
    match system:
        case "vip":
            from benchmarks.peers.registers.vip import VipRegister

            return VipRegister(settings)
        case "sentinel":
            from benchmarks.peers.registers.sentinel import SentinelRegister

            return SentinelRegister(settings)
        case "postgres":
            from benchmarks.peers.registers.postgres import PostgresRegister

            return PostgresRegister(settings)
        case "agent":
            from benchmarks.peers.registers.agent import AgentRegister

            return AgentRegister(settings)
        case "hostd":
            from benchmarks.peers.registers.hostd import HostdRegister

            return HostdRegister(settings)
    raise ValueError(f"no register of kind {system!r}")


def hosts_of(settings: Mapping[str, str]) -> dict[str, str]:
    """The workers' addresses and names, from the setting `hosts`: `address=name,…`."""
    return {address: name for address, _, name in (p.partition("=") for p in settings["hosts"].split(","))}
