"""What a checker found in a history: one observation per trial, and the trials that do not count."""

from __future__ import annotations

from dataclasses import dataclass

from reports.model import Evidence


@dataclass(frozen=True, slots=True)
class Observation:
    """The outcome of one trial.

    `value` is in the criterion's unit; None: it did not come in time, which counts as an exceedance.
    `kept` overrides the comparison of `value` with the target, where a trial has several limits.
    `block` is the part of the population that must have its own sample (a host, a kind of fault).
    """

    value: float | None
    block: str = "all"
    label: str = ""
    kept: bool | None = None


@dataclass(frozen=True, slots=True)
class VoidTrial:
    """A trial that does not count, and why."""

    label: str
    reason: str


@dataclass(frozen=True)
class Counts:
    """Operations of a kind where only their number matters."""

    total: int = 0
    failed: int = 0


@dataclass(frozen=True, slots=True)
class Pair:
    """The same work once with the baseline and once with what is judged, next to each other in time.

    Both are costs in one unit (milliseconds, bytes, CPU seconds for the work): less is better, above zero.
    """

    baseline: float
    candidate: float
    block: str = "all"


@dataclass(frozen=True)
class Observations:
    """Everything that a checker found for one criterion.

    `expected` names the blocks that must have observations, so that a block without any is noticed.
    `population` is how many observations a census needs in each block.
    """

    trials: tuple[Observation, ...] = ()
    voids: tuple[VoidTrial, ...] = ()
    counts: tuple[tuple[str, Counts], ...] = ()
    expected: tuple[str, ...] = ()
    population: int | None = None
    sources: tuple[str, ...] = ()
    facts: tuple[tuple[str, str], ...] = ()
    missing: tuple[str, ...] = ()
    """What of a census was found wrong, for the reason."""
    pairs: tuple[Pair, ...] = ()
    """For improvements: interleaved runs of baseline and candidate."""
    evidence: Evidence = Evidence.MEASURED
    """Where they come from; a simulation is never a measurement."""

    def blocks(self) -> tuple[str, ...]:
        """Expected blocks first, then others that were seen."""
        seen = [trial.block for trial in self.trials] + [block for block, _ in self.counts]
        seen += [pair.block for pair in self.pairs]
        return tuple(dict.fromkeys((*self.expected, *seen)))
