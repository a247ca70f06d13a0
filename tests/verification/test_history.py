"""Histories are read with suspicion."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.record import Kind, encode_line
from tests.verification.stories import pair, record
from verification.history import History, HistoryError, Journal


def write(folder, data: bytes, name: str = "probe-mainpc") -> None:
    (folder / "history").mkdir(exist_ok=True)
    (folder / "history" / f"{name}.jsonl").write_bytes(data)


def lines(*records) -> bytes:
    return b"".join(encode_line(one) for one in records)


def test_operations_are_paired_by_process(tmp_path):
    interleaved = [
        record("a", Kind.INVOKE, "call", "x", None, 0),
        record("b", Kind.INVOKE, "call", "x", None, 1),
        record("b", Kind.FAIL, "call", "x", None, 2),
        record("a", Kind.OK, "call", "x", None, 3),
        record("a", Kind.INVOKE, "call", "x", None, 4),
    ]
    write(tmp_path, lines(*interleaved))
    history = History.read(tmp_path)
    assert [(op.invoke.process, op.kind) for op in history.operations] == [
        ("a", Kind.OK),
        ("b", Kind.FAIL),
        ("a", Kind.INFO),
    ]
    assert history.operations[0].completed().duration_ms == 3
    assert history.operations[2].completed() is None
    assert history.notes == ()


def test_a_cut_last_line_is_noted_and_left_out(tmp_path):
    whole = lines(*pair("a", "call", "x", 0, 1))
    for cut in (1, 20, len(whole) // 2 - 3):
        write(tmp_path, whole + whole[:cut])
        history = History.read(tmp_path)
        assert len(history.operations) == 1
        assert [note.where for note in history.notes] == ["history/probe-mainpc.jsonl"]
        assert f"({cut} bytes)" in history.notes[0].what


@pytest.mark.parametrize(
    ("middle", "what"),
    [
        (b'{"process": "a"\n', "not a record"),
        (b"\n", "not a record"),
        (b"\xff\xfe\n", "not a record"),
        (b'{"process":"a","type":"maybe","f":"x","time_ns":1}\n', "not a record"),
        (lines(record("z", Kind.OK, "call", "x", None, 0)), "never began"),
        (
            lines(
                record("z", Kind.INVOKE, "call", "x", None, 0), record("z", Kind.INVOKE, "call", "y", None, 1)
            ),
            "in flight",
        ),
        (
            lines(record("z", Kind.INVOKE, "call", "x", None, 0), record("z", Kind.OK, "call", "y", None, 1)),
            "began call x and completes call y",
        ),
        (
            lines(record("z", Kind.INVOKE, "call", "x", None, 5), record("z", Kind.OK, "call", "x", None, 1)),
            "ends before it begins",
        ),
    ],
)
def test_a_corrupt_line_is_refused_with_its_place(tmp_path, middle, what):
    good = lines(*pair("a", "call", "x", 0, 1))
    write(tmp_path, good + middle + good)
    with pytest.raises(HistoryError, match=what) as caught:
        History.read(tmp_path)
    assert caught.value.where.startswith("history/probe-mainpc.jsonl:")
    assert caught.value.mend


def test_a_line_that_stands_twice_counts_once(tmp_path):
    begin, end = pair("a", "call", "x", 0, 1)
    write(tmp_path, lines(begin, begin, end, end))
    history = History.read(tmp_path)
    assert len(history.operations) == 1
    assert len(history.notes) == 2


def test_an_empty_run_has_an_empty_history(tmp_path):
    assert History.read(tmp_path).operations == ()
    write(tmp_path, b"")
    assert History.read(tmp_path).operations == ()


def test_a_journal_appends_and_survives_reopening(tmp_path):
    path = tmp_path / "history" / "x.jsonl"
    begin, end = pair("a", "call", "x", 0, 1)
    for one in (begin, end):
        with Journal(path) as journal:
            journal.record(one)
    assert len(History.read(tmp_path).operations) == 1


@given(data=st.data())
def test_any_prefix_of_a_history_can_be_read(tmp_path_factory, data):
    whole = lines(*(line for i in range(3) for line in pair(f"p{i}", "call", "x", i, i + 1)))
    cut = data.draw(st.integers(0, len(whole)))
    folder = tmp_path_factory.mktemp("run")
    write(folder, whole[:cut])
    history = History.read(folder)
    assert len(history.operations) == (whole[:cut].count(b"\n") + 1) // 2
    assert bool(history.notes) == (not whole[:cut].endswith(b"\n") and cut > 0)


def test_what_several_ask_for_is_found_once_for_the_same_facts():
    asked = []

    def count(history: History, f: str) -> int:
        asked.append(f)
        return sum(1 for _ in history.of(f))

    history = History.of_records([*pair("a", "call", "x", 0, 1), *pair("b", "read", "x", 0, 1)])
    assert [history.once(count, f) for f in ("call", "read", "call", "none")] == [1, 1, 1, 0]
    assert asked == ["call", "read", "none"]
    fewer = dataclasses.replace(history, operations=history.operations[:1])
    assert [fewer.once(count, "read"), history.once(count, "read")] == [0, 1]


def test_what_cannot_be_found_is_asked_for_again():
    def break_off(_: History) -> int:
        raise HistoryError("here", "it is odd", "mend it")

    history = History.of_records([])
    for _ in range(2):
        with pytest.raises(HistoryError):
            history.once(break_off)
