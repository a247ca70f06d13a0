"""What is on a drawing, in a sentence: for those who cannot see it, and for those who look twice."""

from __future__ import annotations

import numpy as np

from reports import figures
from reports.model import Criterion, Direction, Lines, Quantiles, Samples, TimeLine


def of_samples(samples: Samples, criterion: Criterion | None) -> str:
    """Trials of a criterion."""
    values = np.array([v for v in samples.values if v is not None and np.isfinite(v)])
    lost = sum(v is None for v in samples.values)
    text = f"{figures.plural(len(samples.values), 'trial')}"
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
        f"{p.name} from {figures.duration(p.start_ms)} to {figures.duration(p.end_ms)}" for p in line.phases
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
