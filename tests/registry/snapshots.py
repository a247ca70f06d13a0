"""Makes entries for snapshot tests: what a generation must answer is computed from its number alone."""

from __future__ import annotations

from collections.abc import Sequence

from infra.topology import Criticality
from services.registry.model import Entry, Instance, InstanceState, Role


def instance(name: str, host: str = "mainpc", **fields: object) -> Instance:
    values: dict[str, object] = {"incarnation": 1, "state": InstanceState.UP, **fields}
    return Instance(name=name, host=host, **values)  # type: ignore[arg-type]


def entry(name: str, number: int = 1, *, padding: int = 0) -> Entry:
    """An entry that carries `number` in every instance."""
    return Entry(
        name=name,
        instances=(
            instance(name, "mainpc", incarnation=number, tags={"n": str(number)}, methods=("x" * padding,)),
            instance(name, "pc2", incarnation=number, role=Role.STANDBY, criticality=Criticality.CRITICAL),
        ),
    )


def fleet(names: Sequence[str], number: int, *, padding: int = 0) -> dict[str, Entry]:
    return {name: entry(name, number, padding=padding) for name in names}
