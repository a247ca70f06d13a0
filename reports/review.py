"""The monthly and the quarterly review: what the history of runs says. Pure; `review_pages` writes it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from statistics import median

from reports import capacity, figures, trends
from reports.capacity import Growth
from reports.ledger import CriterionRecord, RunRecord, Unusable
from reports.model import Direction, Verdict, row_of
from reports.store import RunError
from reports.trends import Course, Flaky, Flip, Group, Trend

_MONTH = re.compile(r"(\d{4})-(0[1-9]|1[0-2])")
_QUARTER = re.compile(r"(\d{4})-[Qq]([1-4])")
LITTLE_HEADROOM = 0.2
UPTIME = "RL-1"


@dataclass(frozen=True)
class Period:
    """A month or a quarter: runs that started in [`since`, `until`), ISO 8601 UTC."""

    name: str
    since: str
    until: str
    quarterly: bool

    @staticmethod
    def parse(text: str, *, quarterly: bool = False) -> Period:
        """`2026-11`, or `2026-Q4`; with `quarterly` the quarter that a month is in. Raises `RunError`."""
        if match := _QUARTER.fullmatch(text):
            return _period(int(match[1]), 3 * int(match[2]) - 2, quarterly=True)
        if match := _MONTH.fullmatch(text):
            month = int(match[2])
            return _period(
                int(match[1]), month - (month - 1) % 3 if quarterly else month, quarterly=quarterly
            )
        raise RunError(f"period {text!r}", "is no month and no quarter", "write it as 2026-11 or as 2026-Q4")

    @staticmethod
    def of(instant: datetime, *, quarterly: bool = False) -> Period:
        """The period that `instant` is in."""
        return Period.parse(f"{instant.astimezone(UTC):%Y-%m}", quarterly=quarterly)


def _period(year: int, month: int, *, quarterly: bool) -> Period:
    end = month + (3 if quarterly else 1)
    until = f"{year + (end - 1) // 12:04}-{(end - 1) % 12 + 1:02}"
    name = f"{year:04}-Q{(month + 2) // 3}" if quarterly else f"{year:04}-{month:02}"
    return Period(name, f"{year:04}-{month:02}", until, quarterly)


@dataclass(frozen=True)
class Budget:
    """An error budget: what the target allows in the period, and what was used of it.

    Figures are operations, or with `unit` `s` seconds of downtime in the worst run (`tried` is then `None`).
    """

    id: str
    title: str
    group: Group
    tried: int | None
    bad: float
    allowed: float
    unit: str = "operations"

    @property
    def used(self) -> float:
        """Share of the budget: 1 is all of it."""
        return self.bad / self.allowed if self.allowed else 0.0


@dataclass(frozen=True)
class Baseline:
    """A criterion now beside the stored baseline: the last accepted run before the period, else its first."""

    trend: Trend
    run: str
    value: float | None

    @property
    def change(self) -> float | None:
        """How much the median of the period is above the baseline: 0.1 is 10 %."""
        middle = self.median
        return None if not self.value or middle is None else middle / self.value - 1

    @property
    def median(self) -> float | None:
        """Of the values of the period."""
        return median(self.trend.values) if self.trend.values else None


@dataclass(frozen=True)
class Tally:
    """Runs of a group, or of a month, by the verdict of their gate."""

    name: str
    runs: int
    passed: int
    failed: int
    open: int
    proven: int
    """Most rows of the catalogue that one run proved."""
    rows: int


@dataclass(frozen=True)
class Review:
    """What a review says. `actions` come first on the page: what to do, the most urgent first."""

    period: Period
    answer: str
    actions: tuple[str, ...]
    tallies: tuple[Tally, ...]
    months: tuple[Tally, ...]
    baselines: tuple[Baseline, ...]
    regressions: tuple[Flip, ...]
    flaky: tuple[Flaky, ...]
    budgets: tuple[Budget, ...]
    rows_measured: tuple[str, ...]
    rows: int
    growth: tuple[Growth, ...]
    scale_source: str | None
    fleets: tuple[int, ...]
    unusable: tuple[Unusable, ...]


def build(
    period: Period,
    runs: Sequence[RunRecord],
    criteria: Sequence[CriterionRecord],
    before: Sequence[RunRecord] = (),
    criteria_before: Sequence[CriterionRecord] = (),
    scale: Sequence[Growth] = (),
    scale_source: str | None = None,
    unusable: Sequence[Unusable] = (),
) -> Review:
    """The review of `runs`, those of the period, oldest first. `before`, the earlier ones, give baselines."""
    groups = trends.grouped(runs, criteria)
    found = [t for group, by_id in groups.items() for t in trends.trends_of(group, by_id)]
    lost = tuple(f for group, by_id in groups.items() for f in trends.regressions(group, by_id))
    torn = tuple(f for group, by_id in groups.items() for f in trends.flaky(group, by_id))
    budgets = tuple(b for group, by_id in groups.items() for b in _budgets(group, by_id))
    growth = capacity.with_limits(scale, criteria)
    measured = sorted({row_of(c.id) for c in criteria if c.verdict is not Verdict.NOT_MEASURED}, key=_natural)
    rows = max((run.rows for run in runs), default=0)
    baselines = _baselines(found, before, criteria_before)
    actions = _actions(baselines, lost, torn, budgets, rows - len(measured), growth)
    return Review(
        period=period,
        answer=_answer(runs, lost, torn, budgets),
        actions=actions,
        tallies=tuple(
            _tally(str(group), [r for r in runs if Group(r.profile, r.environment) == group])
            for group in dict.fromkeys(Group(r.profile, r.environment) for r in runs)
        ),
        months=tuple(
            _tally(month, [r for r in runs if r.started.startswith(month)])
            for month in dict.fromkeys(r.started[:7] for r in runs)
        ),
        baselines=baselines,
        regressions=lost,
        flaky=torn,
        budgets=budgets,
        rows_measured=tuple(measured),
        rows=rows,
        growth=growth,
        scale_source=scale_source,
        fleets=tuple(sorted({r.agents for r in runs if r.agents is not None})),
        unusable=tuple(unusable),
    )


def _tally(name: str, runs: Sequence[RunRecord]) -> Tally:
    passed = sum(r.verdict is Verdict.PASS for r in runs)
    failed = sum(r.verdict is Verdict.FAIL for r in runs)
    return Tally(
        name=name,
        runs=len(runs),
        passed=passed,
        failed=failed,
        open=len(runs) - passed - failed,
        proven=max((r.passed for r in runs), default=0),
        rows=max((r.rows for r in runs), default=0),
    )


def _baselines(
    found: Sequence[Trend], before: Sequence[RunRecord], criteria: Sequence[CriterionRecord]
) -> tuple[Baseline, ...]:
    accepted = {
        Group(r.profile, r.environment): r for r in before if r.verdict is Verdict.PASS
    }  # the last one wins: they come oldest first
    known = {(c.folder, c.id): c for c in criteria}
    told = []
    for trend in found:
        run = accepted.get(trend.group)
        old = known.get((run.folder, trend.last.id)) if run is not None else None
        if run is None or old is None:
            run, old = trend.points[0].run, trend.points[0].record
        value = old.bound if old.bound is not None else old.estimate
        told.append(Baseline(trend, run.id, value))
    return tuple(told)


def _budgets(group: Group, by_id: dict[str, tuple[trends.Point, ...]]) -> list[Budget]:
    found = []
    for name, points in by_id.items():
        last = points[-1].record
        downtimes = [p.record.estimate for p in points if p.record.estimate is not None]
        if row_of(name) == UPTIME and last.unit == "s" and last.target and downtimes:
            found.append(Budget(name, last.title, group, None, max(downtimes), last.target, unit="s"))
            continue
        share = _allowed_share(last)
        tried = sum(p.record.n or 0 for p in points)
        if share is None or not tried:
            continue
        bad = sum(p.record.exceedances or 0 for p in points)
        found.append(Budget(name, last.title, group, tried, bad, share * tried))
    return found


def _allowed_share(record: CriterionRecord) -> float | None:
    """The share of failures that a target in percent allows; `None` for other targets and for none at all."""
    if record.unit != "%" or record.target is None or record.n is None or record.exceedances is None:
        return None
    match record.direction:
        case Direction.AT_MOST | Direction.BELOW:
            share = record.target / 100
        case Direction.AT_LEAST | Direction.ABOVE:
            share = 1 - record.target / 100
        case _:
            return None
    return share if 0 < share < 0.5 else None


def _answer(
    runs: Sequence[RunRecord], lost: Sequence[Flip], torn: Sequence[Flaky], budgets: Sequence[Budget]
) -> str:
    passed = sum(r.verdict is Verdict.PASS for r in runs)
    told = [f"{passed} of {figures.plural(len(runs), 'run')} passed the gate"]
    still = sum(f.mended_by is None for f in lost)
    told.append(
        f"{figures.plural(len(lost), 'regression')}, {still} of them still there" if lost else "no regression"
    )
    told.append(figures.plural(len(torn), "flaky criterion", "flaky criteria") if torn else "nothing flaky")
    if budgets:
        worst = max(budgets, key=lambda b: b.used)
        told.append(f"{figures.share(worst.used)} of the error budget used ({worst.id})")
    return "; ".join(told)


def _actions(
    baselines: Sequence[Baseline],
    lost: Sequence[Flip],
    torn: Sequence[Flaky],
    budgets: Sequence[Budget],
    unmeasured: int,
    growth: Sequence[Growth],
) -> tuple[str, ...]:
    told = [
        f"Mend {f.id} ({f.title}): it passed in {f.earlier.id}, failed in {f.later.id} and has not passed "
        f"since; see threenines compare {f.earlier.id} {f.later.id}"
        for f in lost
        if f.mended_by is None
    ]
    told += [
        f"Look into {b.id} ({b.title}) on {b.group}: {figures.share(b.used)} of its error budget is used"
        for b in budgets
        if b.used > 0.5
    ]
    for one in baselines:
        trend, left = one.trend, trends.days_left(one.trend)
        if trend.last.verdict is Verdict.FAIL and all(trend.last.id != f.id for f in lost):
            told.append(
                f"Mend {trend.last.id} ({trend.last.title}) on {trend.group}: it fails and never passed"
            )
        elif trend.last.verdict is Verdict.INCONCLUSIVE:
            told.append(f"Decide {trend.last.id} ({trend.last.title}) on {trend.group}: it is open")
        elif trend.course is Course.WORSE:
            when = f", and meets its target in {figures.age(left)} if it goes on" if left is not None else ""
            told.append(
                f"Find out why {trend.last.id} ({trend.last.title}) on {trend.group} gets worse{when}"
            )
        elif trend.headroom is not None and 0 <= trend.headroom < LITTLE_HEADROOM:
            told.append(
                f"Gain room for {trend.last.id} ({trend.last.title}) on {trend.group}: "
                f"its worst value leaves {figures.share(trend.headroom)} of the target"
            )
    told += [
        f"Steady {f.id} ({f.title}) on {f.group}, or give it more trials: {f.passed} of {f.runs} runs passed"
        + (f", and runs of commit {f.same_commit[:12]} disagree" if f.same_commit else "")
        for f in torn
    ]
    told += [
        f"Expect {g.measure} to reach {g.limit_name} at about {figures.rough(g.reaches)} agents "
        "(extrapolated)"
        for g in growth
        if g.reaches is not None
    ]
    if unmeasured > 0:
        told.append(
            f"Measure the {figures.plural(unmeasured, 'row')} of the catalogue that no run of this period "
            "measured"
        )
    return tuple(told)


def _natural(name: str) -> tuple[str, int]:
    family, _, number = name.partition("-")
    return family, int(number) if number.isdecimal() else 0
