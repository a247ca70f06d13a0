"""What every estimator works with: the rule of a planned criterion, and the judgement that comes out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from reports.model import Direction, Projection, Verdict
from verification import statistics
from verification.catalogue import AssumedFault, CatalogueEntry, ProfilePlan
from verification.observations import Observation, Observations
from verification.sequential import Stage

MOST_TRIALS = 10_000_000
"""No verdict advises more trials than that."""


@dataclass(frozen=True)
class Judgement:
    """A verdict with its figures, in the criterion's unit.

    `error` is the p-value of a pass (how often a system at the limit would do as well), `interval` the
    two-sided one around the estimate at `interval_confidence`, `stage` the look that decided, from 1.
    """

    verdict: Verdict
    reason: str
    estimate: float | None = None
    bound: float | None = None
    n: int | None = None
    exceedances: int | None = None
    trials_to_decide: int | None = None
    facts: tuple[tuple[str, str], ...] = ()
    error: float | None = None
    interval: tuple[float, float] | None = None
    interval_confidence: float | None = None
    stage: int | None = None
    notes: tuple[str, ...] = ()
    projection: Projection | None = None


@dataclass(frozen=True)
class Rule:
    """What the estimators need of a criterion and its plan, nothing of it optional."""

    target: float
    direction: Direction
    n: int
    coverage: float
    confidence: float
    fail_confidence: float
    unit: str | None
    stages: tuple[Stage, ...] = ()
    anytime: bool = False
    assumed: tuple[AssumedFault, ...] = ()
    longest_s: float = 10.0
    seed: int = 0
    draws: int = 20_000

    @classmethod
    def of(cls, entry: CatalogueEntry, plan: ProfilePlan, blocks: int = 1) -> Rule:
        """The rule of a planned criterion. Raises ValueError for one that no estimator can judge."""
        if entry.target is None or entry.direction is None:
            raise ValueError(f"{entry.id} has no target to be judged by")
        return cls(
            target=entry.target,
            direction=entry.direction,
            n=plan.n or 1,
            coverage=plan.coverage or 0.5,
            confidence=plan.confidence or 0.95,
            fail_confidence=1.0 - plan.beta / max(blocks, 1),
            unit=entry.unit,
            stages=plan.stages,
            anytime=plan.anytime,
            longest_s=plan.timeout_s or 10.0,
        )

    @property
    def interval_confidence(self) -> float:
        """Of the interval between two one-sided bounds at `confidence`."""
        return 1.0 - 2.0 * (1.0 - self.confidence)

    @property
    def most_failed(self) -> float:
        """Of a share: the share of failures that the target allows (0 to 1)."""
        share = self.target / 100.0
        return share if self.direction in {Direction.AT_MOST, Direction.BELOW} else 1.0 - share

    def kept_by(self, trial: Observation) -> bool:
        """Whether a trial keeps the limit; one that did not end in time does not."""
        if trial.value is None:
            return False
        if trial.kept is not None:
            return trial.kept
        return self.direction.keeps(trial.value, self.target)


def trials_of(found: Observations, block: str | None) -> tuple[Observation, ...]:
    """The trials of a block; None: all."""
    return tuple(trial for trial in found.trials if block is None or trial.block == block)


def finite(value: float | None) -> float | None:
    """The value, or None for an infinite one."""
    return None if value is None or math.isinf(value) else value


def figure(value: float, unit: str | None) -> str:
    """The value as a sentence shows it."""
    shown = f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{shown} {unit}" if unit else shown


def spread(values: Sequence[float], unit: str | None) -> tuple[tuple[str, str], ...]:
    """Some quantiles as facts; an infinite value is a trial without an answer."""

    def shown(value: float) -> str:
        return "no answer" if math.isinf(value) else figure(value, unit)

    return tuple(
        (name, shown(statistics.quantile(values, share)))
        for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
    )
