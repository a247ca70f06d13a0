"""Drawings along time: what happened in one trial, and the outages of a service over a run."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator

from reports import figures
from reports.model import OutageEpisode, Outages, TimeLine
from reports.svg import BAD, GRID, INK, MUTED, SERIES, label

OUTAGES_HEIGHT_IN = 2.9
DAY_S = 86_400.0
_NARROWEST = 0.004
_ORDER = ("detect", "decide", "promote", "reroute", "validate")


def height_in(line: TimeLine) -> float:
    """How high the drawing of a time line has to be."""
    return 1.0 + 0.42 * len(line.phases) + 0.24 * len(line.marks)


def time_line(line: TimeLine, figure: Figure) -> None:
    """A bar for each phase from the fault on, a tick where its target ends, a dot for each mark."""
    axes = figure.add_subplot()
    rows = len(line.phases)
    ends = [p.end_ms for p in line.phases] + [m.at_ms for m in line.marks]
    begin, end = min([p.start_ms for p in line.phases] + [m.at_ms for m in line.marks]), max(ends)
    span = (end - begin) or 1.0
    for row, phase in enumerate(line.phases):
        width = phase.end_ms - phase.start_ms
        colour = SERIES[_ORDER.index(phase.name) % len(SERIES) if phase.name in _ORDER else row % len(SERIES)]
        axes.barh(row + 0.2, max(width, span * _NARROWEST), left=phase.start_ms, height=0.34, color=colour)
        told = f"{label(phase.name)}  {figures.duration(width)}"
        if phase.target_ms is not None:
            told += f" (target {figures.duration(phase.target_ms)})"
            limit = phase.start_ms + phase.target_ms
            if limit <= end + span * 0.02:
                axes.plot([limit] * 2, [row - 0.08, row + 0.48], color=BAD, linewidth=1.8)
        early = phase.start_ms <= begin + span * 0.5
        axes.annotate(
            told,
            (phase.start_ms if early else phase.end_ms, row - 0.02),
            va="bottom",
            ha="left" if early else "right",
        )
    for position, mark in enumerate(line.marks):
        height = rows + 0.1 + position * 0.58
        right = mark.at_ms <= begin + span * 0.62
        axes.plot([mark.at_ms] * 2, [-0.45, height], color=MUTED, linewidth=0.8, linestyle=":")
        axes.annotate(
            f"{label(mark.name)}  {figures.duration(mark.at_ms)}",
            (mark.at_ms, height),
            xytext=(5 if right else -5, 0),
            textcoords="offset points",
            va="center",
            ha="left" if right else "right",
            color=MUTED,
        )
        axes.plot([mark.at_ms], [height], marker="o", markersize=3.5, color=INK, linestyle="none")
    axes.set_ylim(rows - 0.25 + len(line.marks) * 0.58, -0.55)
    axes.set_xlim(begin - span * 0.02, end + span * 0.05)
    axes.yaxis.set_visible(False)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: figures.duration(x)))
    axes.set_xlabel("since the fault")
    axes.grid(axis="x")
    axes.set_axisbelow(True)


def merged(episodes: Sequence[OutageEpisode], least_s: float) -> list[tuple[float, float]]:
    """Bars (begin, end in seconds) for episodes: each `least_s` wide at least, those that touch made one."""
    bars: list[tuple[float, float]] = []
    for episode in sorted(episodes, key=lambda e: e.start_s):
        begin, end = episode.start_s, episode.start_s + max(episode.length_s, least_s)
        if bars and begin <= bars[-1][1]:
            bars[-1] = (bars[-1][0], max(bars[-1][1], end))
        else:
            bars.append((begin, end))
    return bars


def outages(strip: Outages, figure: Figure) -> None:
    """Above the strip itself (up, outage, not watched), below the downtime so far against what is allowed."""
    band, course = figure.subplots(2, 1, sharex=True, gridspec_kw={"height_ratios": (1, 3.2)})
    whole = strip.watched_s
    least = whole * _NARROWEST
    band.barh(0, whole, height=1, color=GRID, linewidth=0)
    for gap in strip.gaps:
        band.barh(
            0,
            gap.length_s,
            left=gap.start_s,
            height=1,
            facecolor="none",
            edgecolor=MUTED,
            hatch="////",
            lw=0.6,
        )
    for planned, height, colour in ((True, 0.5, SERIES[1]), (False, 1, BAD)):
        for begin, end in merged([e for e in strip.episodes if e.planned is planned], least):
            band.barh(0, end - begin, left=begin, height=height, color=colour, linewidth=0)
    band.set_ylim(-0.6, 0.6)
    band.yaxis.set_visible(False)
    for side in ("left", "bottom"):
        band.spines[side].set_visible(False)
    band.tick_params(bottom=False)
    counted = sorted((e for e in strip.episodes if not e.planned), key=lambda e: e.start_s)
    at = [0.0, *(t for e in counted for t in (e.start_s, e.start_s + e.length_s)), whole]
    sums = list(accumulate((e.length_s for e in counted), initial=0.0))
    down = [0.0, *(s for i in range(len(counted)) for s in (sums[i], sums[i + 1])), sums[-1]]
    course.plot(at, down, color=INK, linewidth=1.6, label=f"downtime {figures.duration(sums[-1] * 1000)}")
    if strip.budget_s is not None:
        course.axhline(
            strip.budget_s,
            color=BAD,
            linestyle=(0, (5, 2)),
            linewidth=1.6,
            label=f"allowed {figures.duration(strip.budget_s * 1000)}",
        )
    course.set_xlim(0, whole)
    course.set_ylim(0, max(sums[-1], strip.budget_s or 0.0, 1e-3) * 1.1)
    for axis in (course.xaxis, course.yaxis):
        axis.set_major_locator(MaxNLocator(4))
        axis.set_major_formatter(FuncFormatter(lambda value, _: figures.duration(value * 1000)))
    if whole >= 2 * DAY_S:
        course.xaxis.set_major_locator(MultipleLocator(DAY_S * max(1, round(whole / DAY_S / 7))))
        course.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value / DAY_S:g} d"))
    course.set_xlabel("since the start")
    course.grid(axis="y")
    course.set_axisbelow(True)
    course.legend(loc="lower left", bbox_to_anchor=(-0.02, 1.0), ncols=2, fontsize=9, borderaxespad=0.2)
