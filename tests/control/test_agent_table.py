"""The agent's life cycle, row by row."""

from __future__ import annotations

from dataclasses import replace

import pytest

from services.control.agent import (
    MS,
    AgentState,
    Event,
    Fork,
    Policy,
    Publish,
    Reconcile,
    Say,
    Signal,
    backoff_ns,
    step,
)
from services.control.agent_table import LIVING, PUBLISHED, TABLE, Do, EventKind, Phase, Symbol

POLICY = Policy()
E, P = EventKind, Phase
T0 = 1_000_000_000_000

ALIVE = AgentState(incarnation=3, floor=3, wanted=True, since_ns=T0)


def at(phase: Phase, **changes: object) -> AgentState:
    return replace(ALIVE, phase=phase, **changes)  # type: ignore[arg-type]


def effects(state: AgentState, event: Event, now_ns: int = T0) -> tuple[AgentState, list[object]]:
    after, actions = step(state, event, now_ns, POLICY)
    return after, [action for action in actions if not isinstance(action, Say | Publish)]


@pytest.mark.parametrize(
    ("before", "event", "phase", "done"),
    [
        (at(P.DOWN, wanted=False), Event(E.START), P.FORKING, [Fork(4)]),
        (at(P.DOWN), Event(E.ADOPTED, 9), P.STARTING, []),
        (at(P.DOWN, wanted=False), Event(E.ADOPTED, 9), P.DRAINING, [Signal(9, final=False)]),
        (at(P.FORKING, pending=4), Event(E.FORKED, 4), P.STARTING, []),
        (at(P.FORKING, pending=4), Event(E.FORKED, 5), P.FORKING, []),
        (at(P.FORKING, pending=4, wanted=False), Event(E.FORKED, 4), P.DRAINING, [Signal(4, final=False)]),
        (at(P.FORKING, pending=4, outdated=True), Event(E.FORKED, 4), P.DRAINING, [Signal(4, final=False)]),
        (at(P.FORKING, pending=4), Event(E.FORK_FAILED, 4), P.BACKOFF, []),
        (at(P.FORKING, pending=4, wanted=False), Event(E.FORK_FAILED, 4), P.DOWN, []),
        (at(P.FORKING, pending=4), Event(E.FORK_UNKNOWN, 4), P.FORKING, [Reconcile(4)]),
        (at(P.FORKING, pending=4, floor=5), Event(E.ABSENT, 4), P.FORKING, [Fork(5)]),
        (at(P.FORKING, pending=4, wanted=False), Event(E.ABSENT, 4), P.DOWN, []),
        (at(P.FORKING, pending=4), Event(E.ADOPTED, 4), P.STARTING, []),
        (at(P.FORKING, pending=4), Event(E.ADOPTED, 6), P.FORKING, []),
        (at(P.STARTING), Event(E.VALIDATED, 3), P.UP, []),
        (at(P.STARTING), Event(E.VALIDATED, 2), P.STARTING, []),
        (at(P.STARTING, deadline_ns=T0), Event(E.TIMER), P.KILLED, [Signal(3, final=True)]),
        (at(P.STARTING, deadline_ns=T0 + 1), Event(E.TIMER), P.STARTING, []),
        (at(P.STARTING), Event(E.EXITED, 3), P.FORKING, [Fork(4)]),
        (at(P.UP), Event(E.EXITED, 3), P.FORKING, [Fork(4)]),
        (at(P.UP), Event(E.EXITED, 2), P.UP, []),
        (at(P.UP, wanted=False), Event(E.EXITED, 3), P.DOWN, []),
        (at(P.UP), Event(E.MISS, 3), P.UP, []),
        (at(P.UP, missed=1), Event(E.MISS, 3), P.UNHEALTHY, []),
        (at(P.UP, missed=1), Event(E.MISS, 2), P.UP, []),
        # One that a signal has stopped does not come back by waiting: no grace. One miss decides nothing.
        (at(P.UP), Event(E.MISS_STOPPED, 3), P.UP, []),
        (at(P.UP, missed=1), Event(E.MISS_STOPPED, 3), P.KILLED, [Signal(3, final=True)]),
        (at(P.UP, missed=1), Event(E.MISS_STOPPED, 2), P.UP, []),
        (at(P.UP), Event(E.STOP), P.DRAINING, [Signal(3, final=False)]),
        (at(P.UP), Event(E.REPLACE), P.DRAINING, [Signal(3, final=False)]),
        (at(P.UP), Event(E.LEAVING, 3), P.DRAINING, []),
        (at(P.UP), Event(E.LEAVING, 2), P.UP, []),
        (at(P.UP), Event(E.START), P.UP, []),
        (at(P.UNHEALTHY), Event(E.PONG, 3), P.UP, []),
        (at(P.UNHEALTHY), Event(E.PONG, 2), P.UNHEALTHY, []),
        (at(P.UNHEALTHY, deadline_ns=T0), Event(E.TIMER), P.KILLED, [Signal(3, final=True)]),
        (at(P.UNHEALTHY), Event(E.EXITED, 3), P.FORKING, [Fork(4)]),
        (at(P.KILLED), Event(E.PONG, 3), P.KILLED, []),
        (at(P.KILLED), Event(E.VALIDATED, 3), P.KILLED, []),
        (at(P.KILLED, deadline_ns=T0), Event(E.TIMER), P.KILLED, [Signal(3, final=True)]),
        (at(P.KILLED), Event(E.EXITED, 3), P.FORKING, [Fork(4)]),
        (at(P.KILLED, wanted=False), Event(E.EXITED, 3), P.DOWN, []),
        (at(P.DRAINING, deadline_ns=T0), Event(E.TIMER), P.KILLED, [Signal(3, final=True)]),
        (at(P.DRAINING), Event(E.EXITED, 3), P.FORKING, [Fork(4)]),
        (at(P.DRAINING, wanted=False), Event(E.EXITED, 3), P.DOWN, []),
        (at(P.DRAINING, wanted=False), Event(E.START), P.DRAINING, []),
        (at(P.BACKOFF, deadline_ns=T0), Event(E.TIMER), P.FORKING, [Fork(4)]),
        (at(P.BACKOFF, fork_failures=1), Event(E.FORK_POSSIBLE), P.FORKING, [Fork(4)]),
        (at(P.BACKOFF), Event(E.FORK_POSSIBLE), P.BACKOFF, []),
        (at(P.BACKOFF), Event(E.REPLACE), P.FORKING, [Fork(4)]),
        (at(P.BACKOFF), Event(E.STOP), P.DOWN, []),
    ],
)
def test_rows(before: AgentState, event: Event, phase: Phase, done: list[object]) -> None:
    after, did = effects(before, event)
    assert (after.phase, did) == (phase, done)


