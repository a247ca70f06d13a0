"""The data of the report's plots, from the same history that was judged. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from reports.model import (
    Line,
    Lines,
    Mark,
    Phase,
    Quantiles,
    Samples,
    Series,
    SeriesFile,
    TimeLine,
)
from verification import drift, statistics
from verification.checkers import failover
from verification.checkers.failover import Outcome
from verification.checkers.load import LOAD_OPERATIONS
from verification.history import History, Kind
from verification.observations import Observations
from verification.plan import RunPlan

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1.0)
BIN_S = 2.0
_SAMPLES = ("SD-2.cold", "SD-4", "SD-6", "RL-3", "RL-3.detect", "RL-3.failover", "RL-3.validate", "RL-3.hang")


def series_of(plan: RunPlan, history: History, observed: Mapping[str, Observations]) -> SeriesFile:
    """Everything that this run has to show; `observed` is what its checkers found."""
    found: list[Series] = []
    found += _look_ups(observed)
    for name in _SAMPLES:
        found += _samples(plan, observed, name)
    if "RL-3" in observed:
        found += _slowest(plan, history)
    found += _load_lines(plan, history)
    return SeriesFile(series=tuple(found))


def _look_ups(observed: Mapping[str, Observations]) -> list[Series]:
    by_host: dict[str, list[float]] = defaultdict(list)
    for trial in observed.get("SD-2", Observations()).trials:
        if trial.value is not None:
            by_host[trial.block].append(trial.value)
    return [
        Quantiles(
            criterion="SD-2",
            title="Warm look-ups",
            unit="ms",
            quantiles=QUANTILES,
            values=tuple(statistics.quantile(values, share) for share in QUANTILES),
            count=len(values),
            group=host,
        )
        for host, values in by_host.items()
    ]


def _samples(plan: RunPlan, observed: Mapping[str, Observations], name: str) -> list[Series]:
    trials = observed.get(name, Observations()).trials
    if not trials:
        return []
    entry = plan.catalogue.entry(name)
    blocks = {trial.block for trial in trials}
    return [
        Samples(
            criterion=name,
            title=entry.title,
            unit=entry.unit or "",
            values=tuple(trial.value for trial in trials),
            groups=tuple(trial.block for trial in trials) if len(blocks) > 1 else (),
            run_order=drift.run_order(observed[name]),
        )
    ]


def _slowest(plan: RunPlan, history: History) -> list[Series]:
    whole = [o for o in failover.outcomes(plan, history) if o.void is None and o.total_ms is not None]
    found: list[Series] = []
    for fault, criterion in (("crash", "RL-3"), ("hang", "RL-3.hang")):
        trials = [outcome for outcome in whole if outcome.fault == fault]
        if trials:
            found.append(_time_line(criterion, max(trials, key=lambda outcome: outcome.total_ms or 0.0)))
    return found


def _time_line(criterion: str, outcome: Outcome) -> TimeLine:
    left, served, valid = outcome.left_ms or 0.0, outcome.served_ms or 0.0, outcome.validated_ms or 0.0
    marks = [Mark(name="fault", at_ms=0.0)]
    if outcome.took_effect_ms is not None:
        marks.append(
            Mark(name="process gone" if outcome.fault == "crash" else "frozen", at_ms=outcome.took_effect_ms)
        )
    marks += [Mark(name=f"left on {host}", at_ms=at) for host, at in outcome.left_by_host if at is not None]
    marks += [
        Mark(name=f"served on {host}", at_ms=at) for host, at in outcome.served_by_host if at is not None
    ]
    return TimeLine(
        criterion=criterion,
        title=f"The slowest {outcome.fault}: {outcome.agent} on {outcome.home}",
        phases=(
            Phase(name="detect", start_ms=0.0, end_ms=left),
            Phase(name="fail over", start_ms=0.0, end_ms=served),
            Phase(name="validate", start_ms=served, end_ms=max(served, valid)),
        ),
        marks=tuple(sorted(marks, key=lambda mark: mark.at_ms)),
    )


def _load_lines(plan: RunPlan, history: History) -> list[Series]:
    good: dict[str, dict[int, int]] = {host: defaultdict(int) for host in plan.hosts}
    bad: dict[int, int] = defaultdict(int)
    begin_ns = min((o.invoke.time_ns for o in history.of(*LOAD_OPERATIONS)), default=None)
    if begin_ns is None:
        return []
    last = 0
    for operation in history.of(*LOAD_OPERATIONS):
        host = operation.invoke.host
        if host not in good or operation.completion is None:
            continue
        slot = int((operation.completion.time_ns - begin_ns) / 1e9 / BIN_S)
        last = max(last, slot)
        if operation.kind is Kind.OK:
            good[host][slot] += 1
        else:
            bad[slot] += 1
    slots = range(last)  # the last one is not full
    lines = [
        Line(name=f"answered, {host}", values=tuple(by_slot[slot] / BIN_S for slot in slots))
        for host, by_slot in good.items()
    ]
    lines.append(Line(name="failed, all hosts", values=tuple(bad[slot] / BIN_S for slot in slots)))
    return (
        [
            Lines(
                criterion="run",
                title="Load during the run",
                unit="operations/s",
                at_s=tuple(slot * BIN_S for slot in slots),
                lines=tuple(lines),
            )
        ]
        if slots
        else []
    )
