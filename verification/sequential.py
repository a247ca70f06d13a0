"""Campaigns that look at their results on the way, with an error that is known before the first trial.

Looking several times and stopping at the first good look makes the error larger: 59, 93, 124 trials with 0,
1, 2 exceedances each show 95/95 alone, but who takes whichever comes first passes a system at the limit in
9.3 % of the campaigns, not in 5 % (`operating` says it exactly). Two ways keep the promise:

- **Stages** (a group-sequential plan): sizes and limits fixed in the plan, the error shared out among the
  looks (K. K. G. Lan, D. L. DeMets, "Discrete sequential boundaries for clinical trials", Biometrika 70
  (1983)). The error is not approximated: `operating` sums the binomial over every path.
- **A confidence sequence** for a share, valid at every moment together (H. Robbins, "Statistical methods
  related to the law of the iterated logarithm", Ann. Math. Statist. 41 (1970), with a beta mixture), for
  what runs for days and is looked at whenever somebody wants to.

Everything is pure. A campaign asks `next_stage` after each batch; the judge calls the same with the history.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

import msgspec
import numpy as np
from scipy import optimize, special

__all__ = [
    "Look",
    "Operating",
    "Stage",
    "State",
    "design",
    "next_stage",
    "operating",
    "problems",
    "sequence_bounds",
    "stagewise_error",
    "trials_wanted",
]


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One look at the first `n` trials: passed with at most so many exceedances, failed from so many."""

    n: int
    pass_at_most: int
    fail_from: int


class State(StrEnum):
    """What a look says. `UNDECIDED`: the last stage is over and neither was shown."""

    PASS = "pass"  # noqa: S105  a verdict, not a secret
    FAIL = "fail"
    CONTINUE = "continue"
    UNDECIDED = "undecided"


@dataclass(frozen=True)
class Look:
    """Where a campaign stands: what is decided, by which stage, and how many more trials are wanted.

    `n` and `exceedances` are those of the deciding stage, or of all trials where nothing is decided.
    """

    state: State
    n: int
    exceedances: int
    stage: int | None = None
    more: int = 0


def next_stage(stages: Sequence[Stage], exceeded: Iterable[bool]) -> Look:
    """What these trials decide, in the order in which they were begun; `exceeded`: which broke the limit.

    A fail may come within a stage: exceedances do not go away, so one that has reached the limit of its stage
    is certain. A pass comes only at the end of one. Trials after the deciding stage do not change it.
    """
    flags = list(exceeded)
    seen = 0
    begun = 0
    for index, stage in enumerate(stages):
        part = flags[begun : stage.n]
        for position, flag in enumerate(part, begun + 1):
            seen += flag
            if seen >= stage.fail_from:
                return Look(State.FAIL, position, seen, index)
        if len(flags) < stage.n:
            return Look(State.CONTINUE, len(flags), seen, index, stage.n - len(flags))
        if seen <= stage.pass_at_most:
            return Look(State.PASS, stage.n, seen, index)
        begun = stage.n
    return Look(State.UNDECIDED, begun, seen, len(stages) - 1 if stages else None)


def trials_wanted(plans: Iterable[tuple[Sequence[Stage], Iterable[bool]]]) -> int:
    """How many more trials a campaign runs that serves several criteria at once; 0: all are decided."""
    return max((next_stage(stages, exceeded).more for stages, exceeded in plans), default=0)


@dataclass(frozen=True)
class Operating:
    """What a plan does with a system whose trials break the limit with a known probability."""

    passed: float
    failed: float
    undecided: float
    trials: float
    """Expected number of trials until it stops."""


def operating(stages: Sequence[Stage], share: float) -> Operating:
    """The exact chances of each outcome when a trial breaks the limit with probability `share`.

    Both errors of a plan are those at the limit itself (`share` = 1 - coverage): a pass only grows rarer
    with more exceedances, a fail only more frequent.
    """
    state = _start()
    passed = failed = trials = 0.0
    done = 0
    for stage in stages:
        trials += float(state.sum()) * (stage.n - done)
        state = _after(state, stage.n - done, share)
        done = stage.n
        passed += float(state[: stage.pass_at_most + 1].sum())
        failed += float(state[stage.fail_from :].sum())
        state = _kept(state, stage)
    return Operating(passed, failed, float(state.sum()), trials)


def stagewise_error(stages: Sequence[Stage], look: Look, share: float) -> float:
    """The p-value of a pass: how often a system at the limit would have done as well, or passed earlier.

    Stage-wise ordering (J. Whitehead, "The Design and Analysis of Sequential Clinical Trials", 1997). 1 for
    anything but a pass.
    """
    if look.state is not State.PASS or look.stage is None:
        return 1.0
    state = _start()
    error = 0.0
    done = 0
    for index, stage in enumerate(stages[: look.stage + 1]):
        state = _after(state, stage.n - done, share)
        done = stage.n
        last = index == look.stage
        error += float(state[: (look.exceedances if last else stage.pass_at_most) + 1].sum())
        state = _kept(state, stage)
    return error


