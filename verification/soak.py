"""The soak's verdicts: what seven days of watching say of availability. Pure.

A second counts as down when any host saw an agent that nobody served or that did not answer, as up when
somebody watched and nobody saw that, and as a gap when nobody watched. Gaps are neither up nor down: they
make the soak longer, and nothing passes unless they, too, fit into the budget. Outages that somebody caused
on purpose count like all others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import msgspec

from loadtests.soak_lines import GAP_S
from reports import model
from reports.model import CriterionResult, Deviation, Evidence, Outages, Verdict, Verdicts
from verification import availability, statistics
from verification.availability import Budget, Burn, Watched
from verification.catalogue import Catalogue
from verification.judge import unplanned
from verification.soak_history import SoakHistory
from verification.soak_sources import union, watched_by

PROFILE: Final = "soak"
CRITERIA: Final = ("SD-3", "RL-1", "RL-7")
"""What a soak decides: the gate's `extra`."""
DAY_S = 86_400.0
CONFIDENCE = 0.95
TOLD = 8
"""So many outages stand in the report by name; `threenines soak status --json` has all."""


class SoakPlan(model.Plan, frozen=True, kw_only=True):
    """`plan.json` of a soak: fixed and hashed before the first look. `soak` is the run's id."""

    soak: str
    hosts: tuple[str, ...]
    catalogue: Catalogue
    period_s: float = availability.WEEK_S
    gap_s: float = GAP_S


class HostShare(msgspec.Struct, frozen=True, kw_only=True):
    """What one host contributed. `cpu_share` is of one core, the program's starts included."""

    host: str
    watched_s: float
    starts: int
    lookups: int
    lookups_failed: int
    calls: int
    calls_failed: int
    moved: int
    cpu_share: float | None
    last_look: str | None
    """ISO 8601 UTC."""


@dataclass(frozen=True)
class Judged:
    """Verdicts, and the figures behind them; None where nobody has looked yet."""

    verdicts: Verdicts
    hosts: tuple[HostShare, ...]
    watched: Watched | None = None
    budget: Budget | None = None
    burns: tuple[Burn, ...] = ()
    outages: Outages | None = None

    @property
    def decided(self) -> bool:
        """Whether nothing that comes can change the verdicts: the time has passed, or all have failed."""
        told = [one.verdict for one in self.verdicts.criteria if one.id in CRITERIA]
        return self.complete or all(one is Verdict.FAIL for one in told)

    @property
    def complete(self) -> bool:
        """Whether the time has passed."""
        return self.budget is not None and self.budget.watched_s >= availability.WEEK_S - 1e-3


def make_plan(soak: str, hosts: Sequence[str], catalogue: Catalogue, created: str) -> SoakPlan:
    """The plan of a soak."""
    how = f"each second every name is looked up on {' and '.join(hosts)}, and agents are called in turn"
    return SoakPlan(
        profile=PROFILE,
        seed=0,
        categories=catalogue.categories,
        criteria=tuple(
            model.PlannedCriterion(
                id=name,
                claim=catalogue.entry(name).claim,
                population="all seconds of seven days in which somebody watched",
                method=how,
                statistic="share" if name == "SD-3" else "downtime",
            )
            for name in CRITERIA
        ),
        created=created,
        soak=soak,
        hosts=tuple(hosts),
        catalogue=catalogue,
    )


def judge(plan: SoakPlan, history: SoakHistory) -> Judged:
    """Judges every row of the catalogue; the same plan and history give the same verdicts."""
    whole = watched_by(history, plan.hosts, plan.gap_s)
    if whole is None:
        nothing = Verdicts(criteria=_criteria(plan, {}), deviations=_deviations(history))
        return Judged(nothing, ())
    watched = availability.first(whole, plan.period_s)
    budget = availability.budget(watched, allowed_s=plan.catalogue.target("RL-1"), period_s=plan.period_s)
    burns = availability.burn_rates(watched)
    hosts = tuple(_share(host, plan, history, watched.end_s) for host in plan.hosts)
    obstacles = list(history.doubts)
    if plan.period_s < availability.WEEK_S:
        obstacles.append("it was planned for less than seven days")
    told = {
        "RL-1": _uptime(budget, watched, obstacles),
        "SD-3": _discovery(budget, hosts, plan.catalogue.target("SD-3"), obstacles),
        "RL-7": _unplanned_downtime(budget, watched, hosts, obstacles),
    }
    facts = _facts(watched, budget, burns, hosts)
    sources = tuple(f"soak/{host}.jsonl" for host in plan.hosts)
    told = {
        name: {"facts": facts if name == "RL-1" else {}, "sources": sources, **fields}
        for name, fields in told.items()
    }
    verdicts = Verdicts(criteria=_criteria(plan, told), deviations=_deviations(history))
    return Judged(verdicts, hosts, watched, budget, burns, _strip(watched, plan, budget))