def test_every_phase_is_published_and_every_symbol_is_used() -> None:
    assert set(PUBLISHED) == set(Phase)
    assert {symbol for _, symbol in TABLE} == set(Symbol)
    assert {phase for phase, _ in TABLE} == set(Phase) == {rule.to for rule in TABLE.values()}


def test_only_phases_without_a_process_fork() -> None:
    for (phase, symbol), rule in TABLE.items():
        if Do.FORK in rule.do:
            assert rule.to is Phase.FORKING
            assert phase not in LIVING or symbol in (Symbol.EXITED, Symbol.EXITED_AGAIN)
        if Do.KILL in rule.do:
            assert rule.to is Phase.KILLED


def test_nothing_leads_from_killed_back_to_life_but_an_exit() -> None:
    ways = {
        symbol for (phase, symbol), rule in TABLE.items() if phase is P.KILLED and rule.to is not P.KILLED
    }
    assert ways == {Symbol.EXITED, Symbol.EXITED_AGAIN, Symbol.EXITED_UNWANTED}


def crash(state: AgentState, now_ns: int) -> AgentState:
    after, _ = step(state, Event(E.EXITED, state.incarnation), now_ns, POLICY)
    return after


def revive(state: AgentState, now_ns: int) -> AgentState:
    if state.phase is P.BACKOFF:
        assert state.deadline_ns is not None
        state, _ = step(state, Event(E.TIMER), state.deadline_ns, POLICY)
    state, _ = step(state, Event(E.FORKED, state.pending), now_ns, POLICY)
    state, _ = step(state, Event(E.VALIDATED, state.incarnation), now_ns, POLICY)
    assert state.phase is P.UP
    return state