def design(
    coverage: float,
    alpha: float,
    beta: float,
    *,
    exceedances: Sequence[int] = (0, 1, 2),
    spend: Sequence[float] = (0.7, 0.2, 0.1),
) -> tuple[Stage, ...]:
    """The smallest stages that pass with so many `exceedances` and keep both errors.

    `alpha`: the most that a system at the limit may pass in all, `beta`: fail in all; `spend` says which part
    of each a look may use (what one leaves, the next may). Raises ValueError for shares that do not fit.
    """
    if len(spend) != len(exceedances) or not math.isclose(math.fsum(spend), 1.0):
        raise ValueError("`spend` needs one share for each stage, and they must add up to 1")
    if list(exceedances) != sorted(set(exceedances)):
        raise ValueError("`exceedances` must rise from stage to stage")
    limit = 1.0 - coverage
    state, stages = _start(), []
    used_pass = used_fail = shares = 0.0
    done = 0
    for accept, share in zip(exceedances, spend, strict=True):
        shares += share
        n = done + 1
        while True:
            tried = _after(state, n - done, limit)
            if n > accept and used_pass + float(tried[: accept + 1].sum()) <= alpha * shares:
                break
            n += 1
        tails = np.cumsum(tried[::-1])[::-1]  # tails[r]: at least r exceedances
        allowed = np.nonzero(used_fail + tails <= beta * shares)[0]
        reject = int(allowed[0]) if allowed.size else len(tried)
        stage = Stage(n=n, pass_at_most=accept, fail_from=max(reject, accept + 1))
        used_pass += float(tried[: accept + 1].sum())
        used_fail += float(tried[stage.fail_from :].sum())
        state, done = _kept(tried, stage), n
        stages.append(stage)
    return tuple(stages)


def problems(stages: Sequence[Stage], coverage: float, alpha: float, beta: float) -> list[str]:
    """Why these stages may not stand in a plan; empty when they may."""
    found = []
    before: Stage | None = None
    for number, stage in enumerate(stages, 1):
        if not 0 <= stage.pass_at_most < stage.fail_from or stage.n < 1:
            found.append(f"stage {number} needs n above 0 and pass_at_most below fail_from")
        if before is not None and stage.n <= before.n:
            found.append(f"stage {number} must be larger than the one before it")
        before = stage
    if found:
        return found
    errors = operating(stages, 1.0 - coverage)
    if errors.passed > alpha:
        found.append(f"its stages would pass a system at the limit in {errors.passed:.4f} > {alpha:.4g}")
    if errors.failed > beta:
        found.append(f"its stages would fail a system at the limit in {errors.failed:.4f} > {beta:.4g}")
    return found


def sequence_bounds(n: float, failures: float, confidence: float) -> tuple[float, float]:
    """Lower and upper bound of a share, right at every `n` at once with `confidence` (both sides together).

    The shares at which the beta-mixture martingale (Jeffreys' weights) stays under `1 / (1 - confidence)`; by
    Ville's inequality the true share is ever outside with probability at most `1 - confidence`.
    """
    if n < 0 or not 0 <= failures <= n:
        raise ValueError(f"{failures} failures of {n} trials")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must lie between 0 and 1, got {confidence!r}")
    if n == 0:
        return 0.0, 1.0
    good = n - failures
    threshold = -math.log(1.0 - confidence)
    mixture = float(special.betaln(failures + 0.5, good + 0.5) - special.betaln(0.5, 0.5))

    def excess(share: float) -> float:
        return mixture - float(special.xlogy(failures, share) + special.xlog1py(good, -share)) - threshold

    estimate, tiny = failures / n, 1e-15
    lower = 0.0
    if failures and excess(tiny) > 0:
        lower = float(optimize.brentq(excess, tiny, estimate if estimate < 1.0 else 1.0 - tiny))
    upper = 1.0
    if good and excess(1.0 - tiny) > 0:
        upper = float(optimize.brentq(excess, estimate if estimate > 0.0 else tiny, 1.0 - tiny))
    return lower, upper


_Chances = np.ndarray[Any, np.dtype[np.float64]]


def _start() -> _Chances:
    return np.ones(1)


def _after(state: _Chances, trials: int, share: float) -> _Chances:
    """The chances of each number of exceedances after so many more trials."""
    counts = np.arange(trials + 1)
    logs = (
        special.gammaln(trials + 1)
        - special.gammaln(counts + 1)
        - special.gammaln(trials - counts + 1)
        + special.xlogy(counts, share)
        + special.xlog1py(trials - counts, -share)
    )
    return np.convolve(state, np.exp(logs))


def _kept(state: _Chances, stage: Stage) -> _Chances:
    """Those that go on after a look."""
    left = state.copy()
    left[: stage.pass_at_most + 1] = 0.0
    left[stage.fail_from :] = 0.0
    return left
