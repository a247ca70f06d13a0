"""Reduces a failing history to few faults: Hypothesis draws schedules, the simulator judges them.

Needs Hypothesis, which is installed with the extra `dev`; nothing else of the simulator imports this module.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from hypothesis import HealthCheck, Phase, find, settings
from hypothesis import strategies as st
from hypothesis.errors import NoSuchExample

from verification.simulation.faults import PPM_BOUND, Fault, Kind
from verification.simulation.fleet import DUO
from verification.simulation.history import Outcome, Parameters, run
from verification.simulation.mutants import BY_NAME

BEFORE_MS = 100_000
"""Faults that long before a violation may have to do with it."""
LEAD_MS = 10_000
TAIL_S = 60
EFFORT = settings(
    max_examples=400,
    database=None,
    deadline=None,
    derandomize=True,
    phases=(Phase.generate, Phase.shrink),
    suppress_health_check=list(HealthCheck),
)


def schedules(max_faults: int = 6) -> st.SearchStrategy[tuple[Fault, ...]]:
    """Faults within some seconds of each other; small ones are simple ones."""
    fault = st.builds(
        Fault,
        at_ms=st.integers(LEAD_MS, LEAD_MS + 6_000),
        kind=st.sampled_from(Kind),
        host=st.sampled_from(DUO.workers),
        other=st.sampled_from(("witness", "mainpc")),
        for_ms=st.integers(50, 4_000),
        amount=st.sampled_from((0, 1, 2, 120, -5_000)),
    ).filter(lambda f: f.host != f.other and f.host in DUO.hosts and abs(f.amount) <= PPM_BOUND)
    return st.lists(fault, min_size=1, max_size=max_faults).map(lambda faults: tuple(sorted(faults)))


def breaks(parameters: Parameters, variant: str, check: str | None = None) -> bool:
    """Whether a promise is broken (that one, where `check` is given)."""
    violation = run(parameters, BY_NAME[variant]()).violation
    return violation is not None and check in (None, violation.check)


def shrunk(outcome: Outcome, variant: str) -> Parameters | None:
    """A short history with few of the same faults that breaks the same promise; None: none was found."""
    if outcome.violation is None:
        raise ValueError("nothing was broken in this history")
    check = outcome.violation.check
    at_ms = outcome.violation.at_ns // 1_000_000
    plan = outcome.plan
    near = [fault for fault in plan.faults if at_ms - BEFORE_MS <= fault.at_ms <= at_ms]
    workers = len(plan.fleet.workers)
    alone = Parameters(outcome.parameters.seed, TAIL_S, faults=(), ppm=plan.ppm, workers=workers)
    if breaks(alone, variant, check):
        return alone
    if not near:
        return None
    shift_ms = near[0].at_ms - LEAD_MS
    moved = [_moved(fault, shift_ms) for fault in near]
    seconds = (moved[-1].at_ms + TAIL_S * 1_000) // 1_000

    subsets = st.lists(st.sampled_from(moved), unique=True, min_size=1, max_size=len(moved))
    # The seed still decides what is left to chance: which messages are lost, or overtaken.
    histories = st.builds(
        lambda faults, seed: Parameters(
            seed, seconds, faults=tuple(sorted(faults)), ppm=plan.ppm, workers=workers
        ),
        subsets,
        st.integers(0, 9),
    )
    try:
        found = find(histories, lambda one: breaks(one, variant, check), settings=EFFORT)
    except NoSuchExample:
        return None
    left = needed(found.faults or (), lambda some: breaks(replace(found, faults=some), variant, check))
    return replace(found, faults=left)


def needed(faults: tuple[Fault, ...], broken: Callable[[tuple[Fault, ...]], bool]) -> tuple[Fault, ...]:
    """What is left when each fault that is not needed was left out, one at a time: without any one of them
    nothing is broken. Hypothesis gives up its own search for it after some time."""
    at = 0
    while at < len(faults):
        fewer = faults[:at] + faults[at + 1 :]
        if broken(fewer):
            faults, at = fewer, 0
        else:
            at += 1
    return faults


def _moved(fault: Fault, shift_ms: int) -> Fault:
    return Fault(fault.at_ms - shift_ms, fault.kind, fault.host, fault.other, fault.for_ms, fault.amount)
