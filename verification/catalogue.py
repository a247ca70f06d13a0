"""The requirement catalogue: what must be true, how it is judged, what each profile plans for it.

The data stands in `catalogue.yaml`; this module gives it types and refuses what does not fit together.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from importlib import resources

import msgspec

from reports.model import Category, Direction, Evidence, row_of
from verification import sequential


class Estimator(StrEnum):
    """How observations become a verdict; `verification.estimators` has one function for each."""

    CENSUS = "census"
    QUANTILE = "quantile"
    MEAN = "mean"
    RATE = "rate"
    SHARE = "share"
    GAIN = "gain"
    PROJECTION = "projection"
    NONE = "none"


class ProfilePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one profile plans for one criterion.

    `n` is the number of trials for each block; a census takes it from the population. `coverage` and
    `confidence` are shares (0 to 1). A trial without an answer after `timeout_s` is an exceedance.

    A false pass is at most as frequent as 1 - `confidence`, a false fail as `beta`. With `stages` the
    campaign looks at its results on the way, both hold over all looks, and `n` is the size of the first one.
    `anytime`: a share whose bounds hold at every moment together, for what is looked at whenever one likes.
    """

    population: str
    blocks: tuple[str, ...] = ()
    n: int | None = None
    allowed_exceedances: int | None = None
    coverage: float | None = None
    confidence: float | None = None
    timeout_s: float | None = None
    needs_load: bool = False
    beta: float = 0.05
    stages: tuple[sequential.Stage, ...] = ()
    anytime: bool = False

    @property
    def most(self) -> int | None:
        """The most trials that each block may take."""
        return self.stages[-1].n if self.stages else self.n


class CatalogueEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One row of the requirements, or one part of a row (`RL-3.detect`).

    What to do when it fails stands in `remedy` (a paragraph), `reproduce` (the command that shows it again)
    and `panel` (where a running stack shows it). Evidence older than `fresh_for_days` proves nothing now.
    """

    id: str
    title: str
    category: str
    claim: str
    estimator: Estimator
    accepts: tuple[Evidence, ...]
    remedy: str
    unit: str | None = None
    target: float | None = None
    target_text: str | None = None
    direction: Direction | None = None
    stretch: float | None = None
    stretch_text: str | None = None
    statistic: str | None = None
    method: str | None = None
    reproduce: str | None = None
    panel: str | None = None
    fresh_for_days: float | None = None
    plans: dict[str, ProfilePlan] = {}

    @property
    def row(self) -> str:
        """The row of the requirements that it belongs to."""
        return row_of(self.id)

    def as_planned(self, plan: ProfilePlan) -> CatalogueEntry:
        """The same, its claim and statistic with the share that the plan covers.

        A night proves the p99 of what a quick run proves the p95 of.
        """
        if self.estimator is not Estimator.QUANTILE or plan.coverage is None or self.statistic is None:
            return self
        share, planned = self.statistic.removeprefix("p"), f"{100 * plan.coverage:g}"
        claim = self.claim.replace(f"p{share} of", f"p{planned} of")
        claim = claim.replace(f"{share} % of", f"{planned} % of")
        return msgspec.structs.replace(self, claim=claim, statistic=f"p{planned}")


class AssumedFault(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How often a kind of fault is taken to come, for projections: stated, not measured.

    `per_week` is the middle, `low` and `high` hold 90 % of what one may believe; `blocks` names the kinds of
    trial whose measured outages stand for it. `burst`: how many come together in the mean.
    """

    fault: str
    per_week: float
    low: float
    high: float
    source: str
    blocks: tuple[str, ...]
    burst: float = 1.0


class Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All categories and entries, in the order of reports, and what projections assume."""

    categories: tuple[Category, ...]
    criteria: tuple[CatalogueEntry, ...]
    assumed_faults: tuple[AssumedFault, ...] = ()

    def entry(self, criterion_id: str) -> CatalogueEntry:
        """The entry with this id. Raises KeyError."""
        for entry in self.criteria:
            if entry.id == criterion_id:
                return entry
        raise KeyError(criterion_id)

    def target(self, criterion_id: str) -> float:
        """The numeric target of an entry. Raises KeyError for an unknown id or one without a figure."""
        target = self.entry(criterion_id).target
        if target is None:
            raise KeyError(criterion_id)
        return target

    def planned(self, profile: str) -> Mapping[str, ProfilePlan]:
        """What `profile` plans: id -> plan, in the catalogue's order; empty for an unknown profile."""
        return {entry.id: entry.plans[profile] for entry in self.criteria if profile in entry.plans}

    @property
    def profiles(self) -> tuple[str, ...]:
        """Profiles for which something is planned."""
        return tuple(dict.fromkeys(profile for entry in self.criteria for profile in entry.plans))


