"""What a definition must satisfy before this host takes it. The manifest's loader is stricter."""

from __future__ import annotations

import re
from collections.abc import Mapping

import msgspec

from infra.topology import NAME_PATTERN, AgentSpec, HealthKind

MAX_BODY_BYTES = 1 << 18
_NAME = re.compile(NAME_PATTERN)


def read_spec(body: bytes, name: str) -> AgentSpec:
    """The definition in a request's body. Raises ValueError with one line that names the fault."""
    try:
        spec = msgspec.json.decode(body, type=AgentSpec)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"not an agent's definition: {error}") from None
    if spec.name != name:
        raise ValueError(f"name is {spec.name[:64]!r}, the path says {name[:64]!r}")
    return spec


def objection(spec: AgentSpec, roles: Mapping[str, str]) -> str | None:
    """Why a definition cannot be run, in one line. `roles`: host to role, of the whole stack."""
    health = spec.health
    table: tuple[tuple[bool, str], ...] = (
        (_NAME.fullmatch(spec.name) is None, f"name {spec.name[:64]!r} does not match {NAME_PATTERN}"),
        (roles.get(spec.home) != "worker", f"home {spec.home[:64]!r} is no worker of this stack"),
        (
            spec.standby is not None and roles.get(spec.standby) != "worker",
            f"standby {spec.standby!r} is no worker of this stack",
        ),
        (spec.standby == spec.home, "standby and home are the same host"),
        ((spec.handler is None) == (spec.command is None), "give either handler or command"),
        (spec.command is not None and not spec.command, "command is empty"),
        (spec.command is not None and spec.port is None, "a command needs a port"),
        (spec.port is not None and not 1 <= spec.port <= 65535, f"port {spec.port} is out of range"),
        (
            (spec.command is not None) == (health.kind is HealthKind.SDK),
            "a command is checked by http or tcp, a handler by sdk",
        ),
        (health.interval_ms < 20 or health.timeout_ms < 1, "health: interval_ms from 20, timeout_ms from 1"),
        (health.unhealthy_after < 1, "health: unhealthy_after must be at least 1"),
        (not health.path.startswith("/"), "health: path must begin with /"),
        (spec.name in spec.depends_on, "it depends on itself"),
    )
    return next((text for wrong, text in table if wrong), None)
