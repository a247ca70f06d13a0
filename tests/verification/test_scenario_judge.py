"""A scenario's verdict from its journal: written by hand here, instants in seconds."""

from __future__ import annotations

import pytest

from chaos.fault import Proof
from chaos.journal import Entry
from chaos.scenario import read_scenario
from chaos.scenario_play import Played
from chaos.session import Outcome
from reports.model import Verdict
from verification.history import History
from verification.scenario_judge import judge

SCENARIO = read_scenario(
    b"""
name: mine
title: mine
rows: [RL-3]
expected: it is replaced, and nobody notices
load: null
steps: [{fault: process-kill, with: {target: agent/a}, for_s: 10}]
during: [{look: served, within_s: 3}]
after: [{look: served, within_s: 5}]
""",
    "mine",
)


def at(event: str, time_s: float, **more: object) -> Entry:
    return Entry(event=event, time_ns=int(time_s * 1e9), at="", **more)  # type: ignore[arg-type]


def look(phase: str, time_s: float, holds: bool, took_s: float = 0.1) -> Entry:
    return at("look", time_s, trial=f"{phase}/0", holds=holds, measures=(("took", took_s * 1000, "ms"),))


MARKS = [at("planned", 10), at("injected", 10.5), at("healing", 20), at("healed", 21)]
GOOD = [
    look("during", 11, False),
    look("during", 12, True),
    look("during", 14, True),
    look("after", 22, True),
]


def verdict(looks: list[Entry], *, effect: bool = True, restored: bool = True, **more: object) -> Verdict:
    outcome = Outcome(
        trial="1",
        fault="process-kill",
        effect=Proof(effect),
        restored=(Proof(restored),),
        healed=True,
        inject_ms=1,
        heal_ms=1,
        lasted_s=10,
    )
    played = Played(outcomes=(outcome,), **more)  # type: ignore[arg-type]
    return judge(SCENARIO, played, [*MARKS, *looks], History.of_records(())).verdict


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        (GOOD, Verdict.PASS),
        ([*GOOD, look("during", 15, False)], Verdict.FAIL),
        ([*GOOD, look("during", 20.5, False)], Verdict.PASS),  # the undo had begun
        ([look("during", 13.05, False), *GOOD], Verdict.PASS),  # begun before its time was over
        ([look("during", 12, True), GOOD[3]], Verdict.INCONCLUSIVE),  # nobody looked after its time
        (GOOD[:3], Verdict.INCONCLUSIVE),
        ([*GOOD[:3], look("after", 25, False), look("after", 26.5, True)], Verdict.FAIL),
        ([*GOOD[:3], look("after", 25, False), look("after", 25.9, True)], Verdict.PASS),
        ([*GOOD[:3], look("after", 25, True), look("after", 25.9, False)], Verdict.FAIL),
    ],
)
def test_looks(looks: list[Entry], told: Verdict) -> None:
    assert verdict(looks) is told


def test_what_is_not_proved_is_no_pass() -> None:
    assert verdict(GOOD, effect=False) is Verdict.INCONCLUSIVE
    assert verdict(GOOD, refused=("no",)) is Verdict.INCONCLUSIVE
    assert verdict(GOOD, unsteady=("no",)) is Verdict.INCONCLUSIVE
    assert verdict(GOOD, stopped=True) is Verdict.INCONCLUSIVE
    assert verdict(GOOD, restored=False) is Verdict.FAIL


def test_a_failure_beside_a_void_fault_is_no_failure() -> None:
    assert verdict([*GOOD, look("during", 15, False)], effect=False) is Verdict.INCONCLUSIVE
