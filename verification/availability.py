"""Availability: outages seen by probes, the budget they use, and what measured outages project for a week.

*Observed* availability needs the time to have passed: seven days of probes, in which a stretch that nobody
watched is neither up nor down. *Projected* availability takes the measured lengths of outages after injected
faults and **stated** rates of such faults through a Monte-Carlo; it says what it assumes and is never called
observed.

Every choice is the unkind one: an outage lasts from the last good answer before it to the first after it, of
several probes one that sees an outage is enough, and the lengths of outages have a tail that nobody has seen
yet: one draw in n + 1 is as long as a trial would have been waited for.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np

from reports.model import FaultRate, Gap, OutageEpisode, Projection
from verification import statistics
from verification.catalogue import AssumedFault

WEEK_S = 7 * 86_400.0
BUDGET_S = 604.8
"""Of a week at 99.9 %."""
UNKNOWN = "unknown"
_ROUNDING_S = 1e-3


@dataclass(frozen=True)
class Probe:
    """One question to the service, in seconds of one clock; `ok`: it was answered well.

    `until_s`: it was asked again and again until then, never with a gap, and always answered like this.
    `since_s`: when what is not answered now was last answered well, if that is longer ago than the probe
    before this one.
    """

    start_s: float
    end_s: float
    ok: bool
    until_s: float | None = None
    since_s: float | None = None


@dataclass(frozen=True)
class Cause:
    """A stretch in which an outage would be no wonder; `planned`: the harness injected it."""

    start_s: float
    end_s: float
    name: str
    planned: bool = True


@dataclass(frozen=True)
class Watched:
    """What probes saw between `start_s` and `end_s`. Episodes and gaps are in order and do not overlap."""

    start_s: float
    end_s: float
    episodes: tuple[OutageEpisode, ...]
    gaps: tuple[Gap, ...]

    @property
    def known_s(self) -> float:
        """Time in which somebody watched."""
        return self.end_s - self.start_s - math.fsum(gap.length_s for gap in self.gaps)

    def down_s(self, since_s: float = -math.inf, *, planned: bool = False) -> float:
        """Downtime after an instant, that of planned episodes left out unless asked for."""
        return math.fsum(
            max(0.0, one.start_s + one.length_s - max(one.start_s, since_s))
            for one in self.episodes
            if planned or not one.planned
        )


def watch(
    probes: Mapping[str, Sequence[Probe]], *, gap_s: float, causes: Sequence[Cause] = ()
) -> Watched | None:
    """What several probes together saw; None without any. Probes further apart than `gap_s` leave a gap.

    Raises ValueError for a probe that ends before it begins.
    """
    seen: list[tuple[float, float, str]] = []
    known: list[tuple[float, float]] = []
    for source, asked in probes.items():
        for probe in asked:
            if not probe.start_s <= probe.end_s <= _until(probe):
                raise ValueError(f"a probe of {source} ends before it begins: the clock went back")
        outages, stretches = _one_source(sorted(asked, key=lambda probe: probe.start_s), gap_s)
        seen += [(start, end, source) for start, end in outages]
        known += stretches
    if not known:
        return None
    start, end = min(a for a, _ in known), max(b for _, b in known)
    return Watched(start, end, tuple(_merged(seen, causes)), tuple(_gaps(known)))


def _one_source(
    asked: Sequence[Probe], gap_s: float
) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """Outages and watched stretches of one probe."""
    outages: list[tuple[float, float]] = []
    stretches: list[tuple[float, float]] = []
    begun = good = down = last = None
    for probe in asked:
        if last is not None and probe.start_s - last > gap_s:
            if down is not None:
                outages.append((down, last))
            if begun is not None:
                stretches.append((begun, last))
            begun = good = down = None
        if begun is None:
            begun = probe.start_s
        if probe.ok:
            if down is not None:
                outages.append((down, probe.end_s))
            good, down = _until(probe), None
        else:
            if down is None:
                down = probe.start_s if good is None else good
            if probe.since_s is not None:
                down = max(begun, min(down, probe.since_s))
        last = _until(probe) if last is None else max(last, _until(probe))
    if begun is not None and last is not None:
        if down is not None:
            outages.append((down, last))
        stretches.append((begun, last))
    return outages, stretches


def _until(probe: Probe) -> float:
    return probe.end_s if probe.until_s is None else probe.until_s


def _merged(seen: list[tuple[float, float, str]], causes: Sequence[Cause]) -> Iterable[OutageEpisode]:
    """Outages that touch are one, seen by all of their probes."""
    groups: list[tuple[float, float, list[str]]] = []
    for start, end, source in sorted(seen):
        if groups and start <= groups[-1][1]:
            first, last, sources = groups[-1]
            groups[-1] = (first, max(last, end), [*sources, source])
        else:
            groups.append((start, end, [source]))
    for start, end, sources in groups:
        cause = next((one for one in causes if one.start_s <= end and start <= one.end_s), None)
        yield OutageEpisode(
            start_s=start,
            length_s=end - start,
            cause=UNKNOWN if cause is None else cause.name,
            planned=cause is not None and cause.planned,
            seen_by=tuple(dict.fromkeys(sources)),
        )


def _gaps(known: list[tuple[float, float]]) -> Iterable[Gap]:
    """Between stretches in which at least one probe watched."""
    covered = -math.inf
    for start, end in sorted(known):
        if covered > -math.inf and start > covered:
            yield Gap(start_s=covered, length_s=start - covered, reason="nobody probed")
        covered = max(covered, end)


def first(watched: Watched, known_s: float) -> Watched:
    """The beginning of it, up to the instant at which somebody had watched for `known_s`."""
    left, at = known_s, watched.start_s
    for gap in watched.gaps:
        if left <= gap.start_s - at:
            break
        left -= gap.start_s - at
        at = gap.start_s + gap.length_s
    end = min(watched.end_s, at + left)
    return Watched(
        watched.start_s,
        end,
        tuple(
            msgspec.structs.replace(one, length_s=min(one.length_s, end - one.start_s))
            for one in watched.episodes
            if one.start_s < end
        ),
        tuple(gap for gap in watched.gaps if gap.start_s < end),
    )


def probes_of_prometheus(values: Iterable[tuple[float, str]], step_s: float) -> tuple[Probe, ...]:
    """A series of a range query (`up`, `probe_success`) as probes, one a step; NaN is no probe.

    Prometheus' HTTP API gives `[time, "value"]`; a missing step is missing here as well, and so a gap.
    """
    found = []
    for at, text in values:
        value = float(text)
        if not math.isnan(value):
            found.append(Probe(at - step_s, at, value >= 1.0))
    return tuple(found)


# ------------------------------------------------------------------------------------------- the budget


@dataclass(frozen=True)
class Budget:
    """How much of a week's allowance is used. `proven`: True kept, False broken, None: still open."""

    used_s: float
    unwatched_s: float
    watched_s: float
    allowed_s: float
    proven: bool | None
    reason: str


