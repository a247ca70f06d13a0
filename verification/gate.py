"""May this commit be released? Decided from stored evidence by an environment's policy. Pure.

The newest word about a criterion wins: a newer failure beats an older pass, and a newer run that could not
tell takes an older pass away. A failure counts from wherever it was seen, a pass only from where the policy
says. What nobody measured, what is too old, and what was measured on another commit is not proven.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TypeVar

import msgspec

from reports.model import CriterionResult, Evidence, Run, RunState, Verdict, Verdicts
from verification.catalogue import Catalogue, CatalogueEntry
from verification.evidence import SKEW, instant
from verification.policy import Policy

SCHEMA = "threenines.gate/1"
_TOLERANCE = 1e-9

Distance = Callable[[str], int | None]
"""How many commits the released one lies ahead of that one; None when it is no ancestor."""


class Standing(StrEnum):
    """What is known of a criterion or a row, from best to worst."""

    PROVEN = "proven"
    MISSING = "missing"
    UNDECIDED = "undecided"
    FAILED = "failed"


@dataclass(frozen=True)
class Stored:
    """A run that is kept: what it says, and whether it came from another machine."""

    run: Run
    verdicts: Verdicts
    imported: bool = False
    other_rules: frozenset[str] = frozenset()
    """Criteria that it judged by another rule than the present one's."""


Kept = TypeVar("Kept", bound=Stored)
NEVER = "no run that counts measured it"


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A run that does not count at all, and why."""

    run: str
    reason: str
    doubtful: bool = False
    """Altered or damaged, and of the released commit: it may have told of a failure."""


class Known(msgspec.Struct, frozen=True, kw_only=True):
    """What the gate knows of one criterion."""

    id: str
    row: str
    title: str
    standing: Standing
    reason: str
    evidence: Evidence = Evidence.NONE
    run: str | None = None
    age_days: float | None = None
    regressed: bool = False


class RowStanding(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the requirements: as good as the worst of its criteria. `asked`: the policy names it."""

    id: str
    category: str
    standing: Standing
    asked: bool


class CategoryStanding(msgspec.Struct, frozen=True, kw_only=True):
    """A category's proven rows over all its rows, against its threshold."""

    id: str
    title: str
    threshold: float
    proven: int
    failed: int
    rows: int
    standing: Standing


class Proposal(msgspec.Struct, frozen=True, kw_only=True):
    """A run that would tell more. `expected_minutes`: as stored runs took, else as the policy states."""

    profile: str
    command: str
    expected_minutes: float
    decides: tuple[str, ...]


class Decision(msgspec.Struct, frozen=True, kw_only=True):
    """The answer. `verdict` is pass, fail or inconclusive (not proven)."""

    environment: str
    commit: str
    decided: str
    verdict: Verdict
    reason: str
    categories: tuple[CategoryStanding, ...]
    rows: tuple[RowStanding, ...]
    criteria: tuple[Known, ...]
    refused: tuple[Refused, ...]
    runs: tuple[Proposal, ...]
    undecidable: tuple[str, ...]
    """Criteria that are not proven and that no profile of this version can decide."""
    schema: str = SCHEMA


def admit(
    stored: Iterable[Kept], policy: Policy, distance: Distance, now: datetime
) -> tuple[tuple[Kept, ...], tuple[Refused, ...]]:
    """Runs whose words count for the released commit, newest end first, and those that do not."""
    kept: list[tuple[datetime, Kept]] = []
    refused: list[Refused] = []
    seen = list(stored)
    ids = [one.run.id for one in seen]
    for one in seen:
        reason = "two runs have this id" if ids.count(one.run.id) > 1 else _unfit(one, policy, distance, now)
        if reason is not None:
            refused.append(Refused(run=one.run.id, reason=reason))
            continue
        ended = instant(one.run.ended)
        assert ended is not None
        kept.append((ended, one))
    kept.sort(key=lambda pair: (pair[0], pair[1].run.id), reverse=True)
    return tuple(one for _, one in kept), tuple(refused)


def _unfit(one: Stored, policy: Policy, distance: Distance, now: datetime) -> str | None:
    run = one.run
    started, ended = instant(run.started), instant(run.ended)
    if run.synthetic:
        return "its data are made up"
    if run.state is not RunState.FINISHED:
        return f"it is {run.state.value}, not finished"
    if started is None or ended is None:
        return "nobody knows when it ended"
    if ended < started:
        return "it ended before it began: a clock went back"
    if ended > now + SKEW:
        return "it ended in the future: a clock went back"
    if run.commit is None:
        return "nobody knows which commit it measured"
    if run.commit_dirty:
        return f"it measured {run.commit[:12]} with changes of its own"
    behind = distance(run.commit)
    if behind is None:
        return f"its commit {run.commit[:12]} is no ancestor of the released one"
    allowed = policy.commits_behind.get(run.profile, 0)
    if behind > allowed:
        return f"its commit {run.commit[:12]} lies {behind} behind, and {allowed} are allowed"
    return None


