"""The placeholders of a unit's specification: {data} {config} {run} {pki} {address} {local} {address:HOST}.

Only these are replaced; any other brace (JSON, Prometheus rules) stays as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

from infra.plan import UnitSpec
from infra.substrates.base import SubstrateError

_PLACEHOLDER = re.compile(r"\{(?:(data|config|run|pki|address|local)|address:([a-z][a-z0-9-]{0,62}))\}")


@dataclass(frozen=True)
class Places:
    """What the placeholders stand for, for one unit on one host. `address_of` raises SubstrateError."""

    data: str
    config: str
    run: str
    pki: str
    address: str
    local: str
    address_of: Callable[[str], str]

    def resolve(self, text: str) -> str:
        """`text` with every placeholder replaced. Raises SubstrateError for a host that is not known."""

        def value(match: re.Match[str]) -> str:
            host = match.group(2)
            return self.address_of(host) if host else str(getattr(self, match.group(1)))

        return _PLACEHOLDER.sub(value, text)


@dataclass(frozen=True)
class Rendition:
    """A unit's specification with nothing left to resolve."""

    args: tuple[str, ...]
    env: dict[str, str]
    files: dict[str, str]
    ready_path: str | None


def render(unit: UnitSpec, places: Places) -> Rendition:
    """Resolves everything in `unit`. Raises SubstrateError for unknown hosts and for escaping file names."""
    for name in unit.files:
        parts = name.split("/")
        if name.startswith("/") or "" in parts or ".." in parts:
            raise SubstrateError(
                f"{unit.host}/{unit.name}", f"the file name {name!r} leaves its folder", "use a relative name"
            )
    return Rendition(
        args=tuple(places.resolve(arg) for arg in unit.args),
        env={key: places.resolve(value) for key, value in unit.env.items()},
        files={name: places.resolve(content) for name, content in unit.files.items()},
        ready_path=None if unit.ready.path is None else places.resolve(unit.ready.path),
    )