# --------------------------------------------------------------------------------------------- verdicts

Fields = dict[str, object]


def _criteria(plan: SoakPlan, told: Mapping[str, Fields]) -> tuple[CriterionResult, ...]:
    found = []
    for entry in plan.catalogue.criteria:
        result = unplanned(entry, plan.profile)
        if entry.id in CRITERIA:
            result = msgspec.structs.replace(result, reason="nobody has looked yet")
        found.append(msgspec.structs.replace(result, **told.get(entry.id, {})))
    return tuple(found)


def _open(budget: Budget, obstacles: Sequence[str]) -> str | None:
    """Why nothing can pass yet, None when it can."""
    left_s = availability.WEEK_S - budget.watched_s
    if left_s > 1e-3:
        return f"{left_s / DAY_S:.1f} more days of watching would decide"
    return obstacles[0] if obstacles else None


def _fields(verdict: Verdict, reason: str, **fields: object) -> Fields:
    remedy: Fields = {"remedy": None} if verdict is Verdict.PASS else {}
    return {"verdict": verdict, "reason": reason, "evidence": Evidence.MEASURED, **remedy, **fields}


def _uptime(budget: Budget, watched: Watched, obstacles: Sequence[str]) -> Fields:
    reason = budget.reason
    if budget.proven is False:
        verdict = Verdict.FAIL
    else:
        obstacle = _open(budget, obstacles)
        verdict = Verdict.PASS if budget.proven and obstacle is None else Verdict.INCONCLUSIVE
        if obstacle is not None:
            reason = f"{reason}; {obstacle}"
        elif budget.proven is None:
            reason = f"{reason}; begin another with `threenines soak start --new`"
    return _fields(
        verdict,
        reason,
        estimate=budget.used_s,
        bound=budget.used_s + budget.unwatched_s,
        n=int(budget.watched_s),
        exceedances=math.ceil(budget.used_s),
        duration_s=watched.known_s,
    )


def _discovery(budget: Budget, hosts: Sequence[HostShare], target: float, obstacles: Sequence[str]) -> Fields:
    """`target` is a share of failures in percent."""
    total, failed = sum(one.lookups for one in hosts), sum(one.lookups_failed for one in hosts)
    bound = 100.0 * statistics.share_upper(total, failed, CONFIDENCE)
    obstacle = _open(budget, obstacles)
    told = f"{failed:,} of {total:,} look-ups failed"
    if obstacle is None and budget.unwatched_s > budget.allowed_s:
        obstacle = f"{budget.unwatched_s:.1f} s that nobody watched could hide more"
    if failed:
        verdict = Verdict.FAIL
    elif obstacle is None and total and bound <= target:
        verdict = Verdict.PASS
    else:
        verdict, told = Verdict.INCONCLUSIVE, f"{told}; {obstacle or 'that is too few'}"
    estimate = 100.0 * failed / total if total else None
    return _fields(
        verdict, told, estimate=estimate, bound=bound, n=total, exceedances=failed, confidence=CONFIDENCE
    )


def _unplanned_downtime(
    budget: Budget, watched: Watched, hosts: Sequence[HostShare], obstacles: Sequence[str]
) -> Fields:
    down_s, moved = budget.used_s, max((one.moved for one in hosts), default=0)
    told = (
        f"{down_s:.1f} s down in {len(watched.episodes)} outages; agents moved or were renewed {moved} times"
    )
    obstacle = _open(budget, obstacles)
    if obstacle is None and budget.unwatched_s > 0:
        obstacle = f"{budget.unwatched_s:.1f} s that nobody watched could hide an outage"
    if obstacle is None and not moved:
        obstacle = "nothing was rolled out or handed over meanwhile, so nothing is shown of that"
    if down_s > 0:
        verdict = Verdict.FAIL
    else:
        verdict = Verdict.PASS if obstacle is None else Verdict.INCONCLUSIVE
        told = told if obstacle is None else f"{told}; {obstacle}"
    return _fields(
        verdict,
        told,
        estimate=down_s,
        bound=down_s + budget.unwatched_s,
        n=int(budget.watched_s),
        exceedances=len(watched.episodes),
    )


