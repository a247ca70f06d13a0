"""The files of a run directory, as types: the one place where their shapes stand.

`verification` writes `run.json`, `plan.json`, `verdicts.json` and `series.json`; `reports` reads them and
writes `report.json` (with the pages rendered from it). Field names of `Report` follow DESIGN.md, *Contracts*:
those listed there are exact, the others are additions. A figure that does not apply is `None`, never 0.

Who decides what:

- `plan.json` is written and hashed (`run.plan_sha256` is the SHA-256 of the file's bytes) before the first
  trial. What stands in it is *planned*; the gate of a profile judges that and nothing else. `Plan.encode()`
  gives the bytes.
- `verdicts.json` holds one `CriterionResult` for **every** row of the requirement catalogue (`SD-2`),
  measured or not; a row that is judged in parts is there as its parts (`RL-3.detect`) in its place.
  Verification judges; a verdict is never made up here. A row is as good as the worst of its parts.
- `reports.grading` folds those into rows, categories, the gate's verdict, coverage and grades.

Times for people are ISO 8601 UTC (`2026-01-31T12:00:00Z`). Units stand last in names.
"""

# ruff: noqa: PLC0414  the shapes of `reports.scenarios`, `series` and `verdict` are public here

from __future__ import annotations

import hashlib
import operator
from collections.abc import Callable
from enum import StrEnum

import msgspec

from reports.scenarios import FaultTold as FaultTold
from reports.scenarios import LeftOut as LeftOut
from reports.scenarios import LookTold as LookTold
from reports.scenarios import PlannedScenario as PlannedScenario
from reports.scenarios import ScenarioResult as ScenarioResult
from reports.series import Gap as Gap
from reports.series import Level as Level
from reports.series import Line as Line
from reports.series import Lines as Lines
from reports.series import Mark as Mark
from reports.series import OutageEpisode as OutageEpisode
from reports.series import Outages as Outages
from reports.series import Phase as Phase
from reports.series import Quantiles as Quantiles
from reports.series import RunOrder as RunOrder
from reports.series import Samples as Samples
from reports.series import Series as Series
from reports.series import TimeLine as TimeLine
from reports.verdict import Verdict as Verdict

RUN_SCHEMA = "threenines.run/1"
PLAN_SCHEMA = "threenines.plan/1"
VERDICTS_SCHEMA = "threenines.verdicts/1"
SERIES_SCHEMA = "threenines.series/1"
SELFTEST_SCHEMA = "threenines.selftest/1"
REPORT_SCHEMA = "threenines.report/1"


class Evidence(StrEnum):
    """Where a verdict comes from. A simulation is never a measurement."""

    MEASURED = "measured"
    ACCELERATED = "accelerated"
    SIMULATED = "simulated"
    IMPORTED = "imported"
    NONE = "none"


class Direction(StrEnum):
    """On which side of the target a value is good."""

    AT_MOST = "at most"
    BELOW = "below"
    AT_LEAST = "at least"
    ABOVE = "above"
    EXACTLY = "exactly"

    def keeps(self, value: float, target: float) -> bool:
        """Whether `value` is on the good side of `target`."""
        return _COMPARISONS[self](value, target)


_COMPARISONS: dict[Direction, Callable[[float, float], bool]] = {
    Direction.AT_MOST: operator.le,
    Direction.BELOW: operator.lt,
    Direction.AT_LEAST: operator.ge,
    Direction.ABOVE: operator.gt,
    Direction.EXACTLY: operator.eq,
}


class Grade(StrEnum):
    """A to F; the rule stands in `reports.grading` and in every report."""

    A = "A"
    B = "B"
    C = "C"
    D = "D"
    F = "F"


class RunState(StrEnum):
    """How far a run came. Only a finished run can pass."""

    RUNNING = "running"
    FINISHED = "finished"
    INTERRUPTED = "interrupted"
    BROKEN = "broken"


# --------------------------------------------------------------------------------------------- run.json


