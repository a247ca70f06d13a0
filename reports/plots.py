"""Which plots a criterion gets, and how they are drawn: distribution, order of the run, quantiles, time line.

Each shows the data and the target. Drawings are narrow: two stand side by side on a desk, one fills a phone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

from reports import alt, figures, strips
from reports.model import Criterion, Lines, Outages, Quantiles, Samples, Series, TimeLine
from reports.svg import ACCENT, BAD, INK, MUTED, SERIES, label, svg

_MARKERS = ("o", "^", "s", "D")
_HEIGHT_IN = 2.9
_MOST_DOTS = 800
_THINNEST_BAR = 0.012


@dataclass(frozen=True)
class Plot:
    """A drawing with the sentence that says what is on it (for those who cannot see it)."""

    svg: str
    caption: str
    alt: str
    note: str = ""
    """A sentence below the drawing: what a test says about it."""


def draw(series: Sequence[Series], criterion: Criterion | None, prefix: str) -> tuple[Plot, ...]:
    """All plots of one criterion. `prefix` keeps the ids of several drawings on one page apart."""
    plots: list[Plot] = []

    def add(
        caption: str,
        told: str,
        paint: Callable[[Figure], None],
        height_in: float = _HEIGHT_IN,
        note: str = "",
    ) -> None:
        told = figures.printable(told)
        drawing = svg(paint, f"{prefix}-{len(plots)}", told, height_in)
        plots.append(Plot(drawing, caption, told, figures.printable(note)))

    curves = [s for s in series if isinstance(s, Quantiles) and len(s.values) > 1]
    for title in dict.fromkeys(s.title for s in curves):
        group = [s for s in curves if s.title == title]
        add(title, "; ".join(map(alt.of_quantiles, group)), partial(_quantiles, group, criterion))
    for one in series:
        match one:
            case Samples() if one.values:
                told = alt.of_samples(one, criterion)
                name = "" if criterion is not None and one.title == criterion.title else f"{one.title}: "
                add(_capital(f"{name}distribution"), told, partial(_distribution, one, criterion))
                order = f"{told} {alt.of_run_order(one)}".strip()
                add(
                    _capital(f"{name}in the order run"),
                    order,
                    partial(_run_order, one, criterion),
                    note=alt.of_run_order(one),
                )
            case TimeLine() if one.phases:
                add(one.title, alt.of_timeline(one), partial(strips.time_line, one), strips.height_in(one))
            case Outages() if one.watched_s > 0:
                add(one.title, alt.of_outages(one), partial(strips.outages, one), strips.OUTAGES_HEIGHT_IN)
            case Lines() if one.lines and one.at_s:
                add(one.title, alt.of_lines(one), partial(_lines, one, criterion))
            case _:
                pass
    return tuple(plots)


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


# ------------------------------------------------------------------------------------------------ kinds


def _distribution(samples: Samples, criterion: Criterion | None, figure: Figure) -> None:
    axes = figure.add_subplot()
    values = _finite(samples.values)
    guides = _guides(criterion)
    log = _logarithmic(values, guides, samples.log)
    if values.size:
        edges = _edges(values, [*values.tolist(), *(g.value for g in guides)], log=log)
        axes.hist(values, bins=edges, color=SERIES[0], alpha=0.85, linewidth=0)
    _value_axis(axes.xaxis, axes.set_xscale, samples.unit, log)
    _whole(axes.yaxis)
    axes.set_ylabel("trials")
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    for guide in guides:
        axes.axvline(
            guide.value, color=guide.colour, linestyle=guide.style, linewidth=1.6, label=label(guide.label)
        )
    _pad(axes, values, guides, log, axis="x")
    _legend(axes)


def _run_order(samples: Samples, criterion: Criterion | None, figure: Figure) -> None:
    axes = figure.add_subplot()
    values = _finite(samples.values)
    guides = [g for g in _guides(criterion) if g.name == "target"]
    log = _logarithmic(values, guides, samples.log)
    groups = samples.groups if len(samples.groups) == len(samples.values) else ()
    names = list(dict.fromkeys(groups))[: len(SERIES)] or [""]
    ceiling = max([float(values.max())] if values.size else [1.0], default=1.0)
    ceiling = max([ceiling, *(g.value for g in guides)])
    lost = [i + 1 for i, value in enumerate(samples.values) if value is None]
    lost = lost[:: 1 + len(lost) // _MOST_DOTS]
    for position, name in enumerate(names):
        points = [
            (i + 1, v)
            for i, v in enumerate(samples.values)
            if v is not None
            and (not groups or groups[i] == name or (position == 0 and groups[i] not in names))
        ]
        kept = _thin(points)
        axes.plot(
            [x for x, _ in kept],
            [y for _, y in kept],
            linestyle="none",
            marker=_MARKERS[position],
            markersize=3.2,
            markeredgewidth=0,
            color=SERIES[position],
            alpha=0.85,
            label=label(name) if name else None,
        )
    if lost:
        axes.plot(lost, [ceiling] * len(lost), linestyle="none", marker="x", color=BAD, label="timed out")
    for guide in guides:
        axes.axhline(
            guide.value, color=guide.colour, linestyle=guide.style, linewidth=1.6, label=label(guide.label)
        )
    _value_axis(axes.yaxis, axes.set_yscale, samples.unit, log)
    _whole(axes.xaxis)
    axes.set_xlabel("trial")
    axes.grid(axis="y", which="major")
    axes.set_axisbelow(True)
    _pad(axes, values, guides, log, axis="y")
    _legend(axes)


def _quantiles(curves: Sequence[Quantiles], criterion: Criterion | None, figure: Figure) -> None:
    axes = figure.add_subplot()
    guides = [g for g in _guides(criterion) if g.name != "estimate"]
    everything = np.array([v for c in curves for v in c.values], dtype=float)
    log = _logarithmic(everything, guides, None)
    most = max(max((q for q in c.quantiles if q < 1), default=0.9) for c in curves)
    for position, curve in enumerate(curves):
        x = [_nines(min(q, most + (1 - most) / 2)) for q in curve.quantiles]
        colour = SERIES[position % len(SERIES)]
        axes.plot(
            x,
            curve.values,
            color=colour,
            linewidth=1.8,
            label=label(curve.group) if curve.group else None,
            linestyle=("-", "--")[position % 2],
        )
    for guide in guides:
        axes.axhline(
            guide.value, color=guide.colour, linestyle=guide.style, linewidth=1.6, label=label(guide.label)
        )
    ticks = [q for q in (0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999) if q <= most]
    axes.xaxis.set_major_locator(FixedLocator([_nines(q) for q in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())
    names = {round(_nines(q), 6): f"{figures.percent_number(q * 100)} %" for q in ticks}
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: names.get(round(x, 6), "")))
    axes.set_xlabel("share of the population at or below")
    _value_axis(axes.yaxis, axes.set_yscale, curves[0].unit, log)
    axes.grid(axis="both")
    axes.set_axisbelow(True)
    _pad(axes, everything, guides, log, axis="y")
    _legend(axes)


def _lines(chart: Lines, criterion: Criterion | None, figure: Figure) -> None:
    axes = figure.add_subplot()
    for position, line in enumerate(chart.lines[: len(SERIES)]):
        values = [math.nan if v is None else v for v in line.values][: len(chart.at_s)]
        style = ("-", "--", "-.", ":")[position % 4]
        axes.plot(
            chart.at_s[: len(values)],
            values,
            color=SERIES[position],
            linewidth=1.6,
            linestyle=style,
            label=label(line.name),
        )
    for mark in chart.marks:
        axes.axvline(mark.at_ms / 1000, color=MUTED, linewidth=0.9, linestyle=":")
    if criterion is not None and criterion.target is not None and criterion.unit == chart.unit:
        guide = _guides(criterion)[0]
        axes.axhline(
            guide.value, color=guide.colour, linestyle=guide.style, linewidth=1.6, label=label(guide.label)
        )
    axes.set_xlabel("seconds since the start")
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if chart.unit in figures.SCALED_UNITS:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: figures.quantity(y, chart.unit)))
    else:
        axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: figures.number(y)))
        axes.set_ylabel(label(chart.unit))
    if not any(v is not None and v < 0 for line in chart.lines for v in line.values):
        axes.set_ylim(bottom=0)
    axes.grid(axis="y")
    axes.set_axisbelow(True)
    _legend(axes)


# ---------------------------------------------------------------------------------------------- guides


@dataclass(frozen=True)
class _Guide:
    name: str
    value: float
    label: str
    colour: str
    style: Any


def _guides(criterion: Criterion | None) -> list[_Guide]:
    """The lines of target, bound and estimate, where they are figures."""
    if criterion is None:
        return []
    found: list[_Guide] = []
    if criterion.target is not None and criterion.unit is not None:
        found.append(
            _Guide("target", criterion.target, f"target {figures.target(criterion)}", BAD, (0, (5, 2)))
        )
    if criterion.bound is not None:
        level = f"{figures.share(criterion.confidence)} " if criterion.confidence is not None else ""
        label = f"{level}bound {figures.quantity(criterion.bound, criterion.unit)}"
        found.append(_Guide("bound", criterion.bound, label, INK, "-"))
    if criterion.estimate is not None and criterion.estimate != criterion.bound:
        label = f"{criterion.statistic or 'estimate'} {figures.quantity(criterion.estimate, criterion.unit)}"
        found.append(_Guide("estimate", criterion.estimate, label, ACCENT, (0, (1, 1.5))))
    return found


def _finite(values: Sequence[float | None]) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.array([v for v in values if v is not None and math.isfinite(v)], dtype=np.float64)


def _logarithmic(values: Any, guides: Sequence[_Guide], wish: bool | None) -> bool:
    """A logarithmic axis when asked for or when the figures span more than a factor of 20; never with 0."""
    figures_shown = [float(v) for v in values] + [g.value for g in guides]
    if not figures_shown or min(figures_shown) <= 0:
        return False
    return wish if wish is not None else max(figures_shown) / min(figures_shown) > 20


def _edges(values: Any, shown: Sequence[float], *, log: bool) -> list[float]:
    """Edges of a histogram's bars: as many as the data bear, none too thin to see beside far-off lines."""
    change, back = (math.log10, lambda x: 10.0**x) if log else (float, float)
    low, high = change(float(values.min())), change(float(values.max()))
    whole = change(max(shown)) - change(min(shown))
    if whole < 1e-9 * max(abs(low), abs(high), 1.0 if log else 0.0):
        whole = 0.0  # apart by rounding alone: between such values a float has no room for edges
    thinnest = whole * _THINNEST_BAR or abs(low) * 0.05 or 0.5
    wanted = min(40, max(8, round(math.sqrt(values.size) * 1.6)))
    bars = max(1, min(wanted, math.floor((high - low) / thinnest)))
    width = max((high - low) / bars, thinnest)
    begin = (low + high - bars * width) / 2
    edges = [back(begin + width * i) for i in range(bars + 1)]
    edges[0], edges[-1] = min(edges[0], float(values.min())), max(edges[-1], float(values.max()))
    return edges


