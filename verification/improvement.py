"""Improvements over a baseline: both sides interleaved in time, judged by the bound of the gain.

The machine drifts (heat, caches, neighbours), and whoever measures all of one side and then all of the other
measures the drift as well. So the sides alternate, in an order drawn for each pair; a pair's ratio is free of
what both of its halves saw. The gain is `1 - candidate / baseline` (less is better on both sides): 20 % less
time, memory, or CPU for the same work. Its bounds come from Student's t on the logarithms of the ratios, so
it is the gain of the geometric mean, which does not depend on which side is called the baseline (P. J.
Fleming, J. J. Wallace, "How not to lie with statistics", Comm. ACM 29 (1986)).

Throughput enters as the time for a unit of work. Several measures of one system are one measure by their
geometric mean (`combined`).
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from verification import statistics
from verification.observations import Pair


class Side(StrEnum):
    """Which of the two runs next."""

    BASELINE = "baseline"
    CANDIDATE = "candidate"


def schedule(pairs: int, chance: random.Random) -> tuple[tuple[Side, Side], ...]:
    """The order within each pair: each way in half of them, which ones is drawn."""
    forward, backward = (Side.BASELINE, Side.CANDIDATE), (Side.CANDIDATE, Side.BASELINE)
    order = [forward if i % 2 == 0 else backward for i in range(pairs)]
    chance.shuffle(order)
    return tuple(order)


@dataclass(frozen=True)
class Gain:
    """Per cent less cost than the baseline; `lower` and `upper` each at the confidence asked for."""

    estimate: float
    lower: float
    upper: float


def gain(pairs: Sequence[Pair], confidence: float) -> Gain:
    """The gain over these pairs with its bounds. Raises ValueError below two pairs and for costs of zero."""
    logs = ratios(pairs)
    low, high = statistics.mean_bounds(logs, confidence)
    return Gain(_per_cent(math.fsum(logs) / len(logs)), _per_cent(high), _per_cent(low))


def error(pairs: Sequence[Pair], target: float) -> float:
    """The p-value of "the gain is above `target` per cent"."""
    return statistics.mean_error(ratios(pairs), math.log1p(-target / 100.0)) if target < 100.0 else 1.0


def ratios(pairs: Sequence[Pair]) -> list[float]:
    """The logarithms of candidate / baseline. Raises ValueError for costs that are not above zero."""
    for pair in pairs:
        if not (0.0 < pair.baseline < math.inf and 0.0 < pair.candidate < math.inf):
            raise ValueError(f"a cost must be above zero, got {pair.baseline!r} and {pair.candidate!r}")
    return [math.log(pair.candidate / pair.baseline) for pair in pairs]


def combined(measures: Sequence[Sequence[Pair]]) -> tuple[Pair, ...]:
    """Several measures of the same interleaved runs as one, by the geometric mean of their ratios.

    Raises ValueError when they do not have the same number of pairs.
    """
    if len({len(pairs) for pairs in measures}) != 1:
        raise ValueError("the measures do not have the same runs")
    return tuple(
        Pair(1.0, math.exp(math.fsum(ratios(of_all)) / len(of_all)), of_all[0].block)
        for of_all in zip(*measures, strict=True)
    )


def pairs_needed(pairs: Sequence[Pair], target: float, confidence: float) -> int | None:
    """About how many pairs would show a gain above `target`, if it goes on like this; None: never."""
    logs = ratios(pairs)
    n = len(logs)
    mean = math.fsum(logs) / n
    distance = math.log1p(-target / 100.0) - mean if target < 100.0 else -1.0
    if distance <= 0.0 or n < 2:
        return None
    spread = math.sqrt(math.fsum((one - mean) ** 2 for one in logs) / (n - 1))
    reach = (statistics.mean_bounds(logs, confidence)[1] - mean) * math.sqrt(n)
    return math.ceil((reach / distance) ** 2) if spread else n


def _per_cent(log_ratio: float) -> float:
    return -100.0 * math.expm1(log_ratio)
