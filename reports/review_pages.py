"""A review as Markdown and as one HTML file that fetches nothing: `reports/out/reviews/<period>.md|html`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

from reports import capacity, figures, ledger, render, review, store, trends, words
from reports.capacity import Growth
from reports.markdown import code, escape
from reports.model import Verdict
from reports.review import Baseline, Budget, Period, Review, Tally
from reports.store import RunError
from reports.trends import Course

FOLDER = "reviews"
_WIDTH, _HEIGHT = 120.0, 28.0


@dataclass(frozen=True)
class Written:
    """A review and its files."""

    review: Review
    markdown: Path
    html: Path


def write(period: Period, out: Path, scale: Path | None = None) -> Written:
    """Review the runs under `out` and write both pages. Raises `RunError` when the period holds no run."""
    found = read(period, out, scale)
    folder = out / FOLDER
    paths = folder / f"{period.name}.md", folder / f"{period.name}.html"
    store.write(paths[0], markdown(found).encode())
    store.write(paths[1], page(found).encode())
    return Written(found, *paths)


def read(period: Period, out: Path, scale: Path | None = None) -> Review:
    """The review, from the ledger of `out` and the scale benchmark's file."""
    with ledger.opened(out) as book:
        runs, criteria = book.runs(period.since, period.until), book.criteria(period.since, period.until)
        before, old = book.runs("", period.since), book.criteria("", period.since)
        unusable = book.unusable()
        newest = book.runs("", "9999")
    if not runs:
        told = f"the newest is of {newest[-1].started[:10]}" if newest else "there is none at all"
        raise RunError(
            str(out),
            f"holds no run with a report that started in {period.name}; {told}",
            "name another period",
        )
    growths = capacity.read_scale(scale) if scale is not None else ()
    return review.build(
        period, runs, criteria, before, old, growths, str(scale) if growths else None, unusable
    )


# ------------------------------------------------------------------------------------------------ words


def title(found: Review) -> str:
    return f"{'Quarterly' if found.period.quarterly else 'Monthly'} review, {found.period.name}"


def _value(one: Baseline) -> str:
    last = one.trend.points[-1]
    return figures.quantity(last.value, last.record.unit)


def _change(one: Baseline) -> str:
    return figures.DASH if one.change is None else f"{one.change * 100:+.0f} %".replace("+0 %", "±0 %")


def _room(one: Baseline) -> str:
    return figures.share(one.trend.headroom)


def _chance(p_value: float | None) -> str:
    if p_value is None:
        return "not tested"
    return "p < 0.001" if p_value < 0.001 else f"p = {figures.number(p_value, 2)}"


def _target(one: Baseline) -> str:
    last = one.trend.last
    if last.target is None:
        return figures.DASH
    return f"{figures.relation(last.direction)} {figures.quantity(last.target, last.unit)}".strip()


def _used(one: Budget) -> str:
    if one.tried is None:
        return f"{figures.quantity(one.bad, one.unit)} of {figures.quantity(one.allowed, one.unit)}"
    return f"{figures.number(one.bad)} of {figures.number(one.allowed)} allowed, {one.tried:,} tried"


def _sizes(growth: Growth) -> str:
    return "; ".join(f"{size:,}: {figures.quantity(value, growth.unit)}" for size, value in growth.points)


def _grows(growth: Growth) -> str:
    if growth.exponent <= 0.05:
        return "does not grow"
    return f"agents to the power {growth.exponent:.2f}"


def _limit(growth: Growth) -> str:
    if growth.limit is None:
        return "no target set"
    told = f"{figures.quantity(growth.limit, growth.unit)}, {figures.share(growth.headroom)} left"
    if growth.reaches is not None:
        told += f"; met at about {figures.rough(growth.reaches)} agents (extrapolated)"
    return told


def fleets(found: Review) -> str:
    """What the history itself says about size."""
    if not found.fleets:
        return "No run says how many agents its fleet had."
    sizes = ", ".join(f"{size:,}" for size in found.fleets)
    if len(found.fleets) == 1:
        return f"All runs had {sizes} agents: the history says nothing about other sizes."
    return f"Runs had {sizes} agents."


def spark(one: Baseline) -> str:
    """Points of a small curve of the values, oldest left, in an SVG of 120 by 28; empty for fewer than 2."""
    values = one.trend.values
    if len(values) < 2:
        return ""
    low, high = min(values), max(values)
    span = (high - low) or 1.0
    step = (_WIDTH - 4) / (len(values) - 1)
    return " ".join(
        f"{2 + i * step:.1f},{_HEIGHT - 3 - (value - low) / span * (_HEIGHT - 6):.1f}"
        for i, value in enumerate(values)
    )


def _told(one: Baseline) -> str:
    """What the curve shows, for those who cannot see it."""
    unit = one.trend.last.unit
    values = one.trend.values
    low, high = figures.quantity(min(values), unit), figures.quantity(max(values), unit)
    return f"{len(values)} runs between {low} and {high}"


