"""`series.json`: the data of the plots, as types. Import them from `reports.model`.

Instants on time lines are milliseconds since the fault, those on strips seconds since the start of the run.
Whoever writes a series keeps it small: a page holds some hundred points a plot, so a million records come as
`Quantiles` or as a sample (`Samples.of`), never as a list of all.
"""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """What was lost in a failover trial."""

    AGENT = "agent"
    SERVICE = "service"
    HOST = "host"


class RunOrder(msgspec.Struct, frozen=True, kw_only=True):
    """A test of the trials' values for drift over the order in which they were run.

    `drifts` is the test's own answer at `alpha` (after whatever correction the plan names), not a reader's.
    """

    test: str
    """`Mann-Kendall`, `blocks (Kruskal-Wallis)`."""
    statistic: float
    p_value: float
    alpha: float
    drifts: bool
    detail: str | None = None
    """What it means for the verdict, in a sentence."""


class Samples(msgspec.Struct, frozen=True, kw_only=True, tag="samples", tag_field="kind"):
    """One value per trial, in the order in which they were run. `None` timed out (an exceedance)."""

    criterion: str
    title: str
    unit: str
    values: tuple[float | None, ...]
    groups: tuple[str, ...] = ()
    """A label per value (the host asked, the kind of agent); empty or as long as `values`."""
    log: bool | None = None
    """Logarithmic axis; `None` lets the plot decide by the spread."""
    run_order: tuple[RunOrder, ...] = ()
    """Tests for drift, said below the plot of the run's order."""
    of: int | None = None
    """How many there were, when `values` are a sample of them; `None`: these are all."""


class Quantiles(msgspec.Struct, frozen=True, kw_only=True, tag="quantiles", tag_field="kind"):
    """A distribution too large to list: value at each quantile (0 to 1), rising. One per group."""

    criterion: str
    title: str
    unit: str
    quantiles: tuple[float, ...]
    values: tuple[float, ...]
    count: int
    group: str | None = None


class Phase(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of a time line."""

    name: str
    """For failovers one of `detect`, `decide`, `promote`, `reroute`, `validate`, or another word."""
    start_ms: float
    end_ms: float
    target_ms: float | None = None
    """How long it may take, where a row of the catalogue says so."""


class Mark(msgspec.Struct, frozen=True, kw_only=True):
    """An instant on a time line."""

    name: str
    at_ms: float


class TimeLine(msgspec.Struct, frozen=True, kw_only=True, tag="timeline", tag_field="kind"):
    """What happened in one trial: the slowest failover, from the fault to the first good answer.

    `phases` come in the order of their beginning. A criterion may have several (the slowest and the median).
    """

    criterion: str
    title: str
    phases: tuple[Phase, ...]
    marks: tuple[Mark, ...] = ()
    level: Level | None = None
    fault: str | None = None
    """`SIGKILL of the agent's process`, `host frozen`."""


class Line(msgspec.Struct, frozen=True, kw_only=True):
    """A named curve."""

    name: str
    values: tuple[float | None, ...]


class Lines(msgspec.Struct, frozen=True, kw_only=True, tag="lines", tag_field="kind"):
    """Something over the time of the run (seconds since its start): rate of calls, errors, targets up."""

    criterion: str
    title: str
    unit: str
    at_s: tuple[float, ...]
    lines: tuple[Line, ...]
    marks: tuple[Mark, ...] = ()


class OutageEpisode(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch without service, from the last good answer before it to the first after it."""

    start_s: float
    length_s: float
    cause: str
    """`crash of memory-store (injected)`, `unknown`."""
    planned: bool = False
    """A fault that the harness injected: shown, and not counted as unplanned downtime."""
    seen_by: tuple[str, ...] = ()
    """The probes that saw it: `mainpc`, `pc2`, `prometheus`."""


class Gap(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch in which nobody probed: neither up nor down."""

    start_s: float
    length_s: float
    reason: str


class Outages(msgspec.Struct, frozen=True, kw_only=True, tag="outages", tag_field="kind"):
    """The outage strip of a service over the time that was watched."""

    criterion: str
    title: str
    watched_s: float
    """Length of the strip: from the first probe to the last, gaps included."""
    episodes: tuple[OutageEpisode, ...] = ()
    gaps: tuple[Gap, ...] = ()
    budget_s: float | None = None
    """Downtime that the target allows in `watched_s` less the gaps."""
    probes: tuple[str, ...] = ()


Series = Samples | Quantiles | TimeLine | Lines | Outages