def decide(
    catalogue: Catalogue,
    policy: Policy,
    admitted: Sequence[Stored],
    refused: Sequence[Refused],
    commit: str,
    now: datetime,
    *,
    extra: Mapping[str, tuple[str, ...]] = {},
) -> Decision:
    """The gate's answer. `admitted`: newest first.

    `extra`: what profiles decide beyond the catalogue's plans.
    """
    beyond = frozenset(itertools.chain.from_iterable(extra.values()))
    criteria = tuple(
        _known(entry, policy, admitted, now, measurable=bool(entry.plans) or entry.id in beyond)
        for entry in catalogue.criteria
    )
    rows = _rows(catalogue, policy, criteria)
    categories = tuple(_category(one.id, one.title, one.threshold, rows) for one in catalogue.categories)
    verdict, reason = _verdict(policy, rows, categories, criteria)
    doubtful = [one.run for one in refused if one.doubtful]
    if verdict is Verdict.PASS and doubtful:
        verdict = Verdict.INCONCLUSIVE
        reason = (
            f"{', '.join(doubtful)}: altered or damaged, so nobody knows what it said; restore or remove it"
        )
    wanted = _wanted(policy, rows, criteria, catalogue)
    proposals, left = _proposals(catalogue, policy, wanted, extra, admitted)
    if verdict is Verdict.PASS:
        proposals, left = (), ()
    return Decision(
        environment=policy.environment,
        commit=commit,
        decided=f"{now:%Y-%m-%dT%H:%M:%SZ}",
        verdict=verdict,
        reason=reason,
        categories=categories,
        rows=rows,
        criteria=criteria,
        refused=tuple(refused),
        runs=proposals,
        undecidable=left,
    )


# ----------------------------------------------------------------------------------------- one criterion


def _known(
    entry: CatalogueEntry, policy: Policy, admitted: Sequence[Stored], now: datetime, *, measurable: bool
) -> Known:
    words = [
        (one, told)
        for one in admitted
        for told in one.verdicts.criteria
        if told.id == entry.id and told.verdict not in {Verdict.NOT_MEASURED, Verdict.VOID}
    ]
    passed_over: str | None = None
    for at, (one, told) in enumerate(words):
        age = _age_days(one, told, now)
        limit = min(policy.fresh_for_days, entry.fresh_for_days or policy.fresh_for_days)
        if age > limit:
            passed_over = passed_over or f"the evidence is {age:.1f} days old, and {limit:g} count"
            break
        if told.verdict is Verdict.FAIL:
            before = any(other.verdict is Verdict.PASS for _, other in words[at + 1 :])
            return _told(entry, one, told, age, Standing.FAILED, told.reason or "it failed", regressed=before)
        obstacle = _obstacle(entry, policy, one, told)
        if obstacle is not None:
            passed_over = passed_over or obstacle
            continue
        if told.verdict is Verdict.PASS:
            return _told(entry, one, told, age, Standing.PROVEN, told.reason or "it passed")
        return _told(entry, one, told, age, Standing.UNDECIDED, told.reason or "it could not be told")
    if passed_over is not None:
        reason = passed_over
    else:
        reason = NEVER if measurable else f"this version cannot measure it: {entry.remedy}"
    return Known(id=entry.id, row=entry.row, title=entry.title, standing=Standing.MISSING, reason=reason)


def _told(
    entry: CatalogueEntry,
    one: Stored,
    told: CriterionResult,
    age_days: float,
    standing: Standing,
    reason: str,
    *,
    regressed: bool = False,
) -> Known:
    return Known(
        id=entry.id,
        row=entry.row,
        title=entry.title,
        standing=standing,
        reason=reason,
        evidence=_class(one, told),
        run=one.run.id,
        age_days=age_days,
        regressed=regressed,
    )


def _class(one: Stored, told: CriterionResult) -> Evidence:
    counted = told.evidence in {Evidence.MEASURED, Evidence.ACCELERATED}
    return Evidence.IMPORTED if one.imported and counted else told.evidence


def _age_days(one: Stored, told: CriterionResult, now: datetime) -> float:
    ended = instant(one.run.ended)
    assert ended is not None
    since = max(timedelta(0), now - ended)
    return since / timedelta(days=1) + max(0.0, told.age_days or 0.0)


def _obstacle(entry: CatalogueEntry, policy: Policy, one: Stored, told: CriterionResult) -> str | None:
    """Why this word, if it is a pass, does not count; None when it does."""
    run, evidence = one.run, _class(one, told)
    if entry.id in one.other_rules:
        return "it was judged by another rule than the present one"
    if run.environment not in policy.environments:
        return f"measured on {run.environment} only; {' or '.join(policy.environments)} counts"
    if run.profile not in policy.profiles:
        return f"measured by profile {run.profile} only; {', '.join(policy.profiles)} count"
    # Imported evidence has to be of a class that counts by itself, and be let in by both.
    if evidence not in policy.evidence or evidence not in entry.accepts:
        return f"the evidence is {evidence.value}, which does not count for it"
    if told.verdict is Verdict.PASS and told.n is not None and told.n < 1:
        return "it passed on no trials"
    return None


# ---------------------------------------------------------------------------------------- rows and answer

_ORDER = tuple(Standing)


