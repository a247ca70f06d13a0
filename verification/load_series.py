"""The load of a run for its plots: rates, latency from the intended start, and its distribution. Pure."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from loadtests.histogram import Histogram
from reports.model import Line, Lines, Quantiles, Series
from verification.checkers import load
from verification.history import History, Kind
from verification.plan import RunPlan

RUN_WIDE = "run"
BIN_S = 2.0
MOST_BINS = 400
QUANTILES = (0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999, 1.0)
KINDS: Mapping[str, str] = {
    "load-lookup": "look-ups",
    "load-call": "calls",
    "load-http-lookup": "look-ups by HTTP",
    "load-http-call": "calls by HTTP",
}


def load_series(plan: RunPlan, history: History) -> list[Series]:
    """What the load has to show; by its seconds, or in a history without them by its single operations."""
    seconds = [one for one in load.seconds(history) if one[0] in plan.hosts]
    if not seconds:
        return _by_operations(plan, history)
    begin_ns = min(at_ns for _, at_ns, _ in seconds)
    whole_s = (max(at_ns for _, at_ns, _ in seconds) - begin_ns) / 1e9 + 1.0
    bin_s = BIN_S * max(1, math.ceil(whole_s / BIN_S / MOST_BINS))
    good: dict[str, dict[int, int]] = {host: defaultdict(int) for host in plan.hosts}
    bad: dict[int, int] = defaultdict(int)
    latency: dict[int, Histogram] = defaultdict(Histogram)
    kinds: dict[tuple[str, str], Histogram] = defaultdict(Histogram)
    for host, at_ns, second in seconds:
        slot = int((at_ns - begin_ns) / 1e9 / bin_s)
        for told in second.kinds:
            good[host][slot] += told.ok
            bad[slot] += told.fail + told.info
            one = Histogram.decode(told.latency)
            kinds[told.f, host].add(one)
            if told.f.endswith("call"):
                latency[slot].add(one)
    slots = range(math.ceil(whole_s / bin_s) - 1)  # the last one is not full
    return [
        *_rates(good, bad, slots, bin_s),
        *_latencies(latency, slots, bin_s),
        *(
            Quantiles(
                criterion=RUN_WIDE,
                title=f"Load: {KINDS[f]}, from the intended start",
                unit="ms",
                quantiles=QUANTILES,
                values=whole.quantiles_ms(QUANTILES),
                count=whole.count,
                group=host,
            )
            for (f, host), whole in sorted(kinds.items())
            if f in KINDS and whole.count
        ),
    ]


def _rates(
    good: Mapping[str, Mapping[int, int]], bad: Mapping[int, int], slots: Sequence[int], bin_s: float
) -> list[Series]:
    if not slots:
        return []
    lines = [
        Line(name=f"answered, {host}", values=tuple(by_slot.get(slot, 0) / bin_s for slot in slots))
        for host, by_slot in good.items()
    ]
    lines.append(Line(name="failed, all hosts", values=tuple(bad.get(slot, 0) / bin_s for slot in slots)))
    return [
        Lines(
            criterion=RUN_WIDE,
            title="Load during the run",
            unit="operations/s",
            at_s=tuple(slot * bin_s for slot in slots),
            lines=tuple(lines),
        )
    ]


def _latencies(latency: Mapping[int, Histogram], slots: Sequence[int], bin_s: float) -> list[Series]:
    filled = [slot for slot in slots if slot in latency and latency[slot].count]
    if not filled:
        return []
    values = {slot: latency[slot].quantiles_ms((0.5, 0.99, 1.0)) for slot in filled}
    return [
        Lines(
            criterion=RUN_WIDE,
            title="Calls of the load during the run, from the intended start",
            unit="ms",
            at_s=tuple(slot * bin_s for slot in filled),
            lines=tuple(
                Line(name=name, values=tuple(values[slot][at] for slot in filled))
                for at, name in enumerate(("p50", "p99", "slowest"))
            ),
        )
    ]


def _by_operations(plan: RunPlan, history: History) -> list[Series]:
    good: dict[str, dict[int, int]] = {host: defaultdict(int) for host in plan.hosts}
    bad: dict[int, int] = defaultdict(int)
    begin_ns = min((o.invoke.time_ns for o in history.of(*load.LOAD_OPERATIONS)), default=None)
    if begin_ns is None:
        return []
    last = 0
    for operation in history.of(*load.LOAD_OPERATIONS):
        host = operation.invoke.host
        if host not in good or operation.completion is None:
            continue
        slot = int((operation.completion.time_ns - begin_ns) / 1e9 / BIN_S)
        last = max(last, slot)
        if operation.kind is Kind.OK:
            good[host][slot] += 1
        else:
            bad[slot] += 1
    return _rates(good, bad, range(last), BIN_S)  # the last one is not full
