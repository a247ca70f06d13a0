"""What the history of one criterion says: its course, better or worse, and whether its verdict flips. Pure.

Runs are compared only with runs of the same profile and environment (a `Group`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise

import numpy as np
from scipy import stats

from reports.ledger import CriterionRecord, RunRecord
from reports.model import Direction, Verdict

LEAST_RUNS = 5
"""With fewer runs a trend is not spoken of: four in a row rise by chance once in 24 times."""
FALSE_DISCOVERIES = 0.05
"""Share of the trends told that may be chance (Benjamini and Hochberg, over all criteria of a group)."""
_RISES = frozenset({Direction.AT_LEAST, Direction.ABOVE})


class Course(StrEnum):
    """Where a criterion is going."""

    BETTER = "better"
    WORSE = "worse"
    STEADY = "steady"
    UNKNOWN = "too few runs"


@dataclass(frozen=True)
class Group:
    """Runs that can be compared."""

    profile: str
    environment: str

    def __str__(self) -> str:
        return f"{self.profile} on {self.environment}"


@dataclass(frozen=True)
class Point:
    """One run's word on a criterion."""

    run: RunRecord
    record: CriterionRecord

    @property
    def value(self) -> float | None:
        """What is compared with the target: the bound, where there is one."""
        return self.record.bound if self.record.bound is not None else self.record.estimate


@dataclass(frozen=True)
class Trend:
    """A criterion over the runs of a group, oldest first."""

    group: Group
    points: tuple[Point, ...]
    course: Course
    p_value: float | None
    """Of Kendall's tau between time and value; `None` with too few values."""
    slope_per_day: float | None
    """Theil-Sen, in the criterion's unit a day."""

    @property
    def last(self) -> CriterionRecord:
        return self.points[-1].record

    @property
    def values(self) -> tuple[float, ...]:
        """The finite values, oldest first."""
        return tuple(v for p in self.points if (v := p.value) is not None and math.isfinite(v))

    @property
    def passed(self) -> int:
        return sum(p.record.verdict is Verdict.PASS for p in self.points)

    @property
    def headroom(self) -> float | None:
        """Share of the target that the worst value leaves: 1 all of it, 0 none, below 0 broken."""
        return headroom(self.worst, self.last.target, self.last.direction)

    @property
    def worst(self) -> float | None:
        """The value furthest on the bad side of the target."""
        if not self.values:
            return None
        return min(self.values) if self.last.direction in _RISES else max(self.values)


@dataclass(frozen=True)
class Flip:
    """A change of verdict between two runs that follow each other."""

    id: str
    title: str
    group: Group
    earlier: RunRecord
    later: RunRecord
    mended_by: str | None
    """For what turned to fail: the first later run that passed again; `None` while none has."""


@dataclass(frozen=True)
class Flaky:
    """A criterion whose verdict depends on the day."""

    id: str
    title: str
    group: Group
    runs: int
    passed: int
    flips: int
    same_commit: str | None
    """A commit whose runs disagree, if one does."""


def grouped(
    runs: Sequence[RunRecord], criteria: Iterable[CriterionRecord]
) -> dict[Group, dict[str, tuple[Point, ...]]]:
    """Points by group and criterion, oldest first."""
    by_folder = {run.folder: run for run in runs}
    found: dict[Group, dict[str, list[Point]]] = {}
    for record in criteria:
        run = by_folder[record.folder]
        group = Group(run.profile, run.environment)
        found.setdefault(group, {}).setdefault(record.id, []).append(Point(run, record))
    return {
        group: {
            name: tuple(sorted(points, key=lambda p: (p.run.started, p.run.folder)))
            for name, points in by_id.items()
        }
        for group, by_id in found.items()
    }


def trends_of(group: Group, by_id: Mapping[str, Sequence[Point]]) -> tuple[Trend, ...]:
    """A trend for each criterion; those called better or worse hold together against chance."""
    raw = [_raw(group, tuple(points)) for points in by_id.values()]
    tested = [t for t in raw if t.p_value is not None]
    if not tested:
        return tuple(raw)
    adjusted = stats.false_discovery_control([t.p_value for t in tested], method="bh")
    sure = {id(t) for t, p in zip(tested, adjusted, strict=True) if p <= FALSE_DISCOVERIES}
    return tuple(_called(t, sure=id(t) in sure) for t in raw)


