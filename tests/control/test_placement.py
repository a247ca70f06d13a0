"""Placement: what fits, in which order, and what is left out and why."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.placement import URGENCY, Candidate, LeftOut, Room, place

NOBODY: frozenset[str] = frozenset()


def test_a_dependency_of_a_critical_agent_comes_before_everything_else() -> None:
    placed = place(
        (
            Candidate("standard", "standard"),
            Candidate("brain", "critical", ("store",)),
            Candidate("store", "utility"),
            Candidate("logger", "utility"),
        ),
        Room(),
        NOBODY,
    )
    assert placed.order == ("store", "brain", "standard", "logger")


def test_what_runs_elsewhere_counts_as_there() -> None:
    placed = place((Candidate("brain", "critical", ("store",)),), Room(), frozenset({"store"}))
    assert placed.order == ("brain",)


@pytest.mark.parametrize(
    ("room", "why"),
    [(Room(memory_mb=9), LeftOut.NO_MEMORY), (Room(memory_mb=99, vram_mb=4), LeftOut.NO_VRAM)],
)
def test_no_room_says_of_which_kind(room: Room, why: LeftOut) -> None:
    assert place((Candidate("a", "standard", (), 10, 5),), room, NOBODY).left_out == {"a": why}


def test_an_agent_is_not_placed_without_what_it_needs() -> None:
    candidates = (Candidate("brain", "critical", ("store",), 5), Candidate("store", "utility", (), 20))
    placed = place(candidates, Room(memory_mb=20), NOBODY)
    assert placed.order == ("store",)
    assert placed.left_out == {"brain": LeftOut.NO_MEMORY}
    assert place((Candidate("brain", "critical", ("nobody",)),), Room(), NOBODY).left_out == {
        "brain": LeftOut.NO_DEPENDENCY
    }


def test_a_circle_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="a, b"):
        place((Candidate("a", "standard", ("b",)), Candidate("b", "standard", ("a",))), Room(), NOBODY)


@st.composite
def fleets(draw: st.DrawFn) -> tuple[Candidate, ...]:
    names = [f"a{i}" for i in range(draw(st.integers(0, 8)))]
    return tuple(
        Candidate(
            name,
            draw(st.sampled_from(tuple(URGENCY))),
            tuple(draw(st.sets(st.sampled_from([*names[:i], "outside"]), max_size=2))),
            draw(st.integers(0, 10)),
            draw(st.integers(0, 10)),
        )
        for i, name in enumerate(names)
    )


@given(fleets(), st.integers(0, 40), st.integers(0, 40), st.booleans())
def test_what_is_placed_fits_and_stands_on_its_feet(
    fleet: tuple[Candidate, ...], memory_mb: int, vram_mb: int, outside: bool
) -> None:
    running = frozenset({"outside"} if outside else ())
    placed = place(fleet, Room(memory_mb, vram_mb), running)
    by_name = {candidate.name: candidate for candidate in fleet}
    assert set(placed.order) | set(placed.left_out) == set(by_name)
    assert not set(placed.order) & set(placed.left_out)
    assert sum(by_name[n].memory_mb for n in placed.order) <= memory_mb
    assert sum(by_name[n].vram_mb for n in placed.order) <= vram_mb
    for place_, name in enumerate(placed.order):
        assert set(by_name[name].depends_on) <= set(placed.order[:place_]) | running
    for name in placed.left_out:
        needed = {name}
        while more := {d for n in needed if n in by_name for d in by_name[n].depends_on} - needed:
            needed |= more
        lacking = needed - set(by_name) - running
        wanted = needed & set(by_name) - set(placed.order)
        free_mb = memory_mb - sum(by_name[n].memory_mb for n in placed.order)
        free_vram_mb = vram_mb - sum(by_name[n].vram_mb for n in placed.order)
        too_big = sum(by_name[n].memory_mb for n in wanted) > free_mb
        too_big |= sum(by_name[n].vram_mb for n in wanted) > free_vram_mb
        assert lacking or too_big, f"{name} was left out without need"
