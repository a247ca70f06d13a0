"""When etcd's leadership is handed to the witness."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.leadership import Leadership, LeadershipPolicy, S, look

POLICY = LeadershipPolicy()


def moves(looks: list[tuple[int, bool, bool]]) -> list[int]:
    """The seconds at which a move is asked for, of looks (second, leads, witness is well)."""
    state, asked = Leadership(), []
    for second, leads, well in looks:
        state, move = look(state, leads=leads, witness_well=well, now_ns=second * S, policy=POLICY)
        if move:
            asked.append(second)
    return asked


@pytest.mark.parametrize(
    ("what", "looks", "asked"),
    [
        ("another member leads", [(s, False, True) for s in range(20)], []),
        ("the witness is not well", [(s, True, False) for s in range(20)], []),
        ("calm for three seconds", [(s, True, True) for s in range(5)], [3]),
        ("calm was broken", [(0, True, True), (1, True, True), (2, True, False)]
         + [(s, True, True) for s in range(3, 8)], [6]),
        ("a leader that stays here is asked again, ever more seldom",
         [(s, True, True) for s in range(100)], [3, 13, 33, 73]),
        ("one that lasted is forgiven",
         [(s, True, True) for s in range(4)] + [(s, False, True) for s in range(4, 700)]
         + [(s, True, True) for s in range(700, 714)], [3, 703, 713]),
    ],
)  # fmt: skip
def test_rows(what: str, looks: list[tuple[int, bool, bool]], asked: list[int]) -> None:
    assert moves(looks) == asked


@given(st.lists(st.tuples(st.integers(1, 400), st.booleans(), st.booleans()), max_size=200))
def test_the_witness_is_never_hurried(steps: list[tuple[int, bool, bool]]) -> None:
    second, looks = 0, []
    for step, leads, well in steps:
        second += step
        looks.append((second, leads, well))
    asked = moves(looks)
    assert all(after - before >= POLICY.pause_ns // S for before, after in pairwise(asked))
    calls = {second: (leads, well) for second, leads, well in looks}
    assert all(calls[second] == (True, True) for second in asked)
