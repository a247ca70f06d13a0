"""What a night does at all, and what first, fixed in its plan: the most informative piece of work. Pure.

A piece is a campaign of trials or a scenario. Campaigns come first, because only all of their trials
together prove anything; scenarios have what is left, each whole in itself. Of both that one comes first whose
knowledge is worst: something failed the last time, then never measured, not decided, too old, fresh (the
oldest first). Among pieces that stand alike the one comes next that tells most rows which no piece before it
tells, for the minute.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from chaos.scenario import Scenario, needs
from infra.substrates.base import Capability
from reports.model import LeftOut, PlannedScenario, Report, Verdict, row_of

SCENARIO_FRESH_DAYS = 7.0
"""A scenario that was run longer ago says nothing about today."""


class Kind(StrEnum):
    """What a piece is."""

    CAMPAIGN = "campaign"
    SCENARIO = "scenario"


class Known(StrEnum):
    """How what a piece tells is known before the night, the most urgent first."""

    FAILED = "failed"
    NEVER = "never measured"
    UNDECIDED = "not decided"
    STALE = "too old"
    FRESH = "fresh"


_URGENCY = {known: at for at, known in enumerate(Known)}


class Piece(msgspec.Struct, frozen=True, kw_only=True):
    """A piece of the night. `tells`: its criteria, or the rows that a scenario exercises.

    `about_s`: how long all of it takes, roughly; `least_s`: with less left a turn is not worth beginning,
    None: with less than all of it. A campaign may need many turns, a scenario has one.
    """

    name: str
    kind: Kind
    tells: tuple[str, ...]
    about_s: float
    least_s: float | None = None
    known: Known = Known.NEVER
    age_days: float | None = None
    """How old the oldest word about it is, None: there is none."""

    @property
    def needs_s(self) -> float:
        """So much has to be left when a turn begins."""
        return self.about_s if self.least_s is None else self.least_s


class Word(msgspec.Struct, frozen=True, kw_only=True):
    """The newest word of earlier reports about a criterion or a scenario."""

    verdict: Verdict
    age_days: float
    fresh_for_days: float | None = None

    @property
    def known(self) -> Known:
        """How well it is known by this."""
        if self.verdict is Verdict.FAIL:
            return Known.FAILED
        if self.verdict is not Verdict.PASS:
            return Known.UNDECIDED
        old = self.fresh_for_days is not None and self.age_days > self.fresh_for_days
        return Known.STALE if old else Known.FRESH


def words(
    reports: Iterable[Report], environment: str, fresh_for_days: Mapping[str, float | None], now: datetime
) -> dict[str, Word]:
    """The newest word about each criterion and each scenario (by name), of this environment's reports.

    `reports`: newest first. Made-up ones, and those without a readable end or from the future, say nothing.
    """
    found: dict[str, Word] = {}
    for report in reports:
        age_days = _age_days(report, now)
        if age_days is None or report.run.environment != environment or report.run.synthetic:
            continue
        for told in report.criteria:
            if told.verdict is not Verdict.NOT_MEASURED and told.id not in found:
                age = age_days + (told.age_days or 0.0)
                fresh = fresh_for_days.get(told.id)
                found[told.id] = Word(verdict=told.verdict, age_days=age, fresh_for_days=fresh)
        for one in report.scenarios:
            if one.verdict is not Verdict.NOT_MEASURED and one.name not in found:
                found[one.name] = Word(
                    verdict=one.verdict, age_days=age_days, fresh_for_days=SCENARIO_FRESH_DAYS
                )
    return found


def _age_days(report: Report, now: datetime) -> float | None:
    try:
        ended = datetime.fromisoformat(report.run.ended or "")
    except ValueError:
        return None
    ended = ended if ended.tzinfo is not None else ended.replace(tzinfo=UTC)
    age_days = (now - ended).total_seconds() / 86_400.0
    return age_days if age_days >= 0.0 else None


def judged_by(piece: Piece, found: Mapping[str, Word]) -> Piece:
    """The piece with how it is known: a scenario by its own word, a campaign by its worst criterion."""
    names = (piece.name,) if piece.kind is Kind.SCENARIO else piece.tells
    told = [found.get(name) for name in names]
    states = [Known.NEVER if word is None else word.known for word in told]
    return msgspec.structs.replace(
        piece,
        known=min(states, key=_URGENCY.__getitem__, default=Known.NEVER),
        age_days=max((word.age_days for word in told if word is not None), default=None),
    )


def ordered(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Campaigns, then scenarios, of each the most informative first.

    The same pieces give the same order, however they come.
    """
    left, done, seen = list(pieces), [], set[str]()

    def rank(piece: Piece) -> tuple[bool, int, float, float, str]:
        rows = {row_of(name) for name in piece.tells}
        oldest = -(piece.age_days or 0.0) if piece.known is Known.FRESH else 0.0
        scenario = piece.kind is Kind.SCENARIO
        return scenario, _URGENCY[piece.known], oldest, -len(rows - seen) / piece.about_s, piece.name

    while left:
        first = min(left, key=rank)
        left.remove(first)
        done.append(first)
        seen |= {row_of(name) for name in first.tells}
    return tuple(done)


def next_turn(waiting: Sequence[Piece], turns: Mapping[str, int], left_s: float) -> Piece | None:
    """Who comes next of those of whom a turn fits into what is left; None: nothing fits any more.

    Campaigns before scenarios; of each who had fewest turns, in the plan's order.
    """
    fitting = [piece for piece in waiting if piece.needs_s <= left_s]
    return min(
        fitting,
        key=lambda piece: (piece.kind is Kind.SCENARIO, turns.get(piece.name, 0)),
        default=None,
    )


def admitted(
    scenarios: Sequence[Scenario], can: frozenset[Capability], substrate: str
) -> tuple[tuple[Scenario, ...], tuple[LeftOut, ...]]:
    """The scenarios that a substrate which can do so much is able to run, and the others with the reason."""
    lacks = {one.name: tuple(sorted(needs(one) - can)) for one in scenarios}
    return tuple(one for one in scenarios if not lacks[one.name]), tuple(
        LeftOut(
            name=one.name,
            title=one.title,
            rows=one.rows,
            lacks=tuple(capability.value for capability in lacks[one.name]),
            substrate=substrate,
            where=" and ".join(dict.fromkeys(capability.where for capability in lacks[one.name])),
        )
        for one in scenarios
        if lacks[one.name]
    )


def planned_scenario(scenario: Scenario) -> PlannedScenario:
    """A scenario as a plan and a report have it."""
    return PlannedScenario(
        name=scenario.name,
        title=scenario.title,
        rows=scenario.rows,
        expected=" ".join(scenario.expected.split()),
        about_s=scenario.about_s,
        sha256=hashlib.sha256(msgspec.yaml.encode(scenario)).hexdigest(),
    )


def scenario_piece(scenario: PlannedScenario) -> Piece:
    """The piece that runs it."""
    return Piece(name=scenario.name, kind=Kind.SCENARIO, tells=scenario.rows, about_s=scenario.about_s)
