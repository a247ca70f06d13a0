"""Numbers and words as a reader sees them. `None` is shown as a dash, never as 0."""

from __future__ import annotations

import math
from datetime import datetime

from reports.model import Criterion, Direction, Verdict

DASH = "–"
_TIME_MS = {"us": 0.001, "µs": 0.001, "ms": 1.0, "s": 1000.0}
SCALED_UNITS = frozenset({*_TIME_MS, "%"})
_RELATION = {
    Direction.AT_MOST: "≤",
    Direction.BELOW: "<",
    Direction.AT_LEAST: "≥",
    Direction.ABOVE: ">",
    Direction.EXACTLY: "=",
}
WORDS = {
    Verdict.PASS: "Pass",
    Verdict.FAIL: "Fail",
    Verdict.INCONCLUSIVE: "Inconclusive",
    Verdict.NOT_MEASURED: "Not measured",
    Verdict.VOID: "Void",
}
SIGNS = {
    Verdict.PASS: "✓",
    Verdict.FAIL: "✗",
    Verdict.INCONCLUSIVE: "?",
    Verdict.NOT_MEASURED: "○",
    Verdict.VOID: "∅",
}


def number(value: float, digits: int = 3) -> str:
    """Three significant digits, thousands apart, no exponent for what a person would write out."""
    if not math.isfinite(value):
        return DASH
    if value == 0:
        return "0"
    if float(value).is_integer() and abs(value) < 1e15:
        return f"{int(value):,}"
    size = math.floor(math.log10(abs(value)))
    if size >= digits - 1:
        return f"{value:,.0f}"
    if size < -6:
        return f"{value:.{digits - 1}e}"
    text = f"{value:.{digits - 1 - size}f}"
    return text.rstrip("0").rstrip(".")


def rough(value: float) -> str:
    """Two significant digits, zeros behind them: `56,000`, for what is an extrapolation."""
    return number(float(f"{value:.2g}"))


def quantity(value: float | None, unit: str | None) -> str:
    """A value with its unit; times move to the unit in which they read well."""
    if value is None or not math.isfinite(value):
        return DASH
    if unit in _TIME_MS:
        return duration(value * _TIME_MS[unit])
    if unit == "%":
        return f"{percent_number(value)} %"
    return f"{number(value)} {unit}" if unit else number(value)


def duration(value_ms: float) -> str:
    """Milliseconds as µs, ms, s, min or h."""
    size = abs(value_ms)
    if size == 0:
        return "0 ms"
    if size < 0.1:
        return f"{number(value_ms * 1000)} µs"
    if size < 1000:
        return f"{number(value_ms)} ms"
    seconds = value_ms / 1000
    if size < 600_000:
        return f"{number(seconds)} s"
    return f"{number(seconds / 60)} min" if size < 3 * 3_600_000 else f"{number(seconds / 3600)} h"


def percent_number(value: float) -> str:
    """Percent with as many digits as it takes not to round a share to 0 or 100 that is neither."""
    for digits in range(1, 8):
        text = f"{value:.{digits}f}"
        if float(text) not in {0.0, 100.0} or float(text) == value:
            return text.rstrip("0").rstrip(".")
    return number(value)


def share(value: float | None) -> str:
    """0 to 1 as percent."""
    return DASH if value is None else f"{percent_number(value * 100)} %"


def count(value: int | None) -> str:
    return DASH if value is None else f"{value:,}"


def age(days: float) -> str:
    """Days as a person says them: `3 hours`, `1 day`, `12 days`."""
    if days < 2:
        hours = round(days * 24)
        return "less than an hour" if hours == 0 else plural(hours, "hour")
    return plural(round(days), "day")


def relation(direction: Direction | None) -> str:
    return _RELATION[direction] if direction is not None else ""


def target(criterion: Criterion) -> str:
    """The target as a person reads it: with its figure where there is one, else the catalogue's words."""
    if criterion.target is None or criterion.unit is None:
        return criterion.target_text or DASH
    return f"{relation(criterion.direction)} {quantity(criterion.target, criterion.unit)}".strip()


def printable(text: str) -> str:
    """`text` without control characters, which no page has a use for."""
    return "".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text)


def plural(value: int, one: str, many: str | None = None) -> str:
    return f"{value:,} {one if value == 1 else many or one + 's'}"


def moment(iso: str | None) -> str:
    """`2026-01-31T12:00:00Z` as `31 January 2026, 12:00 UTC`; anything else as it stands."""
    if iso is None:
        return DASH
    try:
        at = datetime.fromisoformat(iso)
    except ValueError:
        return iso
    zone = " UTC" if at.utcoffset() is not None and not at.utcoffset() else ""
    return f"{at.day} {at:%B %Y, %H:%M}{zone}"


def lasted(started: str, ended: str | None) -> str:
    """How long a run took."""
    if ended is None:
        return DASH
    try:
        span = datetime.fromisoformat(ended) - datetime.fromisoformat(started)
    except (ValueError, TypeError):
        return DASH
    seconds = round(span.total_seconds())
    hours, rest = divmod(seconds, 3600)
    minutes, seconds = divmod(rest, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