def _rows(catalogue: Catalogue, policy: Policy, criteria: Sequence[Known]) -> tuple[RowStanding, ...]:
    groups: dict[str, list[Known]] = {}
    for one in criteria:
        groups.setdefault(one.row, []).append(one)
    return tuple(
        RowStanding(
            id=name,
            category=catalogue.entry(name).category,
            standing=max((one.standing for one in group), key=_ORDER.index),
            asked=name in policy.must,
        )
        for name, group in groups.items()
    )


def _category(name: str, title: str, threshold: float, rows: Sequence[RowStanding]) -> CategoryStanding:
    mine = [row for row in rows if row.category == name]
    proven = sum(row.standing is Standing.PROVEN for row in mine)
    failed = sum(row.standing is Standing.FAILED for row in mine)
    needed = threshold * len(mine) - _TOLERANCE
    if mine and proven >= needed:
        standing = Standing.PROVEN
    else:
        standing = Standing.FAILED if len(mine) - failed < needed else Standing.MISSING
    return CategoryStanding(
        id=name,
        title=title,
        threshold=threshold,
        proven=proven,
        failed=failed,
        rows=len(mine),
        standing=standing,
    )


def _verdict(
    policy: Policy,
    rows: Sequence[RowStanding],
    categories: Sequence[CategoryStanding],
    criteria: Sequence[Known],
) -> tuple[Verdict, str]:
    regressed = [one.id for one in criteria if one.regressed]
    asked = {standing: [r.id for r in rows if r.asked and r.standing is standing] for standing in Standing}
    judged = categories if policy.categories else ()
    broken = [one.title for one in judged if one.standing is Standing.FAILED]
    for names, what in (
        (asked[Standing.FAILED], "failed"),
        (regressed, "passed before and fails now"),
        (broken, "cannot reach its threshold any more"),
    ):
        if names:
            return Verdict.FAIL, f"{', '.join(names)}: {what}"
    open_rows = [*asked[Standing.MISSING], *asked[Standing.UNDECIDED]]
    open_categories = [one for one in judged if one.standing is not Standing.PROVEN]
    if not open_rows and not open_categories:
        return Verdict.PASS, "all that the policy asks for is proven"
    told = []
    if open_rows:
        told.append(f"not proven: {', '.join(open_rows)}")
    told += [
        f"{one.title}: {one.proven} of {one.rows} rows proven, {one.threshold:.2f} needed"
        for one in open_categories
    ]
    return Verdict.INCONCLUSIVE, "; ".join(told)


# ---------------------------------------------------------------------------------------- what would decide


def _wanted(
    policy: Policy, rows: Sequence[RowStanding], criteria: Sequence[Known], catalogue: Catalogue
) -> tuple[str, ...]:
    """What stands between this release and a pass, failures included: a newer run may mend them."""
    open_rows = {
        row.id for row in rows if row.standing is not Standing.PROVEN and (row.asked or policy.categories)
    }
    return tuple(one.id for one in criteria if one.row in open_rows and one.standing is not Standing.PROVEN)


def _proposals(
    catalogue: Catalogue,
    policy: Policy,
    wanted: Sequence[str],
    extra: Mapping[str, tuple[str, ...]],
    admitted: Sequence[Stored],
) -> tuple[tuple[Proposal, ...], tuple[str, ...]]:
    """The cheapest set of profiles that decides as much of `wanted` as can be decided, and what is left."""
    can: dict[str, frozenset[str]] = {}
    for profile in policy.profiles:
        decided = {*catalogue.planned(profile), *extra.get(profile, ())} & set(wanted)
        if decided:
            can[profile] = frozenset(decided)
    most = frozenset[str]().union(*can.values())
    cost = {profile: _minutes(profile, policy, admitted) for profile in can}
    sets = itertools.chain.from_iterable(itertools.combinations(can, n) for n in range(len(can) + 1))
    enough = [one for one in sets if frozenset[str]().union(*(can[name] for name in one)) == most]
    # Machines run one profile at a time; a soak passes while others wait, so times add up.
    best = min(enough, key=lambda one: (sum(cost[name] for name in one), len(one), one))
    proposals = tuple(
        Proposal(
            profile=name,
            command=_command(name, policy),
            expected_minutes=cost[name],
            decides=tuple(criterion for criterion in wanted if criterion in can[name]),
        )
        for name in sorted(best, key=lambda name: cost[name])
    )
    return proposals, tuple(name for name in wanted if name not in most)


def _minutes(profile: str, policy: Policy, admitted: Sequence[Stored]) -> float:
    """As long as the newest such run took, else as the policy expects."""
    for one in admitted:
        started, ended = instant(one.run.started), instant(one.run.ended)
        if one.run.profile == profile and started is not None and ended is not None:
            return max(1.0, (ended - started) / timedelta(minutes=1))
    return policy.expected_minutes.get(profile, 60.0)


def _command(profile: str, policy: Policy) -> str:
    # The first named environment is where the policy wants it measured.
    stack = policy.environments[0]
    if profile == "soak":
        return f"threenines soak start --stack {stack}"
    return f"threenines verify --profile {profile} --stack {stack}"
