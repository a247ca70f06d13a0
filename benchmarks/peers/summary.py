"""From trials to rows, the claim, and figures for `latest.jsonl`. Pure."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from benchmarks.harness import Figure, figure, quantile
from benchmarks.peers.records import Kind, Trial

OURS = "threenines"
WANTED_RATIO = 2.0
P95_NEEDS = 20
"""With fewer trials the 95th percentile is the maximum anyway, and is called that."""


class Safety(StrEnum):
    """What the trials say of a system's safety; nothing counts as safe that was not seen."""

    SAFE = "yes"
    UNSAFE = "NO"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Row:
    """One system under one fault. Times in ms; None where no trial tells.

    `unserved` trials count as longer than any other: a quantile that falls among them is None.
    """

    system: str
    kind: Kind
    n: int
    median_ms: float | None
    p95_ms: float | None
    least_ms: float | None
    most_ms: float | None
    spread_ms: float | None
    unserved: int
    split_trials: int
    split_writes: int
    lost: int
    acknowledged: int
    unread: int
    void: int

    @property
    def safety(self) -> Safety:
        """SAFE: never two hosts at once, nothing acknowledged lost, in any trial, and all could be read."""
        if self.split_trials or self.lost:
            return Safety.UNSAFE
        return Safety.SAFE if self.n and not self.unread else Safety.UNKNOWN


def row(system: str, kind: Kind, trials: Sequence[Trial]) -> Row:
    """The row of `trials`, all of them of this system and kind."""
    good = [one for one in trials if not one.void]
    times = [float("inf") if one.serve_ms is None else one.serve_ms for one in good]
    served = [time for time in times if time != float("inf")]
    return Row(
        system=system,
        kind=kind,
        n=len(good),
        median_ms=_finite(quantile(times, 0.5)) if times else None,
        p95_ms=_finite(quantile(times, 0.95)) if times else None,
        least_ms=min(served, default=None),
        most_ms=_finite(max(times)) if times else None,
        spread_ms=statistics.stdev(served) if len(served) > 1 else None,
        unserved=len(times) - len(served),
        split_trials=sum(one.split_writes > 0 for one in good),
        split_writes=sum(one.split_writes for one in good),
        lost=sum(one.lost or 0 for one in good),
        acknowledged=sum(one.acknowledged for one in good),
        unread=sum(one.lost is None for one in good),
        void=len(trials) - len(good),
    )


def rows(trials: Iterable[Trial], systems: Sequence[str]) -> tuple[Row, ...]:
    """A row per system and kind that has trials, in the order of `systems` and `Kind`."""
    everything = list(trials)
    made = []
    for kind in Kind:
        for system in systems:
            mine = [one for one in everything if one.system == system and one.kind is kind]
            if mine:
                made.append(row(system, kind, mine))
    return tuple(made)


def safety_of(system: str, table: Iterable[Row]) -> Safety:
    """Over every fault that the system met: unsafe under one is unsafe, unknown under one is not safe."""
    seen = {one.safety for one in table if one.system == system}
    if Safety.UNSAFE in seen:
        return Safety.UNSAFE
    return Safety.SAFE if seen == {Safety.SAFE} else Safety.UNKNOWN


class Holds(StrEnum):
    """Whether the claim holds."""

    YES = "holds"
    NO = "does not hold"
    UNDECIDED = "not decided"


@dataclass(frozen=True, slots=True)
class Claim:
    """Ours against the fastest safe peer under one fault, by the median. `why` says what stops a decision."""

    kind: Kind
    ours_ms: float | None
    peer: str | None
    peer_ms: float | None
    ratio: float | None
    holds: Holds
    why: str = ""


def claims(table: Sequence[Row], ours: str = OURS, wanted: float = WANTED_RATIO) -> tuple[Claim, ...]:
    """For each kind: are we at least `wanted` times as fast as the best safe peer, and safe ourselves?"""
    made = []
    own_safety = safety_of(ours, table)
    for kind in Kind:
        of_kind = [one for one in table if one.kind is kind]
        mine = next((one for one in of_kind if one.system == ours), None)
        if mine is None:
            continue
        peers = [
            (one.median_ms, one.system)
            for one in of_kind
            if one.system != ours
            and one.median_ms is not None
            and safety_of(one.system, table) is Safety.SAFE
        ]
        best_ms, best = min(peers, default=(None, None))
        why, ratio = "", None
        if own_safety is Safety.UNSAFE:
            holds, why = Holds.NO, f"{ours} was not safe"
        elif own_safety is Safety.UNKNOWN:
            holds, why = Holds.UNDECIDED, f"whether {ours} is safe is not known"
        elif best_ms is None:
            holds, why = Holds.UNDECIDED, "no peer was safe in its trials"
        elif mine.median_ms is None:
            holds, why = Holds.NO, f"{ours} did not serve again in half of its trials"
        else:
            ratio = best_ms / mine.median_ms
            holds = Holds.YES if ratio >= wanted else Holds.NO
        made.append(Claim(kind, mine.median_ms, best, best_ms, ratio, holds, why))
    return tuple(made)


def figures(table: Sequence[Row], ours: str = OURS) -> tuple[Figure, ...]:
    """Lines for `latest.jsonl`: medians, tails and counts, ours beside every peer's."""
    mine = {one.kind: one for one in table if one.system == ours}
    made: list[Figure] = []
    for one in table:
        own = mine.get(one.kind)
        if one.system == ours or own is None:
            continue
        for measure, ours_value, theirs in (
            ("serves again, median", own.median_ms, one.median_ms),
            ("serves again, p95", own.p95_ms, one.p95_ms),
        ):
            if ours_value is not None and theirs is not None:
                made.append(figure("peers", f"{one.kind}: {measure}", "ms", ours_value, theirs, one.system))
        for measure, ours_count, their_count in (
            ("trials with a split brain", own.split_trials, one.split_trials),
            ("acknowledged writes lost", own.lost, one.lost),
        ):
            made.append(
                figure("peers", f"{one.kind}: {measure}", "count", ours_count, their_count, one.system)
            )
    return tuple(made)


def _finite(value: float) -> float | None:
    return None if value == float("inf") else value