def _raw(group: Group, points: tuple[Point, ...]) -> Trend:
    found = [(days(p.run.started), v) for p in points if (v := p.value) is not None and math.isfinite(v)]
    if len(found) < LEAST_RUNS:
        return Trend(group, points, Course.UNKNOWN, None, None)
    at, values = np.array([d for d, _ in found]), np.array([v for _, v in found])
    if np.ptp(values) == 0 or np.ptp(at) == 0:
        return Trend(group, points, Course.STEADY, 1.0, 0.0)
    p_value = float(stats.kendalltau(at, values).pvalue)
    slope = float(stats.theilslopes(values, at).slope)
    return Trend(group, points, Course.STEADY, p_value, slope)


def _called(trend: Trend, *, sure: bool) -> Trend:
    slope, direction = trend.slope_per_day, trend.last.direction
    if not sure or not slope or direction is None or direction is Direction.EXACTLY:
        return trend
    rises_well = direction in _RISES
    course = Course.BETTER if (slope > 0) is rises_well else Course.WORSE
    return Trend(trend.group, trend.points, course, trend.p_value, slope)


def headroom(value: float | None, target: float | None, direction: Direction | None) -> float | None:
    """Share of the target that `value` leaves unused; `None` where that means nothing."""
    if value is None or not target or direction is None or direction is Direction.EXACTLY:
        return None
    return (value - target) / abs(target) if direction in _RISES else (target - value) / abs(target)


def days_left(trend: Trend) -> float | None:
    """Days until the trend meets the target if it goes on; `None` where it does not head there."""
    target, values, slope = trend.last.target, trend.values, trend.slope_per_day
    if trend.course is not Course.WORSE or target is None or not slope:
        return None
    left = (target - float(np.median(values[-3:]))) / slope
    return max(left, 0.0)


def regressions(group: Group, by_id: Mapping[str, Sequence[Point]]) -> tuple[Flip, ...]:
    """What passed in a run and failed in the next that judged it."""
    found = []
    for name, points in by_id.items():
        for position, (before, after) in enumerate(pairwise(points)):
            if (before.record.verdict, after.record.verdict) != (Verdict.PASS, Verdict.FAIL):
                continue
            later = (p.run.id for p in points[position + 2 :] if p.record.verdict is Verdict.PASS)
            flip = Flip(name, after.record.title, group, before.run, after.run, next(later, None))
            found.append(flip)
    return tuple(sorted(found, key=lambda f: (f.later.started, f.id)))


def flaky(group: Group, by_id: Mapping[str, Sequence[Point]]) -> tuple[Flaky, ...]:
    """Criteria whose verdict changed at least twice, or differs between runs of one unchanged commit."""
    found = []
    for name, points in by_id.items():
        judged = [p for p in points if p.record.verdict not in {Verdict.VOID, Verdict.NOT_MEASURED}]
        verdicts = [p.record.verdict for p in judged]
        flips = sum(a is not b for a, b in pairwise(verdicts))
        by_commit: dict[str, set[Verdict]] = {}
        for p in judged:
            if p.run.commit and not p.run.dirty:
                by_commit.setdefault(p.run.commit, set()).add(p.record.verdict)
        torn = next((commit for commit, seen in by_commit.items() if len(seen) > 1), None)
        if flips >= 2 or torn is not None:
            passed = sum(v is Verdict.PASS for v in verdicts)
            title = points[-1].record.title
            found.append(Flaky(name, title, group, len(judged), passed, flips, torn))
    return tuple(sorted(found, key=lambda f: (-f.flips, f.id)))


def days(iso: str) -> float:
    """An instant as days since 1970; not a number for what is no time."""
    try:
        at = datetime.fromisoformat(iso)
    except ValueError:
        return math.nan
    return (at if at.tzinfo is not None else at.replace(tzinfo=UTC)).timestamp() / 86_400