def _facts(
    watched: Watched, budget: Budget, burns: Sequence[Burn], hosts: Sequence[HostShare]
) -> dict[str, str]:
    facts = {
        "watched": f"{watched.known_s / DAY_S:.2f} days",
        "not watched": f"{budget.unwatched_s:.1f} s in {len(watched.gaps)} gaps",
        "outages": f"{len(watched.episodes)}, here the longest" if watched.episodes else "0",
    }
    for one in sorted(watched.episodes, key=lambda one: -one.length_s)[:TOLD]:
        facts[f"outage at {instant_of(one.start_s)}"] = f"{one.length_s:.1f} s: {one.cause}"
    for burn in burns:
        alert = ", alerts" if burn.alerts else ""
        facts[f"burn rate over {span(burn.window_s)}"] = (
            f"{burn.rate:.2g} (at most {burn.threshold:g}){alert}"
        )
    for host in hosts:
        if host.cpu_share is not None:
            facts[f"cost on {host.host}"] = f"{100.0 * host.cpu_share:.2f} % of a core"
    return facts


def span(length_s: float) -> str:
    """A length of time in its largest unit: `3 d`, `6 h`, `30 min`, `12.0 s`."""
    for unit_s, name in ((DAY_S, "d"), (3600.0, "h"), (60.0, "min")):
        if length_s >= unit_s:
            return f"{length_s / unit_s:.3g} {name}"
    return f"{length_s:.1f} s"


def _share(host: str, plan: SoakPlan, history: SoakHistory, end_s: float) -> HostShare:
    mine = [one for one in history.stretches if one.host == host and one.start_s < end_s]
    begun = {one.life: one.at_s for one in history.lives if one.host == host}
    cpu: dict[str, tuple[float, float]] = {}
    for one in mine:
        lasted_s = one.end_s - begun.get(one.seen.life, one.start_s)
        cpu[one.seen.life] = max(cpu.get(one.seen.life, (0.0, 0.0)), (lasted_s, one.seen.cpu_ms / 1e3))
    lasted_s = math.fsum(length for length, _ in cpu.values())
    seen = [one.seen for one in mine]
    return HostShare(
        host=host,
        watched_s=math.fsum(b - a for a, b in union([(one.start_s, one.end_s) for one in mine], plan.gap_s)),
        starts=len(begun),
        lookups=sum(one.lookups for one in seen),
        lookups_failed=sum(one.lookups_failed for one in seen),
        calls=sum(one.calls for one in seen),
        calls_failed=sum(one.calls_failed for one in seen),
        moved=sum(one.moved for one in seen),
        cpu_share=math.fsum(used for _, used in cpu.values()) / lasted_s if lasted_s > 0 else None,
        last_look=instant_of(max(one.end_s for one in mine)) if mine else None,
    )


def instant_of(at_s: float) -> str:
    """ISO 8601 UTC of seconds since 1970."""
    return f"{datetime.fromtimestamp(at_s, UTC):%Y-%m-%dT%H:%M:%SZ}"


def _deviations(history: SoakHistory) -> tuple[Deviation, ...]:
    found = [
        Deviation(what=doubt, why="see the files of the soak", effect="nothing passes")
        for doubt in history.doubts
    ]
    found += [
        Deviation(
            what=f"{where}: {what}",
            why="its writer was cut off, or its clock was set",
            effect="none on time that counts",
        )
        for where, what in history.notes
    ]
    commits = list(dict.fromkeys(one.commit for one in history.starts))
    if len(commits) > 1:
        found.append(
            Deviation(
                what=f"it was started from {len(commits)} commits",
                why="the stack was brought to another one meanwhile",
                effect="it counts for the first one",
            )
        )
    return tuple(found)


def _strip(watched: Watched, plan: SoakPlan, budget: Budget) -> Outages:
    zero_s = watched.start_s
    return Outages(
        criterion="RL-1",
        title="Outages of the soak",
        watched_s=watched.end_s - zero_s,
        episodes=tuple(
            msgspec.structs.replace(one, start_s=one.start_s - zero_s) for one in watched.episodes
        ),
        gaps=tuple(msgspec.structs.replace(one, start_s=one.start_s - zero_s) for one in watched.gaps),
        budget_s=budget.allowed_s,
        probes=plan.hosts,
    )
