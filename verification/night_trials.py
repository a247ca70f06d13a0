"""What is left of a campaign's trials, from the plan and from what the history tells of them. Pure.

A trial that has begun is never run again under its name. One that was cut is void; another of its kind takes
its place: from the reserve, else the same again under a new name.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TypeVar

import msgspec

from verification.checkers import CHECKERS, Checker
from verification.history import History
from verification.kinds import KINDS, trials_of
from verification.looks import wanted
from verification.plan import FaultTrial, HostTrial, RegistrationTrial, RunPlan, SwitchTrial

AnyTrial = TypeVar("AnyTrial", FaultTrial, HostTrial)


def begun(history: History) -> dict[str, bool]:
    """Ids of the trials that have begun, and whether they were brought to their end."""
    return {
        operation.key: operation.completion is not None
        for operation in history.of("trial")
        if operation.key is not None
    }


def faults_left(
    trials: Sequence[AnyTrial], done: Mapping[str, bool], more: Mapping[str, int] = {}
) -> tuple[AnyTrial, ...]:
    """Trials that are still to run, none of them in reserve: planned ones, then one for each that was cut.

    `more`: so many of a kind besides, for a next stage or in place of void ones.
    """
    left = [trial for trial in trials if not trial.reserve and trial.id not in done]
    reserve = [trial for trial in trials if trial.reserve and trial.id not in done]
    kind_of: dict[str, str] = {trial.id: trial.fault for trial in trials}
    ended = Counter(
        kind_of[_first(name)] for name, whole in done.items() if whole and _first(name) in kind_of
    )
    ended.update(trial.fault for trial in left)
    taken = {*done, *kind_of}
    for kind, planned in Counter(trial.fault for trial in trials if not trial.reserve).items():
        for _ in range(max(0, planned - ended[kind]) + more.get(kind, 0)):
            spare = next((trial for trial in reserve if trial.fault == kind), None)
            if spare is not None:
                reserve.remove(spare)
            else:
                first = next(trial for trial in trials if trial.fault == kind)
                spare = msgspec.structs.replace(first, id=_again(first.id, taken))
                taken.add(spare.id)
            left.append(msgspec.structs.replace(spare, reserve=False))
    return tuple(left)


def _first(name: str) -> str:
    """The name of the trial that this one repeats."""
    return name.partition("~")[0]


def _again(name: str, taken: set[str]) -> str:
    number = 2
    while f"{name}~{number}" in taken:
        number += 1
    return f"{name}~{number}"


def switches_left(plan: RunPlan, done: Mapping[str, bool]) -> tuple[SwitchTrial, ...]:
    """Switch-overs that are still to run; a cut one again under a new name."""
    left = []
    for trial in plan.switches:
        names = [name for name in done if _first(name) == trial.id]
        if any(done[name] for name in names):
            continue
        name = trial.id if not names else _again(trial.id, set(names))
        left.append(msgspec.structs.replace(trial, id=name))
    return tuple(left)


def registrations_left(plan: RunPlan, history: History) -> tuple[RegistrationTrial, ...]:
    """Registrations that nobody has awaited to the end yet."""
    told = {operation.key for operation in history.of("await") if operation.completion is not None}
    return tuple(trial for trial in plan.registrations if trial.name not in told)


def more_wanted(
    plan: RunPlan, history: History, kinds: tuple[str, ...], checkers: Mapping[str, Checker] = CHECKERS
) -> dict[str, int]:
    """Trials of these kinds that are wanted besides those planned: for the next stage, or for void ones.

    Needs the whole history. A criterion whose checker breaks wants nothing more: the judge will say so.
    """
    more = wanted(plan, history, kinds, checkers)
    for planned in plan.criteria:
        rule, checker = plan.rule(planned.id), checkers.get(planned.id)
        about = [kind for kind in KINDS.get(planned.id, ()) if kind in kinds]
        if rule.stages or checker is None or not about:
            continue
        try:
            found = checker(plan, history)
        except Exception:  # noqa: S112  the judge calls it again and tells why
            continue
        for kind, n in trials_of(planned.id, rule, rule.n).items():
            valid = sum(trial.block == kind for trial in found.trials)
            if kind in about and n > valid:
                more[kind] = max(more.get(kind, 0), n - valid)
    return more
