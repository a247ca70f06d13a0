"""Histograms against sorted lists, and that merging is exact."""

from __future__ import annotations

import math

import pytest
from hdrh.histogram import HdrHistogram
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.histogram import LONGEST_NS, Histogram, HistogramError

durations = st.integers(0, LONGEST_NS)


def of(values):
    made = Histogram()
    for value in values:
        made.record(value)
    return made


@settings(deadline=None, max_examples=40)
@given(st.lists(durations, min_size=1, max_size=60), st.floats(0.0, 1.0))
def test_quantiles_are_nearest_rank_to_a_tenth_of_a_percent(values, share):
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    found = of(values).quantile_ms(share)
    assert exact / 1e6 <= found <= exact / 1e6 * 1.001 + 1e-9


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(durations, max_size=20), min_size=1, max_size=6))
def test_histograms_of_any_workers_add_up_to_that_of_one(parts):
    whole = of([value for part in parts for value in part])
    added, decoded = Histogram(), Histogram()
    for part in parts:
        added.add(of(part))
        decoded.add_encoded(of(part).encode())
    assert added.encode() == whole.encode() == decoded.encode()
    assert decoded.count == sum(map(len, parts))
    assert Histogram.decode(whole.encode()).largest_ms() == whole.largest_ms()


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(durations, st.integers(1, 300)), max_size=40))
def test_libraries_read_what_this_writes_and_the_other_way_round(pairs):
    library = HdrHistogram(1, LONGEST_NS, 3)
    ours = Histogram()
    for value, times in pairs:
        library.record_value(value, times)
        for _ in range(times):
            ours.record(value)
    theirs = Histogram.decode(library.encode().decode())
    assert theirs.encode() == ours.encode()
    if pairs:
        read = HdrHistogram.decode(ours.encode().encode())
        assert read.get_total_count() == library.get_total_count() == ours.count
        for share in (1, 50, 90, 99, 100):
            assert read.get_value_at_percentile(share) == library.get_value_at_percentile(share)
        assert ours.quantile_ms(1.0) * 1e6 == pytest.approx(library.get_value_at_percentile(100), abs=0.5)


def test_what_is_out_of_range_counts_at_its_end():
    made = of([-5, 10 * LONGEST_NS])
    assert made.count == 2
    assert made.quantile_ms(0.5) == 0.0
    assert made.largest_ms() == pytest.approx(LONGEST_NS / 1e6, rel=0.001)


def test_nothing_has_no_quantile():
    assert Histogram().quantile_ms(0.5) is None
    assert Histogram().largest_ms() is None
    assert Histogram().encode() == ""
    with pytest.raises(ValueError, match="no values"):
        Histogram().quantiles_ms((0.5,))


@pytest.mark.parametrize("text", ["x", "AAAA", "HISTFAAAAB54nJNpmSzMwMDAxAABzFCaEUoz2X+AsIQAPTYCkg=="])
def test_what_is_no_histogram_is_told(text):
    with pytest.raises(HistogramError):
        Histogram.decode(text)


def test_a_histogram_of_another_form_is_told():
    other = HdrHistogram(1, 1000, 2)
    other.record_value(5)
    with pytest.raises(HistogramError, match="another form"):
        Histogram.decode(other.encode().decode())
