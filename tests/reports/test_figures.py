"""Numbers as a reader sees them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import figures


@pytest.mark.parametrize(
    ("value", "unit", "shown"),
    [
        (None, "ms", "–"),
        (float("nan"), "ms", "–"),
        (float("inf"), "s", "–"),
        (0, "ms", "0 ms"),
        (0.0213, "ms", "21.3 µs"),
        (0.1, "ms", "0.1 ms"),
        (13.44, "ms", "13.4 ms"),
        (999.4, "ms", "999 ms"),
        (2000, "ms", "2 s"),
        (4137, "ms", "4.14 s"),
        (604.8, "s", "10.1 min"),
        (604_800, "s", "168 h"),
        (14, "us", "14 µs"),
        (100, "%", "100 %"),
        (99.96, "%", "99.96 %"),
        (99.9999, "%", "99.9999 %"),
        (0.0004, "%", "0.0004 %"),
        (0, "%", "0 %"),
        (33.333, "%", "33.3 %"),
        (20000, "look-ups", "20,000 look-ups"),
        (3, None, "3"),
        (1234.5, None, "1,234"),
        (0.00012345, None, "0.000123"),
        (-2.5, "ms", "-2.5 ms"),
    ],
)
def test_quantities(value: float | None, unit: str | None, shown: str) -> None:
    assert figures.quantity(value, unit) == shown


@given(st.floats(0, 100))
def test_a_percentage_is_not_rounded_to_all_or_nothing(value: float) -> None:
    shown = float(figures.percent_number(value))
    if 1e-6 < value < 100 - 1e-6:
        assert 0 < shown < 100
    assert math.isclose(shown, value, abs_tol=0.051)


@given(st.floats(1e-6, 1e12))
def test_three_digits_are_kept(value: float) -> None:
    shown = float(figures.number(value).replace(",", ""))
    assert math.isclose(shown, value, rel_tol=0.0051)


@pytest.mark.parametrize(
    ("started", "ended", "shown"),
    [
        ("2026-01-31T12:00:00Z", "2026-01-31T12:00:41Z", "41 s"),
        ("2026-01-31T12:00:00Z", "2026-01-31T12:06:42Z", "6 min 42 s"),
        ("2026-01-31T12:00:00Z", "2026-02-07T12:00:00Z", "168 h 0 min"),
        ("2026-01-31T12:00:00Z", None, "–"),
        ("yesterday", "2026-01-31T12:00:00Z", "–"),
        ("2026-01-31T12:00:00", "2026-01-31T12:00:00Z", "–"),
    ],
)
def test_how_long_it_took(started: str, ended: str | None, shown: str) -> None:
    assert figures.lasted(started, ended) == shown


@pytest.mark.parametrize(
    ("iso", "shown"),
    [
        ("2026-01-31T12:00:00Z", "31 January 2026, 12:00 UTC"),
        ("2026-01-31T12:00:00+02:00", "31 January 2026, 12:00"),
        ("<b>", "<b>"),
        (None, "–"),
    ],
)
def test_moments(iso: str | None, shown: str) -> None:
    assert figures.moment(iso) == shown