def budget(watched: Watched, *, allowed_s: float = BUDGET_S, period_s: float = WEEK_S) -> Budget:
    """The standing of observed availability: broken at any time, kept only when the time has passed.

    The time that has to pass is time that somebody watched: a gap makes it longer. What nobody watched could
    have been an outage, so a pass needs room for it in the budget as well.
    """
    used, unwatched = watched.down_s(), math.fsum(gap.length_s for gap in watched.gaps)
    length = watched.known_s
    told = f"{used:.1f} s of {allowed_s:g} s used"
    day = f"day {min(length / 86_400.0, period_s / 86_400.0):.1f} of {period_s / 86_400.0:g}"
    proven: bool | None = None
    reason = f"{day}: {told}"
    if used > allowed_s:
        proven, reason = False, f"{told}"
    elif length >= period_s - _ROUNDING_S:
        if used + unwatched <= allowed_s:
            proven, reason = True, told
        else:
            reason = f"{told}, and {unwatched:.1f} s that nobody watched could have broken it"
    return Budget(used, unwatched, length, allowed_s, proven, reason)


BURN_WINDOWS_S = ((3600.0, 300.0, 14.4), (21_600.0, 1800.0, 6.0), (259_200.0, 21_600.0, 1.0))
"""Long window, short window, and the burn rate that both must reach to alert: B. Beyer et al., "The Site
Reliability Workbook" (2018), chapter 5."""


@dataclass(frozen=True)
class Burn:
    """How fast the budget burns: 1 uses it up exactly in the period. `alerts`: in both windows too fast."""

    window_s: float
    rate: float
    short_rate: float
    threshold: float
    alerts: bool


def burn_rates(watched: Watched, objective: float = 0.999) -> tuple[Burn, ...]:
    """The multi-window burn rates at the end of what was watched."""
    allowed = 1.0 - objective
    found = []
    for long_s, short_s, threshold in BURN_WINDOWS_S:
        slow, fast = (
            watched.down_s(watched.end_s - window) / window / allowed for window in (long_s, short_s)
        )
        found.append(Burn(long_s, slow, fast, threshold, slow >= threshold and fast >= threshold))
    return tuple(found)


