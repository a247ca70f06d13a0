"""The requirement catalogue: what must be true, how it is judged, what each profile plans for it.

The data stands in `catalogue.yaml`; this module gives it types and refuses what does not fit together.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from importlib import resources

import msgspec

from reports.model import Category, Direction, Evidence, row_of


class Estimator(StrEnum):
    """How observations become a verdict; `verification.estimators` has one function for each."""

    CENSUS = "census"
    QUANTILE = "quantile"
    MEAN = "mean"
    RATE = "rate"
    NONE = "none"


class ProfilePlan(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one profile plans for one criterion.

    `n` is the number of trials for each block; a census takes it from the population. `coverage` and
    `confidence` are shares (0 to 1). A trial without an answer after `timeout_s` is an exceedance.
    """

    population: str
    blocks: tuple[str, ...] = ()
    n: int | None = None
    allowed_exceedances: int | None = None
    coverage: float | None = None
    confidence: float | None = None
    timeout_s: float | None = None
    needs_load: bool = False


class CatalogueEntry(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One row of the requirements, or one part of a row (`RL-3.detect`)."""

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
    plans: dict[str, ProfilePlan] = {}

    @property
    def row(self) -> str:
        """The row of the requirements that it belongs to."""
        return row_of(self.id)


class Catalogue(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """All categories and entries, in the order of reports."""

    categories: tuple[Category, ...]
    criteria: tuple[CatalogueEntry, ...]

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
    found: list[str] = []
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
        for profile, plan in entry.plans.items():
            found.extend(f"{entry.id}, profile {profile}: {what}" for what in _plan_problems(entry, plan))
    return tuple(found)


def _plan_problems(entry: CatalogueEntry, plan: ProfilePlan) -> list[str]:
    found = []
    if entry.target is None or entry.direction is None:
        found.append("planned, but without target and direction")
    if entry.estimator is not Estimator.CENSUS and (plan.n is None or plan.confidence is None):
        found.append("needs n and confidence")
    if entry.estimator is Estimator.QUANTILE:
        if plan.coverage is None:
            found.append("a quantile needs its coverage")
        elif plan.n is not None and plan.confidence is not None:
            from verification.statistics import allowed_exceedances

            if allowed_exceedances(plan.n, plan.coverage, plan.confidence) is None:
                found.append(
                    f"{plan.n} trials cannot show {plan.coverage:g} with confidence {plan.confidence:g}"
                )
    return found
