"""The errors of a run's instruments, from its history, and what they leave undecided. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from loadtests.instrument import ClockOffset, HostInstruments, decides, error_ms
from loadtests.protocol import Calibration
from reports.model import InstrumentError, Verdict
from verification.catalogue import CatalogueEntry
from verification.checkers.load import HostLoad
from verification.estimators import Judgement
from verification.history import History, Kind

MS_IN: Mapping[str, float] = {"ns": 1e-6, "µs": 1e-3, "ms": 1.0, "s": 1e3}
ON_ONE_CLOCK = ("SD-2", "SD-3")
"""Rows whose durations begin and end in one process; any other may span two clocks."""


def measured(history: History, loads: Sequence[HostLoad]) -> tuple[HostInstruments, ...]:
    """What each host's instruments may be wrong by, as measured at the start of the run."""
    waking = _calibrations(history)
    offsets = {
        op.key: done.value(ClockOffset)
        for op in history.of("clock-offset")
        if op.key is not None and op.kind is Kind.OK and (done := op.completed()) is not None
    }
    late: dict[str, float] = {}
    for load in loads:
        late[load.host] = max(late.get(load.host, 0.0), _late_ms(load) or 0.0)
    return tuple(
        HostInstruments(
            host=host,
            clock_step_ns=told.clock_step_ns,
            wake_late_p99_ms=told.wake_late_p99_ms,
            generator_late_p99_ms=late.get(host) or None,
            clock_offset_ns=offsets[host].offset_ns if host in offsets else None,
            clock_offset_error_ns=offsets[host].error_ns if host in offsets else None,
        )
        for host, told in waking.items()
    )


def doubted(entry: CatalogueEntry, judgement: Judgement, instruments: Sequence[HostInstruments]) -> Judgement:
    """The judgement, unless it rests on a difference below the error of the instruments: then inconclusive.

    A pass rests on its bound, a fail on its estimate; figures that are no times are not doubted.
    """
    figure = {Verdict.PASS: judgement.bound, Verdict.FAIL: judgement.estimate}.get(judgement.verdict)
    scale = MS_IN.get(entry.unit or "")
    if figure is None or scale is None or entry.target is None:
        return judgement
    row = entry.id.partition(".")[0]
    wrong_by_ms = error_ms(instruments, across_hosts=row not in ON_ONE_CLOCK)
    if decides(figure * scale, entry.target * scale, wrong_by_ms):
        return judgement
    return replace(
        judgement,
        verdict=Verdict.INCONCLUSIVE,
        reason=(
            f"{figure:.4g} {entry.unit} is closer to {entry.target:g} {entry.unit} than the instruments can "
            f"tell apart ({wrong_by_ms / scale:.3g} {entry.unit})"
        ),
    )


def told(history: History, loads: Sequence[HostLoad]) -> tuple[InstrumentError, ...]:
    """The errors as the report shows them."""
    found: list[InstrumentError] = []
    waking = _calibrations(history)
    for one in measured(history, loads):
        calibration = waking[one.host]
        found += [
            InstrumentError(
                name=f"clock on {one.host}",
                value=one.clock_step_ns,
                unit="ns",
                detail="smallest step of CLOCK_BOOTTIME as a program sees it",
                host=one.host,
            ),
            InstrumentError(
                name=f"waking on {one.host}",
                value=round(calibration.wake_late_p99_ms, 3),
                unit="ms",
                detail=f"p99 of how late a probe is woken ({calibration.samples} sleeps of 2 ms, "
                f"p50 {calibration.wake_late_p50_ms:.3f} ms, most {calibration.wake_late_max_ms:.1f} ms)",
                host=one.host,
                statistic="p99",
            ),
        ]
        if one.clock_offset_ns is not None and one.clock_offset_error_ns is not None:
            found.append(
                InstrumentError(
                    name=f"clock offset of {one.host}",
                    value=round(one.clock_offset_ns / 1e6, 3),
                    unit="ms",
                    detail=f"against the harness, give or take {one.clock_offset_error_ns / 1e6:.3f} ms: "
                    "half of the quickest question and answer",
                    host=one.host,
                )
            )
    return (*found, *(error for load in loads for error in _load_errors(load)))


def _calibrations(history: History) -> dict[str, Calibration]:
    return {
        op.key or "?": done.value(Calibration)
        for op in history.of("calibrate")
        if op.kind is Kind.OK and (done := op.completed()) is not None
    }


def _late_ms(load: HostLoad) -> float | None:
    return load.outcome.late.quantile_ms(0.99) if load.outcome is not None else None


def _load_errors(load: HostLoad) -> list[InstrumentError]:
    found = []
    late_ms = _late_ms(load)
    if load.outcome is not None and late_ms is not None:
        start = [plan.generator.late_p99_ms for plan in load.outcome.plans if plan.generator is not None]
        idle = f"; {max(start):.3f} ms before the run, with nothing to do" if start else ""
        found.append(
            InstrumentError(
                name=f"load generator on {load.host}",
                value=round(late_ms, 3),
                unit="ms",
                detail="p99 of how late it began what was due, with a user free for it: part of the "
                f"latencies that it told{idle}",
                host=load.host,
                statistic="p99",
            )
        )
    planned = ""
    if load.outcome is not None:
        planned = f"{load.outcome.arrivals:,} of {load.outcome.planned:,} planned arrivals; "
    found.append(
        InstrumentError(
            name=f"load on {load.host}",
            value=round(load.operations / load.seconds, 1) if load.seconds else 0.0,
            unit="operations/s",
            detail=f"planned {load.per_s:g}; {planned}{load.operations:,} in {load.seconds:.0f} s, "
            f"{load.failed:,} failed",
            host=load.host,
        )
    )
    return found