class Run(msgspec.Struct, frozen=True, kw_only=True):
    """`run.json`: which run this is and on what it ran. `synthetic` marks made-up data (fixtures, demos)."""

    id: str
    started: str
    profile: str
    environment: str
    seed: int
    plan_sha256: str
    seal_sha256: str | None = None
    """Of `seal.json`, which names the raw records with which the run ended. None: it has not, or is older."""
    ended: str | None = None
    commit: str | None = None
    state: RunState = RunState.FINISHED
    detail: str | None = None
    """Why it was interrupted or broke, in one line."""
    commit_dirty: bool = False
    synthetic: bool = False
    command: str | None = None
    """The command that repeats the run, seed included."""
    fleet: str | None = None
    fleet_sha256: str | None = None
    versions: dict[str, str] = {}
    """Programs and libraries: name -> version."""
    machine: dict[str, str] = {}
    """What it ran on: label -> value (`cpus`, `memory`, `kernel`, …)."""
    configuration: dict[str, str] = {}
    """What was set: label -> value (`agents`, `hosts`, `load`, …)."""
    schema: str = RUN_SCHEMA


# -------------------------------------------------------------------------------------------- plan.json


class Category(msgspec.Struct, frozen=True, kw_only=True):
    """A category and the share of its rows that must pass (0 to 1)."""

    id: str
    title: str
    threshold: float


class Stage(msgspec.Struct, frozen=True, kw_only=True):
    """A look of a sequential plan: after `n` trials in all it passes with at most `passes_at` exceedances and
    fails with `fails_at` or more; `None`: that side is never decided at this look."""

    n: int
    passes_at: int | None = None
    fails_at: int | None = None


class PlannedCriterion(msgspec.Struct, frozen=True, kw_only=True):
    """What will be tried for one criterion, fixed before the first trial."""

    id: str
    claim: str
    """What a pass states, in a sentence: `p99 of look-ups is below 100 ms, from either host`."""
    population: str
    """What the trials are drawn from: `look-ups of 77 names from mainpc and pc2 under load`."""
    method: str
    """How it is measured, in a sentence."""
    n: int | None = None
    """Trials planned."""
    allowed_exceedances: int | None = None
    coverage: float | None = None
    """Share of the population that the claim is about: 0.99 for a p99."""
    confidence: float | None = None
    """One-sided: 0.95."""
    statistic: str | None = None
    """What is compared with the target: `p99`, `mean`, `share`, `count`."""
    workload: str | None = None
    fault: str | None = None
    stages: tuple[Stage, ...] = ()
    """Of a sequential plan, in order; empty: one look after `n` trials."""
    alpha: float | None = None
    """Chance of a false pass that the plan allows, over all its stages (0 to 1)."""
    beta: float | None = None
    """Chance of a false fail that the plan allows."""
    error_shared: str | None = None
    """How several claims share one error: `Holm over RL-3.detect, RL-3.failover, RL-3.validate`."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """`plan.json`. `criteria` names what this profile plans, and only that."""

    profile: str
    seed: int
    categories: tuple[Category, ...]
    criteria: tuple[PlannedCriterion, ...]
    scenarios: tuple[PlannedScenario, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    created: str | None = None
    schema: str = PLAN_SCHEMA

    def encode(self) -> bytes:
        """The bytes of `plan.json`: indented, fields in order, newline at the end."""
        return encode(self)

    def sha256(self) -> str:
        """The hash that `run.json` carries."""
        return hashlib.sha256(self.encode()).hexdigest()


# ---------------------------------------------------------------------------------------- verdicts.json


class CriterionResult(msgspec.Struct, frozen=True, kw_only=True):
    """One row of the catalogue, or one part of a row, with its verdict and the evidence for it.

    `target`, `estimate` and `bound` are numbers in `unit`; `target_text` is the row's own wording. `bound` is
    the one-sided confidence bound that is compared with the target (upper for latencies, lower for shares).
    """

    id: str
    title: str
    category: str
    claim: str
    unit: str | None = None
    target: float | None = None
    verdict: Verdict = Verdict.NOT_MEASURED
    evidence: Evidence = Evidence.NONE
    estimate: float | None = None
    bound: float | None = None
    n: int | None = None
    exceedances: int | None = None
    coverage: float | None = None
    confidence: float | None = None

    target_text: str | None = None
    """The target as the catalogue words it: `< 100 ms`, `77/77`, `works`."""
    stretch: float | None = None
    """The stretch in `unit`, where it is a number of the same kind as the target."""
    stretch_text: str | None = None
    direction: Direction | None = None
    statistic: str | None = None
    method: str | None = None
    accepts: tuple[Evidence, ...] = ()
    """Evidence that may carry a pass; empty: measured, accelerated or imported."""
    reason: str | None = None
    """Why the verdict is what it is, in a sentence; required in spirit for all that is not a pass."""
    remedy: str | None = None
    """What to do about it, in a sentence that begins with a verb."""
    trials_to_decide: int | None = None
    """For *inconclusive*: about how many more trials would decide."""
    voids: int | None = None
    """Trials thrown away because their fault did not take effect or the load fell short."""
    duration_s: float | None = None
    sources: tuple[str, ...] = ()
    """Raw history behind it, relative to the run directory: `history/rl-3.jsonl`."""
    age_days: float | None = None
    """Of the evidence when it was judged; `None`: this run's own."""
    fresh_for_days: float | None = None
    """How long evidence of this row counts."""
    interval: tuple[float, float] | None = None
    """Two-sided interval of the estimate in `unit`, at `interval_confidence`."""
    interval_confidence: float | None = None
    stage: int | None = None
    """Of a sequential plan: the look at which it stopped, from 1."""
    reproduce: str | None = None
    """The command that shows the same again."""
    panel: str | None = None
    """The dashboard's panel that shows it: `Fleet / Failover times`."""
    facts: dict[str, str] = {}
    """Further figures worth showing: label -> value with unit (`p50`: `0.8 ms`)."""
    notes: tuple[str, ...] = ()


