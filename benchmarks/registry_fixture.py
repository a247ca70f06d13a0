"""Believable registry entries for the benchmarks of discovery."""

from __future__ import annotations

from infra.topology import Criticality
from services.registry.model import Entry, Instance, InstanceState, Role

CATEGORIES = ("speech", "vision", "memory", "reasoning", "tools", "translation", "learning", "monitoring")


def agent_name(number: int) -> str:
    return f"{CATEGORIES[number % len(CATEGORIES)]}-agent-{number:05}"


def instance(number: int, host: str, role: Role, incarnation: int = 1) -> Instance:
    return Instance(
        name=agent_name(number),
        host=host,
        incarnation=incarnation,
        state=InstanceState.UP,
        role=role,
        category=CATEGORIES[number % len(CATEGORIES)],
        criticality=list(Criticality)[number % 3],
        tags={"team": "assistant", "tier": str(number % 3)},
        methods=("get", "put", "list", "_ping", "_describe", "_metrics"),
        epoch=3,
        since_ns=123_456_789_000,
    )


def fleet(size: int, incarnation: int = 1) -> dict[str, Entry]:
    """`size` agents, each with a primary on one host and a standby on the other."""
    entries = {}
    for number in range(size):
        home, standby = ("mainpc", "pc2") if number % 77 < 54 else ("pc2", "mainpc")
        entries[agent_name(number)] = Entry(
            name=agent_name(number),
            instances=(
                instance(number, home, Role.PRIMARY, incarnation),
                instance(number, standby, Role.STANDBY, incarnation),
            ),
        )
    return entries
