"""In which order systems and faults take turns: blocks in random order, the same for the same seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from benchmarks.peers.records import Kind, Trial


@dataclass(frozen=True, slots=True)
class Planned:
    """A trial to be made: its number counts the trials of one system and kind from 0."""

    system: str
    kind: Kind
    number: int


@dataclass(frozen=True, slots=True)
class Block:
    """Trials that one start of a system serves."""

    system: str
    trials: tuple[Planned, ...]


def schedule(
    systems: Sequence[str], kinds: Sequence[Kind], trials: int, rounds: int, seed: int
) -> tuple[Block, ...]:
    """Every system gets `trials` of every kind, at most `rounds` of each kind in a block.

    Blocks are shuffled within a lap (one block of every system), so that what changes with time on the
    machine meets all systems alike; kinds are shuffled within a block.
    """
    chooser = random.Random(seed)
    blocks: list[Block] = []
    for first in range(0, trials, rounds):
        lap = []
        for system in systems:
            inside = [
                Planned(system, kind, number)
                for number in range(first, min(first + rounds, trials))
                for kind in kinds
            ]
            chooser.shuffle(inside)
            lap.append(Block(system, tuple(inside)))
        chooser.shuffle(lap)
        blocks += lap
    return tuple(blocks)


MOST_VOID = 3
"""A trial that was void so often is given up."""


def remaining(blocks: Sequence[Block], done: Collection[Trial]) -> tuple[Block, ...]:
    """What a run that was interrupted still has to do, in the same order. A void trial is made again."""
    tries = Counter(Planned(one.system, one.kind, one.number) for one in done if one.void)
    made = {Planned(one.system, one.kind, one.number) for one in done if not one.void}
    made |= {planned for planned, count in tries.items() if count >= MOST_VOID}
    left = (Block(b.system, tuple(one for one in b.trials if one not in made)) for b in blocks)
    return tuple(block for block in left if block.trials)
