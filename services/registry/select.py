"""Which instances of a name are answered, and in which order. Pure."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from services.registry.model import Instance, InstanceState, Role


class Want(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller asks for. The default: whoever is up."""

    states: frozenset[InstanceState] = frozenset({InstanceState.UP})
    tags: dict[str, str] = msgspec.field(default_factory=dict)
    category: str | None = None

    def accepts(self, instance: Instance) -> bool:
        """Every tag asked for must be there with that value."""
        return (
            instance.state in self.states
            and (self.category is None or instance.category == self.category)
            and all(instance.tags.get(key) == value for key, value in self.tags.items())
        )


WHOEVER_IS_UP = Want()
ANYONE = Want(states=frozenset(InstanceState))


def select(
    instances: Iterable[Instance], *, host: str | None, want: Want = WHOEVER_IS_UP
) -> tuple[Instance, ...]:
    """The wanted ones, best first: those of the caller's own `host`, then primaries, then by host name."""
    return tuple(
        sorted(
            (instance for instance in instances if want.accepts(instance)),
            key=lambda i: (i.host != host, i.role is not Role.PRIMARY, i.name, i.host),
        )
    )
