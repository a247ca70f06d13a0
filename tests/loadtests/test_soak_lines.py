"""Looks and calls become lines: what ends a stretch, what it counts, and what reaches the disk."""

from __future__ import annotations

import errno
import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.soak import ID, Log
from loadtests.soak_lines import GAP_S, NAMED, STRETCH_S, Life, Line, Look, Seen, State, Stretches, encode

S = 10**9


def look(*missing: str, failed: int = 0, moved: int = 0) -> Look:
    return Look(missing, {"a": 3 - len(missing)}, 3, failed, moved)


def sighted() -> Stretches:
    record = Stretches("boot", "life", 0)
    assert record.look(look(), 1 * S, 1 * S, 0.0) is None
    return record


def told(record: Stretches, *looks: tuple[float, Look]) -> list[Seen]:
    """The lines of these looks, the last one included."""
    lines = [record.look(one, round(at * S), round(at * S), 1.0) for at, one in looks]
    return [one for one in (*lines, record.end()) if one is not None]


def test_a_stretch_ends_when_something_changes():
    lines = told(sighted(), (2, look()), (3, look("x")), (4, look("x")), (5, look("x", "y")), (6, look()))
    assert [(one.state, one.start_ns // S, one.end_ns // S, one.looks) for one in lines] == [
        (State.UP, 1, 2, 2),
        (State.DOWN, 3, 4, 2),
        (State.DOWN, 5, 5, 1),
        (State.UP, 6, 6, 1),
    ]
    assert [one.n for one in lines] == [1, 2, 3, 4]
    assert lines[2].missing == ("x", "y")


def test_a_stretch_ends_after_its_time_and_where_nobody_looked():
    lines = told(sighted(), *((float(at), look()) for at in range(2, 45)))
    assert [one.end_ns // S for one in lines] == [STRETCH_S, 2 * STRETCH_S, 44]
    near = told(sighted(), (1 + GAP_S, look()))
    assert (len(near), near[0].longest_ms) == (1, GAP_S * 1e3)
    far = told(sighted(), (1.1 + GAP_S, look()))
    assert [one.start_ns for one in far] == [S, round((1.1 + GAP_S) * S)]


def test_what_it_counts():
    record = sighted()
    record.called("x", 2 * S, None)
    record.called("y", 2 * S, "y: deadline")
    record.called("y", 3 * S, None)
    (one,) = told(record, (4, look(failed=2, moved=1)))
    assert (one.lookups, one.lookups_failed, one.calls, one.calls_failed, one.moved) == (6, 2, 3, 1, 1)


def test_many_that_are_missing_are_counted_and_some_are_named():
    names = tuple(f"agent-{i:02}" for i in range(77))
    line = told(sighted(), (2, Look(names, {}, 77)))[-1]
    assert (line.wrong, len(line.missing)) == (77, NAMED)
    assert len(encode(line)) < 600


def test_one_that_does_not_answer_was_well_when_it_last_answered():
    record = sighted()
    record.called("x", 2 * S, None)
    record.look(look(), 3 * S, 3 * S, 0.0)
    record.called("x", 9 * S, "x: deadline: no answer")
    lines = told(record, (9, look()), (10, look()))
    assert (lines[-1].state, lines[-1].since_ns, lines[-1].failing) == (State.DOWN, 2 * S, ("x",))
    assert lines[-1].why == "x: deadline: no answer"
    # Further failures do not make it later, nor does being missing afterwards.
    record.called("x", 12 * S, "x: unavailable")
    assert told(record, (12, look("x")))[-1].since_ns == 2 * S


def test_one_that_nobody_served_was_well_at_the_look_before():
    record = sighted()
    record.called("x", 2 * S, None)
    record.look(look(), 50 * S, 50 * S, 0.0)
    record.look(look("x"), 51 * S, 51 * S, 0.0)
    record.called("x", 52 * S, "x: unavailable")
    assert told(record, (52, look("x")))[-1].since_ns == 50 * S


def test_a_host_that_has_just_started_is_blind():
    record = Stretches("boot", "life", 0)
    lines = told(record, (1, look("x", failed=1)), (2, look("x", failed=1)), (3, look()), (4, look("x")))
    assert [one.state for one in lines] == [State.BLIND, State.UP, State.DOWN]
    assert lines[0].lookups == 0  # nobody looks anything up there yet
    never = told(Stretches("boot", "life", 0), *((float(at), look("x")) for at in range(1, 40)))
    assert {one.state for one in never if one.start_ns <= 29 * S} == {State.BLIND}
    assert never[-1].state is State.DOWN


@given(
    st.lists(
        st.tuples(st.floats(0.1, 9.0), st.sampled_from([(), ("x",), ("x", "y")]), st.booleans()),
        min_size=1,
        max_size=60,
    )
)
def test_lines_say_what_the_looks_said(steps):
    record, at, looks, lines = Stretches("boot", "life", 0), 0.0, [], []
    for step, missing, call_fails in steps:
        at += step
        record.called("z", round(at * S), "z: no" if call_fails else None)
        looks.append((round(at * S), bool(missing) or call_fails))
        lines.append(record.look(look(*missing), round(at * S), round(at * S), 0.0))
    lines = [one for one in (*lines, record.end()) if one is not None]
    assert sum(one.looks for one in lines) == len(looks)
    assert [one.n for one in lines] == list(range(1, len(lines) + 1))
    for one in lines:
        inside = [wrong for at_ns, wrong in looks if one.start_ns <= at_ns <= one.end_ns]
        assert len(inside) == one.looks
        assert (one.end_ns - one.start_ns) / S <= (one.looks - 1) * GAP_S + 1e-6
        if one.state is not State.BLIND:
            assert set(inside) == {one.state is State.DOWN}


# ------------------------------------------------------------------------------------------------- on disk


def lines_of(path) -> list[Line]:
    return [msgspec.json.decode(line, type=Line) for line in path.read_bytes().splitlines()]


LIFE = Life(soak="s", host="a", boot="b", life="l", at_ns=1, wall_ns=1, agents=3)


def test_a_line_that_was_cut_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "s.jsonl"
    path.write_bytes(encode(LIFE) + b'{"kind":"se')
    Log(path).add(LIFE)
    whole = path.read_bytes().splitlines()
    assert whole[1] == b'{"kind":"se'
    assert msgspec.json.decode(whole[2], type=Line) == LIFE


def test_what_the_disk_refuses_is_written_later(tmp_path, monkeypatch, capsys):
    path, write, left = tmp_path / "s.jsonl", os.write, [7]

    def full(handle: int, data: bytes) -> int:
        if left[0] >= len(data):
            left[0] -= len(data)
            return write(handle, data)
        if left[0]:
            some, left[0] = left[0], 0
            return write(handle, data[:some])
        raise OSError(errno.ENOSPC, "no space")

    log = Log(path)
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", full)
        log.add(LIFE)
        log.add(LIFE)
    assert capsys.readouterr().err.count("no space") == 1
    log.add(LIFE)
    cut, *rest = path.read_bytes().splitlines()
    assert len(cut) == 7
    assert [msgspec.json.decode(one, type=Line) for one in rest] == [LIFE] * 3


@pytest.mark.parametrize("name", ["", "../x", "a/b", ".x", "-x", "a" * 200])
def test_an_id_is_no_path(name):
    assert not ID.fullmatch(name)
