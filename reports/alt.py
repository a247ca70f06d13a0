"""What is on a drawing, in a sentence: for those who cannot see it, and for those who look twice."""

from __future__ import annotations

import numpy as np

from reports import figures
from reports.model import Criterion, Direction, Lines, Outages, Quantiles, Samples, TimeLine


def of_samples(samples: Samples, criterion: Criterion | None) -> str:
    """Trials of a criterion."""
    values = np.array([v for v in samples.values if v is not None and np.isfinite(v)])
    lost = sum(v is None for v in samples.values)
    text = f"{figures.plural(len(samples.values), 'trial')}"
    if samples.of is not None and samples.of > len(samples.values):
        text += f", a sample of {samples.of:,}"
    if values.size:
        middle = figures.quantity(float(np.median(values)), samples.unit)
        least, most = (figures.quantity(float(v), samples.unit) for v in (values.min(), values.max()))
        text += f": from {least} to {most}, median {middle}"
    if lost:
        text += f", {lost} timed out"
    if criterion is not None and criterion.target is not None:
        worse = "above" if criterion.direction in {Direction.AT_MOST, Direction.BELOW} else "beyond"
        text += f"; target {figures.target(criterion)}"
        if criterion.exceedances is not None:
            text += f", {criterion.exceedances} {worse} it"
    return text + "."


def of_run_order(samples: Samples) -> str:
    """What the tests for drift say, a sentence each."""
    told = []
    for test in samples.run_order:
        found = "values drift over the run" if test.drifts else "no drift found"
        figure = "< 0.001" if test.p_value < 0.001 else f"= {figures.number(test.p_value, 2)}"
        limit = figures.number(test.alpha, 2)
        told.append(f"{test.test[:1].upper()}{test.test[1:]}: {found} (p {figure}, limit {limit}).")
        if test.detail:
            told.append(test.detail[:1].upper() + test.detail[1:].rstrip(".") + ".")
    return " ".join(told)


def of_outages(strip: Outages) -> str:
    """The outages of a service, and how much of it was watched."""
    counted = [e for e in strip.episodes if not e.planned]
    injected = len(strip.episodes) - len(counted)
    length = figures.duration(sum(e.length_s for e in counted) * 1000)
    text = f"{figures.plural(len(counted), 'outage')} in {figures.duration(strip.watched_s * 1000)}"
    text += f", {length} in all" if counted else ""
    if counted:
        worst = max(counted, key=lambda e: e.length_s)
        text += f", the longest {figures.duration(worst.length_s * 1000)} ({worst.cause})"
    if strip.budget_s is not None:
        text += f"; allowed {figures.duration(strip.budget_s * 1000)}"
    if injected:
        text += f"; {injected} more were injected or planned and do not count"
    if strip.gaps:
        gone = figures.duration(sum(g.length_s for g in strip.gaps) * 1000)
        text += f"; {figures.plural(len(strip.gaps), 'gap')} of {gone} nobody watched"
    return text + "."


def of_quantiles(curve: Quantiles) -> str:
    """A distribution."""
    pairs = dict(zip(curve.quantiles, curve.values, strict=False))
    told = [
        f"{figures.percent_number(q * 100)} % at or below {figures.quantity(pairs[q], curve.unit)}"
        for q in (0.5, 0.99, 0.999)
        if q in pairs
    ]
    name = f"{curve.group}: " if curve.group else ""
    return f"{name}{figures.plural(curve.count, 'value')}, {', '.join(told) or 'as a curve'}."


def of_timeline(line: TimeLine) -> str:
    """What happened in one trial."""
    steps = [
        f"{p.name} from {figures.duration(p.start_ms)} to {figures.duration(p.end_ms)}"
        + (f" (target {figures.duration(p.target_ms)})" if p.target_ms is not None else "")
        for p in line.phases
    ]
    return "; ".join(steps) + "."


def of_lines(chart: Lines) -> str:
    """Curves over the time of the run."""
    told = []
    for line in chart.lines:
        values = [v for v in line.values if v is not None]
        if values:
            low, high = (figures.quantity(v, chart.unit) for v in (min(values), max(values)))
            told.append(f"{line.name} between {low} and {high}")
    return "; ".join(told) + "."
