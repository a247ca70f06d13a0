"""The line before a busy agent: who waits how long, and what is refused. In made-up time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.agent.line import MAX_BYTES, Line, Patience

LONG_AGO = -1e9


class Timer:
    def __init__(self) -> None:
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True


class Time:
    """As much of an event loop as a line uses; time passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0
        self._timers: list[tuple[float, Timer, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, at: float, call: Callable[[], None]) -> Timer:
        timer = Timer()
        self._timers.append((at, timer, call))
        return timer

    def pass_to(self, at: float) -> None:
        while due := [one for one in self._timers if one[0] <= at]:
            first = min(due, key=lambda one: one[0])
            self._timers.remove(first)
            self.now = max(self.now, first[0])
            if not first[1].cancelled:
                first[2]()
        self.now = at


class Scene:
    def __init__(self, places: int = 3, patience: Patience | None = None) -> None:
        self.time = Time()
        self.late: list[object] = []
        loop = cast(asyncio.AbstractEventLoop, self.time)
        self.line = Line[Any](
            loop, places, patience if patience is not None else Patience(), self.late.append
        )

    def join(self, key: object, size: int = 1, served_since: float = LONG_AGO, left_s: float = 5.0) -> bool:
        return self.line.join(key, size, served_since=served_since, left_s=left_s)


@pytest.mark.parametrize(
    ("stood_s", "served_s", "left_s", "wait_s"),
    [
        (0.0, 1e9, 5.0, 2.0),  # a burst
        (1.9, 1e9, 5.0, 2.0),
        (2.0, 1e9, 5.0, 0.05),  # overloaded for good
        (2.0, 1e9, 0.02, 0.018),  # never past the caller's own time
        (0.0, 1e9, 1.0, 0.9),
        (0.0, 0.0, 5.0, 4.5),  # told to serve just now: those who were held back come
        (5.0, 10.0, 5.0, 4.5),
        (5.0, 10.1, 5.0, 0.05),  # but not for ever
    ],
)
def test_how_long_a_call_waits(stood_s: float, served_s: float, left_s: float, wait_s: float) -> None:
    assert Patience().wait_s(stood_s, served_s, left_s) == pytest.approx(wait_s)


def test_who_comes_first_goes_first_and_there_are_only_so_many_places() -> None:
    scene = Scene()
    assert [scene.join(key) for key in "abcd"] == [True, True, True, False]
    assert [scene.line.pop() for _ in range(4)] == ["a", "b", "c", None]
    scene.time.pass_to(100.0)
    assert scene.late == []


def test_bodies_have_room_only_for_so_many_bytes() -> None:
    scene = Scene()
    assert scene.join("a", MAX_BYTES)
    assert not scene.join("b", 1)
    scene.time.pass_to(10.0)  # `a` gave up, and its bytes are free
    assert scene.late == ["a"]
    assert scene.join("c", MAX_BYTES)
    assert scene.line.pop() == "c"
    assert scene.join("d", MAX_BYTES)


def test_a_line_that_never_ends_refuses_quickly() -> None:
    """Nobody is let in: later ones wait less, until the line has been empty once."""
    scene = Scene(places=100)
    assert scene.join("first", left_s=60.0)
    scene.time.pass_to(1.0)
    assert scene.join("second", left_s=60.0)
    scene.time.pass_to(2.0)
    assert scene.late == ["first"]
    assert scene.join("third", left_s=60.0)
    scene.time.pass_to(2.1)
    assert scene.late == ["first", "third"]
    scene.time.pass_to(3.0)
    assert scene.late == ["first", "third", "second"]
    assert scene.join("fourth", left_s=60.0)
    scene.time.pass_to(4.9)
    assert scene.late == ["first", "third", "second"], "a new line, a new burst"


def test_who_is_told_to_leave_is_late_no_more() -> None:
    scene = Scene()
    for key in "ab":
        assert scene.join(key)
    assert list(scene.line.all()) == ["a", "b"]
    assert len(scene.line) == 0
    scene.time.pass_to(10.0)
    assert scene.late == []


@given(st.lists(st.tuples(st.sampled_from(["join", "pop", "wait"]), st.floats(0.001, 3.0))))
def test_everybody_leaves_once_in_time_and_in_order(steps: list[tuple[str, float]]) -> None:
    patience = Patience(share=1.0)
    scene = Scene(places=3, patience=patience)
    came: dict[object, float] = {}
    popped: list[object] = []
    for number, (step, amount) in enumerate(steps):
        match step:
            case "join":
                if scene.join(number, left_s=amount):
                    came[number] = scene.time.now + amount
            case "pop":
                key = scene.line.pop()
                if key is not None:
                    assert scene.time.now < came[key], "it had time left"
                    popped.append(key)
            case _:
                scene.time.pass_to(scene.time.now + amount)
        assert len(scene.line) <= 3
    scene.time.pass_to(scene.time.now + 10.0)
    assert popped == sorted(popped, key=lambda key: cast(int, key))
    assert sorted([*popped, *scene.late], key=lambda key: cast(int, key)) == list(came)
