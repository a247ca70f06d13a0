"""The data of the report's plots, from the same history that was judged. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

from reports.model import (
    Quantiles,
    Samples,
    Series,
    SeriesFile,
)
from verification import drift, statistics, timelines
from verification.history import History
from verification.load_series import load_series
from verification.observations import Observations
from verification.plan import RunPlan

QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1.0)
_SAMPLES = (
    *("SD-2.cold", "SD-4", "SD-6"),
    *("RL-3", "RL-3.detect", "RL-3.failover", "RL-3.validate", "RL-3.hang"),
    *("RL-4", "RL-4.detect", "RL-4.failover", "RL-4.reroute"),
    *("RL-5", "RL-5.detect", "RL-5.failover", "RL-5.state", "RL-5.leader"),
    *("RK-3", "RK-3.loss"),
)


def series_of(plan: RunPlan, history: History, observed: Mapping[str, Observations]) -> SeriesFile:
    """Everything that this run has to show; `observed` is what its checkers found."""
    found: list[Series] = []
    found += _look_ups(observed)
    for name in _SAMPLES:
        found += _samples(plan, observed, name)
    found += timelines.slowest(plan, history, tuple(observed))
    found += load_series(plan, history)
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