class Void(msgspec.Struct, frozen=True, kw_only=True):
    """Trials of a criterion that do not count, and why."""

    criterion: str
    count: int
    reason: str


class Deviation(msgspec.Struct, frozen=True, kw_only=True):
    """Where the run left its plan."""

    what: str
    why: str
    effect: str


class InstrumentError(msgspec.Struct, frozen=True, kw_only=True):
    """The error of a measuring instrument: timer resolution, clock offset between hosts, delay of the load
    generator's scheduler. Differences smaller than it say nothing."""

    name: str
    value: float
    unit: str
    detail: str
    host: str | None = None
    statistic: str | None = None
    """What `value` is of what was seen: `p99`, `largest`."""


Instrument = InstrumentError


class FaultRate(msgspec.Struct, frozen=True, kw_only=True):
    """One term of a projection: how often a fault comes (assumed) and how long it takes away (measured)."""

    fault: str
    per_week: float
    source: str
    """Where the rate comes from."""
    n: int
    """Measured outages behind the lengths; 0: none was measured, the lengths are assumed."""
    median_s: float
    longest_s: float


class Projection(msgspec.Struct, frozen=True, kw_only=True):
    """Availability by Monte-Carlo from measured outage lengths and stated fault rates. Never an observation.

    Downtimes are seconds a week; the interval is two-sided at `confidence`.
    """

    criterion: str
    downtime_s: float
    low_s: float
    high_s: float
    confidence: float
    budget_s: float
    draws: int
    rates: tuple[FaultRate, ...]
    assumptions: tuple[str, ...]


class Verdicts(msgspec.Struct, frozen=True, kw_only=True):
    """`verdicts.json`: every row of the catalogue is in `criteria`, in the catalogue's order."""

    criteria: tuple[CriterionResult, ...]
    voids: tuple[Void, ...] = ()
    deviations: tuple[Deviation, ...] = ()
    instruments: tuple[InstrumentError, ...] = ()
    projections: tuple[Projection, ...] = ()
    scenarios: tuple[ScenarioResult, ...] = ()
    schema: str = VERDICTS_SCHEMA


# ------------------------------------------------------------------------------------------ series.json


class SeriesFile(msgspec.Struct, frozen=True, kw_only=True):
    """`series.json`: the data of the plots. `criterion` is an id of `verdicts.json`, or `run` for all."""

    series: tuple[Series, ...]
    schema: str = SERIES_SCHEMA


# ---------------------------------------------------------------------------------------- selftest.json


class SelfTestRate(msgspec.Struct, frozen=True, kw_only=True):
    """How often one judge was wrong about one synthetic system whose truth is known."""

    judge: str
    """`threenines`, or the naive one beside it: `mean`, `sample p99`, `30 trials`."""
    estimator: str
    """`quantile (Wilks 99/95)`, `share (Clopper-Pearson)`, `gain (bootstrap)`."""
    system: str
    """`failover p99 5.1 s against < 5 s`."""
    keeps_target: bool
    """The truth. Where it is true a fail is the error, else a pass is."""
    runs: int
    passed: int
    failed: int
    undecided: int
    error: float
    """Share of `runs` with the wrong verdict (0 to 1)."""
    low: float
    high: float
    """Two-sided 90 % interval of `error`, so that `high` is the one-sided 95 % bound."""
    limit: float | None = None
    """What the plan claims at most (alpha or beta); `None` for naive judges: they claim nothing."""
    holds: bool | None = None
    """Whether `error` is compatible with `limit`; `None` without a limit."""


