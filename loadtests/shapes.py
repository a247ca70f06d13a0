"""How the rate of a load goes with time, as data: steady, ramp, spike, diurnal, soak.

A shape gives corner points `(t_s, share)` of a line: the share of the workload's rate at that time, straight
between the corners. A shape that repeats starts again at its last corner; any other keeps its last share.
"""

from __future__ import annotations

import math

import msgspec

DAY_S = 86_400.0
DIURNAL_CORNERS = 96
"""Corners of a day: one each quarter of an hour, which is within 0.2 % of the wave."""
STEP_S = 0.001
"""A jump takes a millisecond: the rate stays a function of time."""

Corner = tuple[float, float]


class _Shape(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind"):
    def corners(self) -> tuple[Corner, ...]:
        """Times from 0 on, rising, in seconds, each with the share of the rate."""
        raise NotImplementedError

    @property
    def repeats(self) -> bool:
        """Whether it starts again after its last corner."""
        return False

    @property
    def lasts_s(self) -> float | None:
        """How long a run of it is by itself; None: as long as wanted."""
        return None

    def problem(self) -> str | None:
        """Why it cannot be; None when it can."""
        return None


class Steady(_Shape, frozen=True, tag="steady"):
    """The same rate all the time."""

    def corners(self) -> tuple[Corner, ...]:
        return ((0.0, 1.0),)


class Ramp(_Shape, frozen=True, tag="ramp"):
    """From one share to another over `over_s`, then on with that."""

    over_s: float
    from_share: float = 0.0
    to_share: float = 1.0

    def corners(self) -> tuple[Corner, ...]:
        return ((0.0, self.from_share), (self.over_s, self.to_share))

    def problem(self) -> str | None:
        if self.over_s <= 0:
            return "over_s must be above 0"
        return "to_share must be above 0 and from_share not below" if not _ramp_holds(self) else None


class Spike(_Shape, frozen=True, tag="spike"):
    """`spike_share` for `for_s`, each time after `every_s` have passed, else `base_share`."""

    every_s: float
    for_s: float
    spike_share: float
    base_share: float = 1.0

    def corners(self) -> tuple[Corner, ...]:
        calm_s = self.every_s - self.for_s
        return (
            (0.0, self.base_share),
            (calm_s, self.base_share),
            (calm_s + STEP_S, self.spike_share),
            (self.every_s - STEP_S, self.spike_share),
            (self.every_s, self.base_share),
        )

    @property
    def repeats(self) -> bool:
        return True

    def problem(self) -> str | None:
        if not 10 * STEP_S <= self.for_s <= self.every_s - 10 * STEP_S:
            return "for_s must be above 0 and shorter than every_s"
        return None if self.spike_share > 0 and self.base_share > 0 else "the shares must be above 0"


class Diurnal(_Shape, frozen=True, tag="diurnal"):
    """A wave between `low_share` and `high_share`, highest at `peak_s` of a day of `day_s` seconds."""

    low_share: float = 0.2
    high_share: float = 1.0
    day_s: float = DAY_S
    peak_s: float = DAY_S * 14 / 24

    def corners(self) -> tuple[Corner, ...]:
        middle, swing = (self.low_share + self.high_share) / 2, (self.high_share - self.low_share) / 2
        times = [self.day_s * n / DIURNAL_CORNERS for n in range(DIURNAL_CORNERS + 1)]
        return tuple(
            (t, middle + swing * math.cos(2 * math.pi * (t - self.peak_s) / self.day_s)) for t in times
        )

    @property
    def repeats(self) -> bool:
        return True

    def problem(self) -> str | None:
        if self.day_s <= 0:
            return "day_s must be above 0"
        return None if 0 < self.low_share <= self.high_share else "0 < low_share <= high_share must hold"


class Soak(_Shape, frozen=True, tag="soak"):
    """The same rate for long (`for_s`), reached over `warm_s` so that caches and pools fill first."""

    for_s: float = 7 * DAY_S
    warm_s: float = 60.0

    def corners(self) -> tuple[Corner, ...]:
        return ((0.0, 0.0), (self.warm_s, 1.0)) if self.warm_s > 0 else ((0.0, 1.0),)

    @property
    def lasts_s(self) -> float | None:
        return self.for_s

    def problem(self) -> str | None:
        return None if 0 <= self.warm_s < self.for_s else "0 <= warm_s < for_s must hold"


Shape = Steady | Ramp | Spike | Diurnal | Soak


def _ramp_holds(ramp: Ramp) -> bool:
    return ramp.from_share >= 0 and ramp.to_share > 0
