"""Which of the agents to be promoted fit on this host, and in which order they start. Pure.

Critical agents come first, and what they depend on comes before them: a dependency is as urgent as the most
urgent agent that needs it. An agent is placed with all of its dependencies that do not run yet, or not.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

URGENCY: Mapping[str, int] = {"critical": 0, "standard": 1, "utility": 2}
"""Criticalities of the manifest, most urgent first."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """An agent that this host is to serve. Sizes in MiB; 0 where none was given."""

    name: str
    criticality: str
    depends_on: tuple[str, ...] = ()
    memory_mb: int = 0
    vram_mb: int = 0


@dataclass(frozen=True, slots=True)
class Room:
    """What is free on this host. None: without limit."""

    memory_mb: int | None = None
    vram_mb: int | None = None

    def without(self, memory_mb: int, vram_mb: int) -> Room | None:
        """The room that is left; None when it does not fit."""
        memory = None if self.memory_mb is None else self.memory_mb - memory_mb
        vram = None if self.vram_mb is None else self.vram_mb - vram_mb
        if (memory is not None and memory < 0) or (vram is not None and vram < 0):
            return None
        return Room(memory, vram)


class LeftOut(StrEnum):
    """Why an agent is not placed."""

    NO_MEMORY = "no memory"
    NO_VRAM = "no memory on the GPU"
    NO_DEPENDENCY = "a dependency is not served anywhere"


@dataclass(frozen=True, slots=True)
class Placement:
    """`order`: start them in this order. `left_out`: the others, and why."""

    order: tuple[str, ...]
    left_out: Mapping[str, LeftOut] = field(default_factory=dict)
    room: Room = field(default_factory=Room)


def place(candidates: Iterable[Candidate], room: Room, running: frozenset[str]) -> Placement:
    """`running`: agents that are served already, anywhere. Raises ValueError on a circle of dependencies."""
    by_name = {candidate.name: candidate for candidate in candidates}
    depth = _depths(by_name)
    urgency = _urgencies(by_name, depth)

    def turn(name: str) -> tuple[int, int, str]:
        return urgency[name], depth[name], name

    placed: set[str] = set()
    left_out: dict[str, LeftOut] = {}
    for name in sorted(by_name, key=turn):
        needed = _closure(name, by_name, running | placed)
        if needed is None:
            left_out[name] = LeftOut.NO_DEPENDENCY
            continue
        memory_mb = sum(by_name[n].memory_mb for n in needed)
        vram_mb = sum(by_name[n].vram_mb for n in needed)
        rest = room.without(memory_mb, vram_mb)
        if rest is None:
            short = room.without(memory_mb, 0) is None
            left_out[name] = LeftOut.NO_MEMORY if short else LeftOut.NO_VRAM
            continue
        room = rest
        placed |= needed
    order = tuple(sorted(placed, key=turn))
    return Placement(order, {n: why for n, why in left_out.items() if n not in placed}, room)


def _closure(name: str, by_name: Mapping[str, Candidate], there: frozenset[str]) -> set[str] | None:
    """The agent and what it needs and is not there yet; None when something cannot be had."""
    needed: set[str] = set()
    open_ = [name]
    while open_:
        one = open_.pop()
        if one in there or one in needed:
            continue
        if one not in by_name:
            return None
        needed.add(one)
        open_ += by_name[one].depends_on
    return needed


def _depths(by_name: Mapping[str, Candidate]) -> dict[str, int]:
    """How many agents stand below each one, at the most, in a chain of dependencies."""
    depth: dict[str, int] = {}
    waiting = dict(by_name)
    level = 0
    while waiting:
        free = [n for n, c in waiting.items() if not any(d in waiting for d in c.depends_on)]
        if not free:
            raise ValueError(f"agents depend on each other in a circle: {', '.join(sorted(waiting))}")
        for name in free:
            depth[name] = level
            del waiting[name]
        level += 1
    return depth


def _urgencies(by_name: Mapping[str, Candidate], depth: Mapping[str, int]) -> dict[str, int]:
    urgency = {name: URGENCY[candidate.criticality] for name, candidate in by_name.items()}
    for name in sorted(by_name, key=lambda n: -depth[n]):
        for needed in by_name[name].depends_on:
            if needed in urgency:
                urgency[needed] = min(urgency[needed], urgency[name])
    return urgency
