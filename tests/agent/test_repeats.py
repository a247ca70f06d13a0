"""When a call is sent again, and that callers of an overloaded agent do not keep it so."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.errors import CallError, Code
from services.agent.repeats import (
    ALLOWED,
    EARNED,
    FIRST_BACK_OFF_S,
    LAST_BACK_OFF_S,
    LAST_PAUSE_S,
    MAX_REFUSALS,
    Budget,
    Repeats,
)


def pauses(codes: list[str], *, moves: bool, idempotent: bool = False) -> list[float | None]:
    """The pause after each of these errors, with a die that always shows a half."""
    repeats = Repeats("a", Budget(), lambda: 0.5, lambda: moves)
    return [repeats.pause_s(CallError(code, "x"), idempotent=idempotent) for code in codes]


STAYS = [
    (["unavailable", "unavailable"], [0.0, None]),
    (["draining", "handler-error"], [0.0, None]),
    (["fenced", "unavailable", "draining"], [0.0, 0.01, 0.02]),  # told so by one of two hosts
    (["handler-error"], [None]),
    (["deadline"], [None]),
    (["overloaded"] * 5, [0.025, 0.05, 0.1, 0.2, None]),
    (["unavailable", "overloaded"], [0.0, 0.025]),
    (["overloaded", "unavailable", "unavailable"], [0.025, 0.0, None]),
]
MOVES = [
    (["draining"] * 6, [0.0, 0.01, 0.02, 0.04, 0.08, 0.1]),
    (["draining", *["overloaded"] * 7], [0.0, 0.025, 0.05, 0.1, 0.2, 0.4, 0.5, 0.5]),
    (["overloaded", "draining", *["overloaded"] * 4], [0.025, 0.0, 0.05, 0.1, 0.2, 0.4]),
    (["overloaded"] * 5, [0.025, 0.05, 0.1, 0.2, None]),  # nobody held it back
    (["draining", "indeterminate"], [0.0, None]),
]


@pytest.mark.parametrize(("codes", "expected"), STAYS)
def test_where_agents_stay(codes: list[str], expected: list[float | None]) -> None:
    assert pauses(codes, moves=False) == pytest.approx(expected)


@pytest.mark.parametrize(("codes", "expected"), MOVES)
def test_where_agents_move(codes: list[str], expected: list[float | None]) -> None:
    assert pauses(codes, moves=True) == pytest.approx(expected)


def test_only_what_may_run_twice_is_repeated_without_an_answer() -> None:
    assert pauses(["indeterminate"], moves=True, idempotent=False) == [None]
    assert pauses(["indeterminate", "indeterminate"], moves=True, idempotent=True) == [0.0, None]


@given(st.lists(st.sampled_from(["well", "refused"]), max_size=300), st.randoms(use_true_random=False))
def test_an_overloaded_agent_is_asked_again_for_a_share_of_its_calls_only(
    calls: list[str], dice: random.Random
) -> None:
    budget, repeated, went_well = Budget(), 0, 0
    for call in calls:
        if call == "well":
            budget.earn("a")
            went_well += 1
            continue
        repeats = Repeats("a", budget, dice.random, lambda: True)
        mine = 0
        while (pause_s := repeats.pause_s(CallError(Code.OVERLOADED, "x"), idempotent=True)) is not None:
            assert 0.0 <= pause_s <= min(FIRST_BACK_OFF_S * 2**mine, LAST_BACK_OFF_S)
            mine += 1
        assert mine <= MAX_REFUSALS
        repeated += mine
        assert repeated <= ALLOWED + EARNED * went_well + 1e-6


def test_one_agent_that_is_overloaded_takes_nothing_from_another() -> None:
    budget = Budget()
    while budget.take("a"):
        pass
    assert budget.take("b")
    for _ in range(round(1 / EARNED) + 1):
        budget.earn("a")
        budget.earn("b")
    assert budget.take("a")
    assert set(budget.spent) == {"a"}, "who was paid back is forgotten"


def test_those_who_are_held_back_do_not_come_in_step() -> None:
    dice = random.Random(1)
    for _ in range(3):
        held = [Repeats("a", Budget(), dice.random, lambda: True) for _ in range(50)]
        for one in held:
            one.pause_s(CallError(Code.DRAINING, "x"), idempotent=False)
        again = [one.pause_s(CallError(Code.DRAINING, "x"), idempotent=False) for one in held]
        assert len(set(again)) == 50
        assert all(pause_s is not None and 0 < pause_s <= 1.5 * LAST_PAUSE_S for pause_s in again)