class CatalogueError(Exception):
    """The catalogue contradicts itself; each problem is one line."""

    def __init__(self, problems: tuple[str, ...]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


def load_catalogue(text: bytes | None = None) -> Catalogue:
    """The catalogue of this version, or the one in `text`. Raises CatalogueError."""
    if text is None:
        text = resources.files(__package__).joinpath("catalogue.yaml").read_bytes()
    try:
        catalogue = msgspec.yaml.decode(text, type=Catalogue)
    except msgspec.MsgspecError as error:
        raise CatalogueError((str(error),)) from error
    problems = _problems(catalogue)
    if problems:
        raise CatalogueError(problems)
    return catalogue


def _problems(catalogue: Catalogue) -> tuple[str, ...]:
    found: list[str] = [
        f"assumed fault {one.fault}: needs 0 < low <= per_week <= high and a burst of at least 1"
        for one in catalogue.assumed_faults
        if not (0.0 < one.low <= one.per_week <= one.high and one.burst >= 1.0)
    ]
    categories = {category.id for category in catalogue.categories}
    seen: set[str] = set()
    for entry in catalogue.criteria:
        if entry.id in seen:
            found.append(f"{entry.id}: stands twice")
        seen.add(entry.id)
        if entry.category not in categories:
            found.append(f"{entry.id}: category {entry.category!r} is not one of {sorted(categories)}")
        if entry.row not in seen:
            found.append(f"{entry.id}: its row {entry.row} must stand before it")
        if entry.plans and entry.estimator is Estimator.NONE:
            found.append(f"{entry.id}: planned, but without an estimator")
        if entry.fresh_for_days is not None and entry.fresh_for_days <= 0:
            found.append(f"{entry.id}: fresh_for_days must be above 0")
        for profile, plan in entry.plans.items():
            found.extend(f"{entry.id}, profile {profile}: {what}" for what in _plan_problems(entry, plan))
    return tuple(found)


_UPPER = frozenset({Direction.BELOW, Direction.AT_MOST})


def _plan_problems(entry: CatalogueEntry, plan: ProfilePlan) -> list[str]:
    found = []
    if entry.target is None or entry.direction is None:
        found.append("planned, but without target and direction")
    if not 0.0 < plan.beta < 1.0:
        found.append("beta must lie between 0 and 1")
    if entry.estimator in {Estimator.QUANTILE, Estimator.MEAN} and entry.direction not in _UPPER:
        found.append(f"a {entry.estimator.value} is bounded from above; its direction is not")
    if plan.stages and entry.estimator is not Estimator.QUANTILE:
        found.append("only a quantile has stages")
    if plan.anytime and entry.estimator is not Estimator.SHARE:
        found.append("only a share is judged at any time")
    if entry.estimator not in {Estimator.CENSUS, Estimator.PROJECTION} and (
        plan.n is None or plan.confidence is None
    ):
        found.append("needs n and confidence")
    if entry.estimator is Estimator.QUANTILE:
        if plan.coverage is None:
            found.append("a quantile needs its coverage")
        elif plan.stages:
            alpha = 1.0 - (plan.confidence or 0.95)
            found += sequential.problems(plan.stages, plan.coverage, alpha, plan.beta)
            if plan.n != plan.stages[0].n:
                found.append("n must be the size of the first stage")
        elif plan.n is not None and plan.confidence is not None:
            from verification.statistics import allowed_exceedances

            if allowed_exceedances(plan.n, plan.coverage, plan.confidence) is None:
                found.append(
                    f"{plan.n} trials cannot show {plan.coverage:g} with confidence {plan.confidence:g}"
                )
    return found
