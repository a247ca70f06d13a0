"""When operations are due, fixed beforehand: no answer of the stack moves a later arrival. Pure.

Arrivals are points on the axis of *expected arrivals* (the integral of the rate over time), even steps for a
constant beat, exponential steps for Poisson, and are brought back to time by the inverse of that integral.
This is the time-rescaling theorem (Cinlar, Introduction to Stochastic Processes, 1975, ch. 4.7), and gives an
inhomogeneous Poisson process exactly. Rates are straight lines between corners, so the inverse is a formula.
"""

from __future__ import annotations

import bisect
import itertools
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum


class Arrivals(StrEnum):
    """A constant beat, or independent arrivals (Poisson)."""

    CONSTANT = "constant"
    POISSON = "poisson"


@dataclass(frozen=True)
class Profile:
    """The rate over time: corners `(t_s, per_s)`, straight lines between them.

    After the last corner it keeps its rate, or starts again when it repeats.
    """

    corners: tuple[tuple[float, float], ...]
    repeats: bool = False
    _areas: tuple[float, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        pieces = (
            (after[0] - before[0]) * (before[1] + after[1]) / 2
            for before, after in itertools.pairwise(self.corners)
        )
        object.__setattr__(self, "_areas", tuple(itertools.accumulate(pieces, initial=0.0)))

    def expected(self, t_s: float) -> float:
        """Arrivals expected from 0 to `t_s`."""
        if t_s <= 0:
            return 0.0
        end_s, whole = self.corners[-1][0], self._areas[-1]
        if self.repeats:
            rounds, rest_s = divmod(t_s, end_s)
            return rounds * whole + self._within(rest_s)
        if t_s >= end_s:
            return whole + (t_s - end_s) * self.corners[-1][1]
        return self._within(t_s)

    def instant(self, area: float) -> float:
        """The time at which `area` arrivals are expected: the inverse of `expected`; infinite when never."""
        end_s, whole = self.corners[-1][0], self._areas[-1]
        if self.repeats:
            rounds, rest = divmod(area, whole)
            return rounds * end_s + self._reached(rest)
        if area >= whole:
            per_s = self.corners[-1][1]
            return end_s + (area - whole) / per_s if per_s > 0 else math.inf
        return self._reached(area)

    def _within(self, t_s: float) -> float:
        at = bisect.bisect_right(self.corners, (t_s, math.inf)) - 1
        (begin_s, low), (end_s, high) = self.corners[at], self.corners[min(at + 1, len(self.corners) - 1)]
        passed_s = t_s - begin_s
        slope = (high - low) / (end_s - begin_s) if end_s > begin_s else 0.0
        return self._areas[at] + passed_s * low + slope * passed_s * passed_s / 2

    def _reached(self, area: float) -> float:
        at = min(bisect.bisect_right(self._areas, area) - 1, len(self.corners) - 2)
        (begin_s, low), (end_s, high) = self.corners[at], self.corners[at + 1]
        rest = area - self._areas[at]
        slope = (high - low) / (end_s - begin_s)
        # The root of low*t + slope*t²/2 = rest in the form that loses no digits when the slope is small.
        below = low + math.sqrt(max(0.0, low * low + 2 * slope * rest))
        return min(end_s, begin_s + (2 * rest / below if below > 0 else 0.0))


def arrivals(
    profile: Profile, kind: Arrivals, chance: random.Random, *, place: int = 0, places: int = 1
) -> Iterator[float]:
    """When operations are due, in seconds from the begin, for generator `place` of `places`; may be endless.

    All places together have the profile's rate: of a constant beat each takes every `places`-th, of a Poisson
    process each has its own part (the sum of independent Poisson processes is one, the rates added).
    """
    area = float(place) if kind is Arrivals.CONSTANT else chance.expovariate(1.0) * places
    while math.isfinite(due_s := profile.instant(area)):
        yield due_s
        area += places if kind is Arrivals.CONSTANT else chance.expovariate(1.0) * places


def profile_of(corners: Sequence[tuple[float, float]], per_s: float, *, repeats: bool) -> Profile:
    """The rate of a shape's corners at `per_s`."""
    return Profile(tuple((t_s, share * per_s) for t_s, share in corners), repeats)
