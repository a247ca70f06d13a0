"""Which instance takes a call: pure, so that it can be judged against the optimum."""

from __future__ import annotations

from collections.abc import Mapping

from services.registry.model import Instance, InstanceState, Resolution, Role


class NoInstance(Exception):
    """Nobody may be asked now: no instance of the name is up."""

    def __init__(self, name: str) -> None:
        super().__init__(f"no instance of {name} is up")
        self.name = name


def choose(resolution: Resolution, local_host: str | None, inflight: Mapping[str, int]) -> Instance:
    """The instance for the next call: up ones only; primaries, then this host's, then the least busy one.

    `inflight` counts the caller's own unanswered calls to this name by host. Ties go to the resolution's
    order, which is best first. Raises `NoInstance`.
    """
    best: Instance | None = None
    best_rank: tuple[bool, bool, int] | None = None
    for instance in resolution.instances:
        if instance.state != InstanceState.UP:
            continue
        if best is None and len(resolution.instances) == 1:
            return instance
        rank = (
            instance.role != Role.PRIMARY,
            instance.host != local_host,
            inflight.get(instance.host, 0),
        )
        if best_rank is None or rank < best_rank:
            best, best_rank = instance, rank
    if best is None:
        raise NoInstance(resolution.name)
    return best
