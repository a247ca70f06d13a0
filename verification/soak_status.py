"""How a soak stands, for people and scripts: shapes of `threenines soak status --json`. Pure."""

from __future__ import annotations

import msgspec

from reports.model import RunState, Verdict
from verification.availability import WEEK_S
from verification.soak import CRITERIA, DAY_S, HostShare, instant_of
from verification.soak_run import Graded

SCHEMA = "threenines.soak-status/1"


class Standing(msgspec.Struct, frozen=True, kw_only=True):
    """One criterion of the soak."""

    id: str
    verdict: Verdict
    reason: str


class Outage(msgspec.Struct, frozen=True, kw_only=True):
    """An outage, or a stretch that nobody watched. `at` is ISO 8601 UTC."""

    at: str
    length_s: float
    cause: str
    seen_by: tuple[str, ...] = ()


class BudgetLeft(msgspec.Struct, frozen=True, kw_only=True):
    """Seconds of downtime used and allowed, and of time that nobody watched and that somebody did."""

    used_s: float
    allowed_s: float
    unwatched_s: float
    watched_s: float


class BurnRate(msgspec.Struct, frozen=True, kw_only=True):
    """Budget burnt in a window, 1 being as fast as allowed; `alerts`: above `threshold` in both windows."""

    window_s: float
    rate: float
    short_rate: float
    threshold: float
    alerts: bool


class SoakStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The whole. `verdict` and `reason` are those of uptime (RL-1); None of what nobody has looked at."""

    soak: str
    stack: str
    state: RunState
    verdict: Verdict
    reason: str
    day: float
    of_days: float
    criteria: tuple[Standing, ...]
    budget: BudgetLeft | None
    burn_rates: tuple[BurnRate, ...]
    outages: tuple[Outage, ...]
    gaps: tuple[Outage, ...]
    hosts: tuple[HostShare, ...]
    watching: tuple[str, ...]
    away: tuple[str, ...]
    schema: str = SCHEMA


def status_of(graded: Graded) -> SoakStatus:
    """The status of a graded soak."""
    judged = graded.judged
    told = {one.id: one for one in judged.verdicts.criteria}
    watched, budget = judged.watched, judged.budget
    return SoakStatus(
        soak=graded.run.id,
        stack=graded.run.environment,
        state=graded.run.state,
        verdict=told["RL-1"].verdict,
        reason=told["RL-1"].reason or "",
        day=0.0 if budget is None else min(budget.watched_s, WEEK_S) / DAY_S,
        of_days=WEEK_S / DAY_S,
        criteria=tuple(
            Standing(id=name, verdict=told[name].verdict, reason=told[name].reason or "") for name in CRITERIA
        ),
        budget=None
        if budget is None
        else BudgetLeft(
            used_s=budget.used_s,
            allowed_s=budget.allowed_s,
            unwatched_s=budget.unwatched_s,
            watched_s=budget.watched_s,
        ),
        burn_rates=tuple(
            BurnRate(
                window_s=one.window_s,
                rate=one.rate,
                short_rate=one.short_rate,
                threshold=one.threshold,
                alerts=one.alerts,
            )
            for one in judged.burns
        ),
        outages=tuple(
            Outage(at=instant_of(one.start_s), length_s=one.length_s, cause=one.cause, seen_by=one.seen_by)
            for one in (() if watched is None else watched.episodes)
        ),
        gaps=tuple(
            Outage(at=instant_of(one.start_s), length_s=one.length_s, cause=one.reason)
            for one in (() if watched is None else watched.gaps)
        ),
        hosts=judged.hosts,
        watching=graded.running,
        away=graded.away,
    )
