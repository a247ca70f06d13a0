"""Whether the trials of a run changed while it went on.

Trials are drawn at random and blocked, so a drift is no bias of the sample; it says that the system at the
end of the run was not the one at its beginning. The verdict stays that of the mix; the report tells it.
"""

from __future__ import annotations

import math

from reports.model import RunOrder
from verification import statistics
from verification.observations import Observations

ALPHA = 0.01
"""Of a criterion: each of its two tests may err in half as many (Bonferroni)."""


def run_order(found: Observations) -> tuple[RunOrder, ...]:
    """The tests over the order of these trials, each within its block; () with too few to say anything."""
    by_block: dict[str, list[float]] = {}
    for trial in found.trials:
        by_block.setdefault(trial.block, []).append(math.inf if trial.value is None else trial.value)
    tests = statistics.drift(list(by_block.values()))
    return tuple(
        RunOrder(
            test=test.test,
            statistic=test.statistic,
            p_value=test.error,
            alpha=ALPHA / len(tests),
            drifts=test.error < ALPHA / len(tests),
            detail=_detail(test) if test.error < ALPHA / len(tests) else None,
        )
        for test in tests
    )


def note(tests: tuple[RunOrder, ...]) -> str | None:
    """What a reader of the verdict has to know; None when nothing drifts."""
    drifting = [test.test for test in tests if test.drifts]
    if not drifting:
        return None
    return (
        f"the figures drift over the run ({' and '.join(drifting)}): "
        "the verdict is about the run as a whole, not about its end"
    )


def _detail(test: statistics.Drift) -> str:
    return f"later trials {'took more' if test.rising else 'took less'} than earlier ones"
