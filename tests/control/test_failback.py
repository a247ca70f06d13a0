"""Going home: the table, the hold-down, its doubling, its cap."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.failback import TABLE, Away, FailBack, FailBackPolicy, Sign, failback_step, hold_down_ns

S = 1_000_000_000
POLICY = FailBackPolicy(hold_down_ns=30 * S, cap_ns=100 * S, forgive_ns=600 * S, patience_ns=10 * S)


def look(
    state: FailBack, at_s: float, *, held: bool = True, releasing: bool = False, alive: bool = True
) -> tuple[FailBack, bool]:
    return failback_step(
        state, held=held, releasing=releasing, alive=alive, now_ns=round(at_s * S), policy=POLICY
    )


def test_a_unit_goes_home_after_its_home_was_stable_for_the_hold_down() -> None:
    state, ask = look(FailBack(), 0, alive=False)
    assert (state.phase, ask) == (Away.LOST, False)
    state, ask = look(state, 10)
    assert (state.phase, ask) == (Away.WAITING, False)
    assert state.due_ns(POLICY) == 40 * S
    assert look(state, 39.9)[1] is False
    state, ask = look(state, 40)
    assert (state.phase, ask) == (Away.RETURNING, True)
    assert look(state, 40.1, releasing=True) == (state, False), "asked once"
    assert look(state, 40.2, held=False)[0].phase is Away.HOME


def test_a_home_that_goes_again_starts_the_hold_down_anew() -> None:
    state, _ = look(FailBack(), 0)
    state, _ = look(state, 29, alive=False)
    assert state.phase is Away.LOST
    state, _ = look(state, 31)
    assert look(state, 60)[1] is False


@pytest.mark.parametrize(("losses", "wait_s"), [(0, 30), (1, 30), (2, 60), (3, 100), (4, 100), (200, 100)])
def test_each_loss_doubles_the_hold_down_up_to_the_cap(losses: int, wait_s: int) -> None:
    assert hold_down_ns(FailBack(losses=losses), POLICY) == wait_s * S


def test_flapping_is_counted_and_forgiven() -> None:
    state = FailBack()
    for at_s in (0, 100, 200):
        state, _ = look(state, at_s, alive=False)
        state, _ = look(state, at_s + 1)
    assert state.losses == 3
    state, _ = look(state, 900, alive=False)
    assert state.losses == 1


def test_a_switch_over_that_does_not_happen_is_waited_for_again() -> None:
    state, _ = look(FailBack(), 0)
    state, ask = look(state, 30)
    assert ask
    state, ask = look(state, 40)
    assert (state.phase, ask) == (Away.WAITING, False)
    assert look(state, 70)[1] is True


def test_the_table_never_leaves_a_unit_away_for_ever() -> None:
    for phase in Away:
        ways = {sign for (start, sign) in TABLE if start is phase}
        assert ways, f"no way out of {phase}"
    assert all((phase, Sign.LEFT) in TABLE for phase in Away if phase is not Away.HOME)


@given(st.lists(st.tuples(st.integers(1, 50), st.booleans(), st.booleans()), max_size=40))
def test_it_asks_only_after_an_unbroken_hold_down(looks: list[tuple[int, bool, bool]]) -> None:
    state, now_s = FailBack(), 0
    stable_since: int | None = None
    for after_s, held, alive in looks:
        now_s += after_s
        state, ask = look(state, now_s, held=held, alive=alive)
        if not (held and alive):
            stable_since = None
        elif stable_since is None:
            stable_since = now_s
        if ask:
            assert stable_since is not None
            assert now_s - stable_since >= 30
