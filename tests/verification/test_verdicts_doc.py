"""The worked examples of docs/verdicts.md: each figure is computed again, and looked for in the text."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from verification import statistics
from verification.catalogue import Estimator
from verification.sequential import Stage, design, operating, sequence_bounds

TEXT = " ".join((Path(__file__).parents[2] / "docs" / "verdicts.md").read_text().split())
PLAN = design(0.95, 0.05, 0.05, spend=(0.6, 0.25, 0.15))
NAIVE = [Stage(n=n, pass_at_most=c, fail_from=999) for c, n in enumerate((59, 93, 124))]


def sizes(coverage: float, confidence: float) -> str:
    n = [statistics.required_trials(coverage, confidence, c) for c in range(3)]
    return f"| {n[0]} | {n[1]} | {n[2]}"


@pytest.mark.parametrize(
    "told",
    [
        lambda: f"95 % of the population, 95 % confidence {sizes(0.95, 0.95)} trials",
        lambda: f"99 %, 95 % {sizes(0.99, 0.95)} |",
        lambda: f"99 %, 99 % {sizes(0.99, 0.99)} |",
        lambda: f"0.95⁵⁹ = {100 * 0.95**59:.1f} %",
        lambda: f"inconclusive, {statistics.required_trials(0.95, 0.95, 1) - 59} more would decide",
        lambda: f"**{100 * operating(NAIVE, 0.05).passed:.1f} %** of the campaigns",
        *(
            (lambda at=at, stage=stage: f"| {at} | {stage.n} | {stage.pass_at_most} | {stage.fail_from} |")
            for at, stage in enumerate(PLAN, 1)
        ),
        lambda: (
            f"passes in {100 * operating(PLAN, 0.05).passed:.2f} % and "
            f"fails in {100 * operating(PLAN, 0.05).failed:.2f} %"
        ),
        lambda: f"needs {operating(PLAN, 0.01).trials:.0f} trials in the mean",
        lambda: f"the bound is {statistics.mean_bounds([float(i) for i in range(1, 11)], 0.95)[1]:.2f} ms",
        lambda: f"{statistics.trials_for_share(0.001, 0, 0.95):,} operations without a failure",
        lambda: f"upper bound {100 * statistics.share_upper(20_000, 170, 0.95):.3f} %: pass",
        lambda: f"185: bound {100 * statistics.share_upper(20_000, 185, 0.95):.3f} %: inconclusive",
        lambda: f"0 of 100 shows at most {100 * sequence_bounds(100, 0, 0.95)[1]:.1f} %",
        lambda: f"the fixed interval {100 * statistics.share_upper(100, 0, 0.95):.1f} %",
        lambda: "{:.3f}, {:.3f}, {:.3f}; all three".format(*statistics.holm([0.010, 0.020, 0.049])),
    ],
)
def test_a_figure_is_what_the_code_says(told: Callable[[], str]) -> None:
    assert told() in TEXT


def test_seven_of_59_refute_and_three_do_not() -> None:
    assert "7 of 59, not 3" in TEXT
    assert statistics.share_lower(59, 7, 0.95) > 0.05 > statistics.share_lower(59, 3, 0.95)


def test_every_estimator_has_its_rule() -> None:
    words = {
        Estimator.CENSUS: "## a census",
        Estimator.QUANTILE: "## a tail",
        Estimator.MEAN: "## a mean",
        Estimator.RATE: "(`rate`)",
        Estimator.SHARE: "(`share`)",
        Estimator.GAIN: "## a gain",
        Estimator.PROJECTION: "**projected**",
        Estimator.NONE: "nothing plans them",
    }
    told = TEXT.lower()
    assert set(words) == set(Estimator)
    assert [one for one, word in words.items() if word not in told] == []
