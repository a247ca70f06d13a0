"""The error of the load generator and of the clocks: a difference below it means nothing.

Measured at the start of a run and told in its report. Pure; who measures stands in `generator.py` (the
generator's own delay), `probe_lookups.py` (clock and waking of a probe) and the harness (offsets of clocks).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec


class GeneratorError(msgspec.Struct, frozen=True, kw_only=True):
    """How exact a load generator is on its host: how late it begins what is due, with nothing else to do."""

    clock_step_ns: int
    late_p50_ms: float
    late_p99_ms: float
    late_max_ms: float
    samples: int


class ClockOffset(msgspec.Struct, frozen=True, kw_only=True):
    """A host's clock against the harness's: `offset_ns` is host minus harness, give or take `error_ns`.

    From the exchange with the shortest round trip of `samples` (RFC 5905, section 8: the midpoint is right to
    half of the round trip, however unequal the two ways are).
    """

    offset_ns: int
    error_ns: int
    samples: int


class HostInstruments(msgspec.Struct, frozen=True, kw_only=True):
    """What one host's instruments may be wrong by. `None`: not measured."""

    host: str
    clock_step_ns: int
    wake_late_p99_ms: float | None = None
    generator_late_p99_ms: float | None = None
    clock_offset_ns: int | None = None
    clock_offset_error_ns: int | None = None

    @property
    def local_ms(self) -> float:
        """Of a duration between two instants of this host: a step of the clock at each end, and the waking
        of the probe that sees the end."""
        return 2 * self.clock_step_ns / 1e6 + (self.wake_late_p99_ms or 0.0)


class ClockReading(msgspec.Struct, frozen=True):
    """One question for the time: sent and answered by the asker's clock, read by the other's."""

    asked_ns: int
    read_ns: int
    answered_ns: int


def clock_offset(exchanges: Sequence[ClockReading]) -> ClockOffset:
    """The offset by the quickest exchange. Raises ValueError without one, or when a clock went back."""
    if not exchanges:
        raise ValueError("no exchange")
    best = min(exchanges, key=lambda one: one.answered_ns - one.asked_ns)
    trip_ns = best.answered_ns - best.asked_ns
    if trip_ns < 0:
        raise ValueError("the asker's clock went back")
    return ClockOffset(
        offset_ns=best.read_ns - (best.asked_ns + best.answered_ns) // 2,
        error_ns=-(-trip_ns // 2),
        samples=len(exchanges),
    )


def error_ms(errors: Sequence[HostInstruments], *, across_hosts: bool) -> float:
    """What a duration in milliseconds may be wrong by, at the worst host.

    `across_hosts`: it begins on one clock (a host's, or the harness's) and ends on another. Histories are
    not corrected for the offset of clocks: the largest between any two counts, and what is unknown of it.
    """
    local = max((one.local_ms for one in errors), default=0.0)
    if not across_hosts:
        return local
    offsets = [0, *(one.clock_offset_ns or 0 for one in errors)]
    unknown = sorted((one.clock_offset_error_ns or 0 for one in errors), reverse=True)[:2]
    return local + (max(offsets) - min(offsets) + sum(unknown)) / 1e6


def decides(measured_ms: float, target_ms: float, wrong_by_ms: float) -> bool:
    """Whether a measured figure is as far from its target as the instruments may be wrong, or further."""
    return abs(measured_ms - target_ms) >= wrong_by_ms