def _pad(axes: Any, values: Any, guides: Sequence[_Guide], log: bool, *, axis: str) -> None:
    shown = [float(v) for v in values] + [g.value for g in guides]
    if not shown:
        return
    low, high = min(shown), max(shown)
    if log:
        room = (high / low) ** 0.06 if high > low else 1.5
        limits = (low / room, high * room)
    else:
        room = (high - low) * 0.06 or abs(high) * 0.1 or 1.0
        floor = low - room
        limits = (0.0 if low >= 0 and floor < low * 0.5 else floor, high + room)
    (axes.set_xlim if axis == "x" else axes.set_ylim)(*limits)
    if log:
        decades = math.log10(limits[1] / limits[0])
        target = axes.xaxis if axis == "x" else axes.yaxis
        subs = (1.0,) if decades > 2.2 else ((1.0, 3.0) if decades > 1.1 else (1.0, 2.0, 5.0))
        target.set_major_locator(LogLocator(subs=subs, numticks=8))


def _value_axis(axis: Any, set_scale: Callable[[str], None], unit: str, log: bool) -> None:
    if log:
        set_scale("log")
        axis.set_minor_locator(NullLocator())
        axis.set_minor_formatter(NullFormatter())
    else:
        axis.set_major_locator(MaxNLocator(5))
    axis.set_major_formatter(FuncFormatter(lambda value, _: figures.quantity(value, unit)))


def _whole(axis: Any) -> None:
    axis.set_major_locator(MaxNLocator(5, integer=True))
    axis.set_major_formatter(FuncFormatter(lambda value, _: figures.number(value)))


def _nines(quantile: float) -> float:
    return -math.log10(max(1 - quantile, 1e-9))


def _thin(points: Sequence[tuple[int, float]]) -> list[tuple[int, float]]:
    """At most `_MOST_DOTS` points: of each stretch its lowest and its highest, so that no extreme is lost."""
    if len(points) <= _MOST_DOTS:
        return list(points)
    edges = np.linspace(0, len(points), _MOST_DOTS // 2 + 1).astype(int)
    kept: list[tuple[int, float]] = []
    for start, stop in pairwise(edges.tolist()):
        part = points[start:stop]
        kept.extend({min(part, key=lambda p: p[1]), max(part, key=lambda p: p[1])})
    return sorted(kept)


def _legend(axes: Any) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        axes.legend(
            handles,
            labels,
            loc="lower left",
            bbox_to_anchor=(-0.02, 1.0),
            ncols=2,
            fontsize=9,
            handlelength=1.8,
            columnspacing=1.2,
            borderaxespad=0.2,
        )