class SelfTest(msgspec.Struct, frozen=True, kw_only=True):
    """`selftest.json` in `reports/out/` or in a run's folder: the judge judged."""

    created: str
    verdict: Verdict
    runs: int
    """Synthetic runs for each estimator and system."""
    seed: int
    rates: tuple[SelfTestRate, ...]
    commit: str | None = None
    detail: str | None = None
    schema: str = SELFTEST_SCHEMA


# ------------------------------------------------------------------------------------------ report.json


class Criterion(CriterionResult, frozen=True, kw_only=True):
    """A result with what the report adds to it. `row_verdict` is that of its whole row."""

    planned: bool = False
    row_verdict: Verdict = Verdict.NOT_MEASURED
    grade: Grade | None = None
    plan: PlannedCriterion | None = None
    previous: Verdict | None = None
    """Its verdict in the run that this one is compared with."""
    previous_estimate: float | None = None
    previous_bound: float | None = None
    previous_n: int | None = None


class CategoryScore(msgspec.Struct, frozen=True, kw_only=True):
    """A category over **all** its rows: `score` is passed rows / rows, so what was not measured lowers it."""

    id: str
    threshold: float
    score: float
    verdict: Verdict
    title: str
    grade: Grade | None
    rows: int
    planned: int
    measured: int
    passed: int
    failed: int


class Coverage(msgspec.Struct, frozen=True, kw_only=True):
    """How much of the catalogue this run speaks about, in rows (a row with parts counts once).

    `measured` rows are measured whole, `partly` have parts that were and parts that were not;
    rows = passed + failed + inconclusive + void + not_measured. `criteria_*` count what the plan names,
    parts on their own.
    """

    rows: int
    planned: int
    measured: int
    partly: int
    passed: int
    failed: int
    inconclusive: int
    void: int
    not_measured: int
    criteria_planned: int
    criteria_passed: int
    criteria_failed: int


class Release(msgspec.Struct, frozen=True, kw_only=True):
    """Whether this report alone proves a release: all categories at their thresholds and no regression."""

    verdict: Verdict
    grade: Grade | None
    reason: str


class Regression(msgspec.Struct, frozen=True, kw_only=True):
    """Passed in the run that stands beside, and fails now."""

    id: str
    title: str


class Comparison(msgspec.Struct, frozen=True, kw_only=True):
    """The earlier run that stands beside this one: the last accepted one of its profile and environment.

    Where none was accepted yet it is the newest that came to its end: `accepted` is then false, and what its
    `regressions` list fails nothing.
    """

    run: str
    ended: str | None
    regressions: tuple[Regression, ...]
    mended: tuple[str, ...]
    accepted: bool = True


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """`report.json`. `verdict` and `grade` are about what the profile planned; `coverage` says how much."""

    run: Run
    verdict: Verdict
    grade: Grade | None
    reason: str
    coverage: Coverage
    release: Release
    categories: tuple[CategoryScore, ...]
    criteria: tuple[Criterion, ...]
    comparison: Comparison | None = None
    voids: tuple[Void, ...] = ()
    deviations: tuple[Deviation, ...] = ()
    instruments: tuple[InstrumentError, ...] = ()
    projections: tuple[Projection, ...] = ()
    scenarios: tuple[ScenarioResult, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    """Scenarios that this stack cannot run: told and counted, never as passed."""
    selftest: SelfTest | None = None
    notes: tuple[str, ...] = ()
    """What the rendering has to say: files beside the run that could not be used."""
    grading_rule: tuple[str, ...] = ()
    schema: str = REPORT_SCHEMA


def encode(value: msgspec.Struct) -> bytes:
    """JSON as it is written to disk: two spaces of indent, a newline at the end."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def row_of(criterion_id: str) -> str:
    """The catalogue's row of an id: `RL-3.detect` -> `RL-3`."""
    return criterion_id.partition(".")[0]
