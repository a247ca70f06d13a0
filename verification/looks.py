"""How many more fault trials a sequential plan wants, from what the history holds so far.

The same checkers and the same `next_stage` as the judge's: a campaign that asks here stops where the verdict
is certain, and cannot talk a verdict into being, because the judge only passes at the looks of the plan.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from verification.catalogue import ProfilePlan
from verification.checkers import CHECKERS, Checker
from verification.estimators import Rule
from verification.history import History
from verification.observations import Observations
from verification.plan import RunPlan
from verification.sequential import next_stage


def wanted(
    plan: RunPlan, history: History, kinds: tuple[str, ...], checkers: Mapping[str, Checker] = CHECKERS
) -> dict[str, int]:
    """More trials of each of these kinds of fault, for the criterion that wants most.

    A criterion whose checker breaks wants nothing more: the judge will say that it broke.
    """
    more: dict[str, int] = {}
    for planned in plan.criteria:
        rule = plan.rule(planned.id)
        checker = checkers.get(planned.id)
        if not rule.stages or checker is None:
            continue
        try:
            found = checker(plan, history)
        except Exception:  # noqa: S112  the judge calls it again and tells why
            continue
        limit = Rule.of(plan.catalogue.entry(planned.id), rule)
        about = [kind for kind in kinds if kind in found.expected]
        for kind, count in _more(rule, limit, found, about).items():
            more[kind] = max(more.get(kind, 0), count)
    return more


def _more(rule: ProfilePlan, limit: Rule, found: Observations, kinds: Sequence[str]) -> dict[str, int]:
    """By kind where kinds are blocks of their own; else the trials count together and are shared out."""
    blocks = [(kind,) for kind in kinds] if "fault" in rule.blocks else [tuple(kinds)]
    more: dict[str, int] = {}
    for block in blocks:
        exceeded = [not limit.kept_by(trial) for trial in found.trials if trial.block in block]
        count = next_stage(rule.stages, exceeded).more
        for at, kind in enumerate(block):
            share = count // len(block) + (at < count % len(block))
            if share:
                more[kind] = share
    return more