def test_the_third_crash_in_ten_seconds_backs_off_doubling_up_to_the_cap() -> None:
    state, now_ns, waits_ms = at(P.UP, validated_ns=T0), T0, []
    for _ in range(10):
        now_ns += 1000 * MS
        state = crash(state, now_ns)
        if state.phase is P.BACKOFF:
            assert state.deadline_ns is not None
            waits_ms.append((state.deadline_ns - now_ns) // MS)
            now_ns = state.deadline_ns
        state = revive(state, now_ns)
    assert waits_ms == [500, 1000, 2000, 4000, 8000, 16000, 30000, 30000]


def test_crashes_far_apart_never_back_off() -> None:
    state, now_ns = at(P.UP, validated_ns=T0), T0
    for _ in range(20):
        now_ns += POLICY.crash_window_ns
        state = crash(state, now_ns)
        assert state.phase is P.FORKING
        state = revive(state, now_ns)


def test_a_quiet_window_after_a_storm_forgives() -> None:
    state, now_ns = at(P.UP, validated_ns=T0), T0
    for _ in range(3):
        now_ns += 1
        state = crash(state, now_ns)
        if state.phase is not P.BACKOFF:
            state = revive(state, now_ns)
    assert state.phase is P.BACKOFF
    state = revive(state, now_ns)
    state = crash(state, now_ns + POLICY.crash_window_ns)
    assert (state.phase, state.backoffs) == (P.FORKING, 0)


def test_a_new_definition_forgives_at_once() -> None:
    state = at(P.BACKOFF, backoffs=5, crashes_ns=(T0, T0, T0))
    state, did = effects(state, Event(E.REPLACE))
    assert (state.phase, state.backoffs, state.crashes_ns, did) == (P.FORKING, 0, (), [Fork(4)])


def test_replacing_is_no_crash() -> None:
    state = at(P.UP, validated_ns=T0)
    for _ in range(10):
        state, _ = effects(state, Event(E.REPLACE))
        state = crash(state, T0)
        assert state.phase is P.FORKING
        state = revive(state, T0)


def test_leaving_by_itself_over_and_over_backs_off() -> None:
    state = at(P.UP, validated_ns=T0)
    for round_ in range(3):
        state, _ = effects(state, Event(E.LEAVING, state.incarnation))
        assert state.phase is P.DRAINING
        state = crash(state, T0)
        assert (state.phase is P.BACKOFF) == (round_ == 2)
        if state.phase is not P.BACKOFF:
            state = revive(state, T0)


def test_a_fork_that_fails_is_tried_again_soon_and_with_the_same_number() -> None:
    state, waits_ms = at(P.FORKING, pending=4, floor=4), []
    for _ in range(7):
        state, _ = effects(state, Event(E.FORK_FAILED, 4))
        waits_ms.append(backoff_ns(state, POLICY) // MS)
        state, did = effects(state, Event(E.FORK_POSSIBLE))
        assert did == [Fork(4)]
    assert waits_ms == [50, 100, 200, 400, 800, 1000, 1000]


@pytest.mark.parametrize("wanted", [True, False])
def test_a_number_whose_fork_has_an_unknown_outcome_is_never_given_again(wanted: bool) -> None:
    state, _ = effects(at(P.FORKING, pending=4, floor=4, wanted=wanted), Event(E.FORK_UNKNOWN, 4))
    state, did = effects(state, Event(E.ABSENT, 4))
    if not wanted:
        assert (state.phase, did) == (P.DOWN, [])
        state, did = effects(state, Event(E.START))
    assert did == [Fork(5)]


def test_what_is_published_carries_when_it_began() -> None:
    later = T0 + 5
    state, actions = step(at(P.UP, missed=1), Event(E.MISS, 3), later, POLICY)
    assert Publish() in actions
    assert (state.published, state.since_ns) == ("unhealthy", later)
    state, actions = step(state, Event(E.MISS, 3), later + 1, POLICY)
    assert actions == ()
    assert state.since_ns == later


def test_the_event_log_has_the_time_that_the_zygote_gave() -> None:
    _, actions = step(at(P.FORKING, pending=4), Event(E.FORKED, 4, "pid 7", T0 - 9), T0, POLICY)
    assert Say("forked", 4, "pid 7", T0 - 9) in actions
