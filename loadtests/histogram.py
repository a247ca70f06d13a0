"""Latencies as HdrHistograms of one fixed form, so that those of any workers add up exactly.

One nanosecond to one hour, three significant digits (http://hdrhistogram.org). Longer ones count as an hour;
nothing is left out. Quantiles are nearest-rank: the smallest value that the share of all does not exceed,
told as the largest value of its bucket, at most 0.1 % above what was recorded.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

from hdrh.histogram import HdrHistogram

LONGEST_NS = 3_600_000_000_000
DIGITS = 3


class HistogramError(ValueError):
    """Text that is no histogram of this form."""


class Histogram:
    """Counts of durations in nanoseconds."""

    __slots__ = ("_counts",)

    def __init__(self) -> None:
        self._counts = HdrHistogram(1, LONGEST_NS, DIGITS)

    @property
    def count(self) -> int:
        """How many were recorded."""
        return int(self._counts.total_count)

    def record(self, ns: int) -> None:
        """Adds one; below 0 counts as 0."""
        self._counts.record_value(min(max(ns, 0), LONGEST_NS))

    def add(self, other: Self) -> None:
        """Adds all of another: exact, because both have the same buckets."""
        if other.count:
            self._counts.add(other._counts)

    def encode(self) -> str:
        """As text (HdrHistogram V2, compressed, base64); empty without values."""
        return str(self._counts.encode().decode()) if self.count else ""

    @classmethod
    def decode(cls, text: str) -> Self:
        """What `encode` gave. Raises HistogramError."""
        made = cls()
        if text:
            made.add_encoded(text)
        return made

    def add_encoded(self, text: str) -> None:
        """Adds what `encode` gave. Raises HistogramError."""
        if not text:
            return
        try:
            other = HdrHistogram.decode(text.encode())
        except Exception as error:  # the library raises what its parts raise: zlib, base64, struct, its own
            raise HistogramError(f"no histogram: {type(error).__name__}: {error}") from error
        if (other.lowest_trackable_value, other.highest_trackable_value, other.significant_figures) != (
            1,
            LONGEST_NS,
            DIGITS,
        ):
            raise HistogramError("a histogram of another form")
        self._counts.add(other)

    def quantile_ms(self, share: float) -> float | None:
        """The nearest-rank quantile in milliseconds; None without values."""
        return self.quantiles_ms((share,))[0] if self.count else None

    def quantiles_ms(self, shares: Sequence[float]) -> tuple[float, ...]:
        """Several of them. Raises ValueError without values."""
        import numpy  # what reads histograms needs it, what records them does not

        if not self.count:
            raise ValueError("no values")
        counts = numpy.frombuffer(self._counts.counts, dtype=numpy.int64)
        filled = numpy.flatnonzero(counts)
        ranks = [max(1, math.ceil(share * self.count)) for share in shares]
        found = filled[numpy.searchsorted(numpy.cumsum(counts[filled]), ranks)]
        values = (self._counts.get_value_from_index(int(index)) for index in found)
        return tuple(self._counts.get_highest_equivalent_value(value) / 1e6 for value in values)

    def largest_ms(self) -> float | None:
        """The largest, to the bucket."""
        return self._counts.get_max_value() / 1e6 if self.count else None
