"""The fleets that are simulated: two workers as in the product, and three, where standbys differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from services.control.domains import Unit
from services.control.placement import Candidate


@dataclass(frozen=True, slots=True)
class Agent:
    """An agent as the manifest has it."""

    name: str
    home: str
    standby: str | None
    criticality: str = "standard"
    depends_on: tuple[str, ...] = ()

    def candidate(self) -> Candidate:
        return Candidate(self.name, self.criticality, self.depends_on)


@dataclass(frozen=True)
class Fleet:
    """`workers` serve agents, in the order that all of them know; `members` are etcd's."""

    workers: tuple[str, ...]
    members: tuple[str, ...]
    agents: Mapping[str, Agent]

    @cached_property
    def hosts(self) -> tuple[str, ...]:
        """All machines."""
        return tuple(dict.fromkeys((*self.workers, *self.members)))

    @cached_property
    def homes(self) -> dict[str, str]:
        """Agent and home."""
        return {name: agent.home for name, agent in self.agents.items()}

    @cached_property
    def standbys(self) -> dict[Unit, str]:
        """Who stands by for each agent that has a standby."""
        agents = self.agents.values()
        return {Unit(a.home, a.name): a.standby for a in agents if a.standby is not None}

    def ranks(self, host: str) -> dict[str, int]:
        """A host's place among the challengers of each peer: they take turns, beginning after the peer."""
        own, count = self.workers.index(host), len(self.workers)
        return {peer: (own - place - 1) % count for place, peer in enumerate(self.workers) if place != own}


def _fleet(workers: tuple[str, ...], members: tuple[str, ...], *agents: Agent) -> Fleet:
    return Fleet(workers, members, {agent.name: agent for agent in agents})


MEMBERS = ("mainpc", "pc2", "witness")
DUO = _fleet(
    ("mainpc", "pc2"),
    MEMBERS,
    Agent("speech", "mainpc", "pc2", "standard", ("memory",)),
    Agent("memory", "mainpc", "pc2", "critical"),
    Agent("vision", "pc2", "mainpc", "utility", ("memory",)),
    Agent("notes", "pc2", None),
)
TRIO = _fleet(
    ("mainpc", "pc2", "lab"),
    MEMBERS,
    Agent("speech", "mainpc", "lab", "standard", ("memory",)),
    Agent("memory", "mainpc", "pc2", "critical"),
    Agent("vision", "pc2", "mainpc", "utility"),
    Agent("sound", "lab", "pc2", "standard", ("vision",)),
)
FLEETS: Mapping[int, Fleet] = {len(fleet.workers): fleet for fleet in (DUO, TRIO)}
"""By the number of workers."""