# --------------------------------------------------------------------------------------------- markdown


def markdown(found: Review) -> str:
    """The review as text; whatever comes from runs is escaped."""
    lines = [f"# {title(found)}", "", words.sentence(escape(found.answer)), ""]
    lines += ["## What to do", ""]
    lines += [f"{i}. {escape(a)}." for i, a in enumerate(found.actions, 1)] or ["Nothing: all is well."]
    lines += ["", "## Runs", ""]
    lines += _tallies("profile", found.tallies)
    if found.period.quarterly:
        lines += _tallies("month", found.months)
    measured = f"{len(found.rows_measured)} of {figures.plural(found.rows, 'row')}"
    lines += [f"{measured} of the catalogue were measured at least once.", ""]
    lines += ["## Against the baseline", ""]
    header = ("criterion", "runs passed", "baseline", "last", "median", "target", "room left", "course")
    lines += _table(header, (_trend_cells(one) for one in found.baselines))
    lines += ["## Regressions", ""]
    lines += [
        f"- **{escape(f.id)}** {escape(f.title)}, {escape(str(f.group))}: passed in `{code(f.earlier.id)}`, "
        f"failed in `{code(f.later.id)}`, "
        + (f"passed again in `{code(f.mended_by)}`." if f.mended_by else "not mended.")
        for f in found.regressions
    ] or ["None."]
    lines += ["", "## Flaky criteria", ""]
    lines += [
        f"- **{escape(f.id)}** {escape(f.title)}, {escape(str(f.group))}: "
        f"{f.passed} of {f.runs} runs passed, {figures.plural(f.flips, 'change')} of verdict"
        + (f", on one commit too (`{code(f.same_commit[:12])}`)." if f.same_commit else ".")
        for f in found.flaky
    ] or ["None."]
    lines += ["", "## Error budgets", ""]
    if found.budgets:
        lines += _table(
            ("criterion", "used", "of its budget"),
            ((f"{b.id} {b.title}, {b.group}", _used(b), figures.share(b.used)) for b in found.budgets),
        )
    else:
        lines += ["No run of this period tried anything that has an error budget.", ""]
    if found.period.quarterly:
        lines += ["## Capacity", "", escape(fleets(found)), ""]
        if found.growth:
            lines += _table(
                ("measure", "by number of agents", "growth", "limit"),
                ((g.measure, _sizes(g), _grows(g), _limit(g)) for g in found.growth),
            )
        else:
            lines += ["No scale benchmark lies here: `python -m benchmarks.scale` makes one.", ""]
    if found.unusable:
        lines += ["## Runs without a report", ""]
        lines += [f"- `{code(u.folder)}`: {escape(u.reason)}" for u in found.unusable]
        lines += [""]
    return "\n".join(lines)


def _tallies(name: str, tallies: tuple[Tally, ...]) -> list[str]:
    return _table(
        (name, "runs", "passed", "failed", "undecided", "rows proven at best"),
        (
            (t.name, str(t.runs), str(t.passed), str(t.failed), str(t.open), f"{t.proven} of {t.rows}")
            for t in tallies
        ),
    )


def _trend_cells(one: Baseline) -> tuple[str, ...]:
    trend = one.trend
    course = trend.course.value
    if trend.course in {Course.BETTER, Course.WORSE}:
        left = trends.days_left(trend)
        course += f" ({_chance(trend.p_value)})"
        course += f", target met in {figures.age(left)}" if left is not None else ""
    unit = trend.last.unit
    return (
        f"{trend.last.id} {trend.last.title}, {trend.group}",
        f"{trend.passed} of {len(trend.points)}",
        figures.quantity(one.value, unit),
        _value(one),
        f"{figures.quantity(one.median, unit)} ({_change(one)})",
        _target(one),
        _room(one),
        course,
    )


def _table(header: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", "|" + "---|" * len(header)]
    lines += [f"| {' | '.join(map(escape, cells))} |" for cells in rows]
    return [*lines, ""]


# ------------------------------------------------------------------------------------------------- html


def page(found: Review) -> str:
    """The review as HTML."""
    template = render.environment().get_template("review.html.j2")
    return template.render(
        review=found,
        title=title(found),
        fleets=fleets(found),
        answer=words.sentence(found.answer),
        rows=[
            (one, _trend_cells(one), Markup(spark(one)), _told(one) if one.trend.values else "")  # noqa: S704
            for one in found.baselines
        ],
        budgets=[(b, _used(b)) for b in found.budgets],
        growth=[(g, _sizes(g), _grows(g), _limit(g)) for g in found.growth],
        good=not found.actions,
        verdicts={Course.BETTER: Verdict.PASS, Course.WORSE: Verdict.FAIL},
    )
