"""Links between hosts: delay, loss, duplication, reordering, cuts of one direction.

An undisturbed link has one constant delay and draws nothing at random, so that skipping quiet time changes no
later draw.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass

MS = 1_000_000
LINK_NS = MS // 2
LOCAL_NS = MS // 20


@dataclass(frozen=True, slots=True)
class Noise:
    """A disturbed link. Each message draws its own delay, so later ones may overtake."""

    loss: float
    jitter_ns: int
    duplicates: float = 0.0


class Network:
    """Directed links between all hosts."""

    def __init__(self, rng: random.Random, counts: Counter[str] | None = None) -> None:
        self._random = rng
        self._counts: Counter[str] = Counter() if counts is None else counts
        self._cuts: dict[tuple[str, str], int] = {}
        self._noise: dict[tuple[str, str], list[Noise]] = {}

    def cut(self, source: str, target: str) -> None:
        """Faults may overlap: as many heals as cuts make the link whole."""
        self._cuts[source, target] = self._cuts.get((source, target), 0) + 1

    def heal(self, source: str, target: str) -> None:
        left = self._cuts.get((source, target), 0) - 1
        if left > 0:
            self._cuts[source, target] = left
        else:
            self._cuts.pop((source, target), None)

    def disturb(self, source: str, target: str, noise: Noise) -> None:
        self._noise.setdefault((source, target), []).append(noise)

    def calm(self, source: str, target: str, noise: Noise) -> None:
        left = self._noise.get((source, target), [])
        if noise in left:
            left.remove(noise)
        if not left:
            self._noise.pop((source, target), None)

    @property
    def whole(self) -> bool:
        """No link is cut or disturbed."""
        return not self._cuts and not self._noise

    def reaches(self, source: str, target: str) -> bool:
        return source == target or (source, target) not in self._cuts

    def delay(self, source: str, target: str) -> int | None:
        """How long a message takes; None: it is lost."""
        if source == target:
            return LOCAL_NS
        if (source, target) in self._cuts:
            both = (target, source) in self._cuts
            self._counts["lost in a cut of both ways" if both else "lost in a cut of one way"] += 1
            return None
        noises = self._noise.get((source, target))
        if noises is None:
            return LINK_NS
        noise = noises[-1]
        if self._random.random() < noise.loss:
            self._counts["lost on a noisy link"] += 1
            return None
        # Mostly short, sometimes the whole jitter: what makes a reply come just before its deadline.
        return LINK_NS + int(noise.jitter_ns * self._random.random() ** 2)

    def doubled(self, source: str, target: str) -> bool:
        """Whether a message arrives twice."""
        noises = self._noise.get((source, target))
        return noises is not None and self._random.random() < noises[-1].duplicates

    def undisturbed(self, source: str, target: str) -> bool:
        """Neither cut nor noisy in this direction."""
        return (source, target) not in self._cuts and (source, target) not in self._noise