# ----------------------------------------------------------------------------------------- the projection

DRAWS = 20_000
_Numbers = np.ndarray[Any, np.dtype[np.float64]]
_Counts = np.ndarray[Any, np.dtype[np.int64]]
_Z90 = 1.6448536269514722


def project(
    outages_s: Mapping[str, Sequence[float]],
    assumed: Sequence[AssumedFault],
    *,
    criterion: str,
    longest_s: float,
    seed: int,
    confidence: float = 0.95,
    budget_s: float = BUDGET_S,
    draws: int = DRAWS,
) -> Projection:
    """A week's downtime in seconds, from measured outages (by kind of trial) and stated rates.

    In each draw: a rate (log-normal: its middle, and 90 % of the belief between `low` and `high`); a Poisson
    number of bursts in the week, each of a geometric number of faults of mean `burst`; the share of each
    measured length by D. B. Rubin's Bayesian bootstrap (Ann. Statist. 9 (1981)), an unseen outage of
    `longest_s` among them. For `high_s`, the one-sided bound, all lengths are stretched until their mean is
    its upper bound at `confidence`: a few measured outages may have been lucky ones. Raises ValueError for a
    kind of fault of which nothing was measured.
    """
    chance = np.random.default_rng(seed)
    total, longer = np.zeros(draws), np.zeros(draws)
    rates = []
    for fault in assumed:
        lengths = np.array(sorted(value for block in fault.blocks for value in outages_s.get(block, ())))
        if not lengths.size:
            raise ValueError(f"no outage of {fault.fault} was measured")
        spread = math.log(fault.high / fault.low) / (2.0 * _Z90) if fault.high > fault.low else 0.0
        per_week = fault.per_week * np.exp(spread * chance.standard_normal(draws))
        bursts = chance.poisson(per_week / fault.burst)
        faults = bursts + np.where(
            bursts > 0, chance.negative_binomial(np.maximum(bursts, 1), 1.0 / fault.burst), 0
        )
        points = np.append(lengths, max(longest_s, float(lengths[-1])))
        lost = _sums(chance, points, faults)
        total += lost
        longer += lost * _longer(lengths, confidence)
        rates.append(
            FaultRate(
                fault=fault.fault,
                per_week=fault.per_week,
                source=fault.source,
                n=int(lengths.size),
                median_s=float(np.median(lengths)),
                longest_s=float(lengths[-1]),
            )
        )
    low, middle = (float(v) for v in np.quantile(total, (1.0 - confidence, 0.5)))
    high = float(np.quantile(longer, confidence))
    return Projection(
        criterion=criterion,
        downtime_s=middle,
        low_s=low,
        high_s=high,
        confidence=2.0 * confidence - 1.0,
        budget_s=budget_s,
        draws=draws,
        rates=tuple(rates),
        assumptions=(
            "the rates are stated, not measured; 90 % of the belief about each lies within its range",
            "an outage of one agent counts as an outage of the fleet, and no two overlap",
            "outages after injected faults are as long as those after real ones",
            f"of n outages measured, one in n + 1 would have lasted {longest_s:g} s",
        ),
    )


def _longer(lengths: _Numbers, confidence: float) -> float:
    """By how much the mean of these lengths may be longer than it was seen."""
    mean = float(lengths.mean())
    if lengths.size < 2 or mean <= 0.0:
        return 1.0
    return max(1.0, statistics.mean_bounds(lengths.tolist(), confidence)[1] / mean)


SLICE = 2000


def _sums(chance: np.random.Generator, points: _Numbers, counts: _Counts) -> _Numbers:
    """For each count, the sum of so many draws from the Bayesian bootstrap of `points`.

    By the urn of D. Blackwell and J. B. MacQueen (Ann. Statist. 1 (1973)): the next is one of the points,
    or, with the weight of the draws so far, one of those again.
    """
    sums = np.zeros(len(counts))
    for start in range(0, len(counts), SLICE):
        part = counts[start : start + SLICE]
        drawn = np.zeros((len(part), int(part.max(initial=0))))
        rows = np.arange(len(part))
        for i in range(drawn.shape[1]):
            value = points[chance.integers(points.size, size=len(part))]
            if i:
                again = chance.random(len(part)) * (points.size + i) >= points.size
                value = np.where(again, drawn[rows, chance.integers(i, size=len(part))], value)
            drawn[:, i] = np.where(i < part, value, 0.0)
        sums[start : start + SLICE] = drawn.sum(axis=1)
    return sums
