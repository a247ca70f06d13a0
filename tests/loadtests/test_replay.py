"""A recorded history comes again as it was: when, from where, whom, what."""

from __future__ import annotations

import json
import random

import pytest

from loadtests.mix import Mix
from loadtests.protocol import Intent, LoadPlan
from loadtests.raw import Raw
from loadtests.record import Kind, Record, encode_line, raw
from loadtests.recorder import Recorder
from loadtests.replay import main, replayed, replayed_workload, write_replay
from loadtests.schedule import Arrivals
from loadtests.workload import WorkloadError, load_workload
from tests.loadtests.test_mix import FLEET, workload

MS = 1_000_000
BEGIN_NS = 5_000 * MS


def load_history(path, host="mainpc", n=40, raw_records=Raw.ALL):
    """What a generator writes of `n` operations, 10 ms apart; the operations."""
    made = workload(
        "{operation: look-up, share: 1}",
        "{operation: call, share: 2, size_bytes: {low: 1, high: 400},"
        " bodies: {ask: {text: '{agent}{n}{pad}'}}}",
        per_s=100,
    )
    steps = []
    mix = Mix(made, FLEET, host, random.Random(3))
    with open(path, "wb") as out:
        recorder = Recorder(host, lambda lines: out.write(lines) and None, raw_records)
        recorder.begin(LoadPlan(per_s=100, users=2, begin_ns=BEGIN_NS, workload=made))
        for number in range(n):
            steps.append(mix.draw())
            due = BEGIN_NS + number * 10 * MS
            # Begun late: what comes again is when it was meant to be.
            recorder.ended(f"u{number}", steps[-1], due, due + 7 * MS, due + 9 * MS, Kind.OK, None)
        recorder.end()
    return steps


def test_a_load_comes_again_with_its_bodies(tmp_path):
    steps = load_history(tmp_path / "load.jsonl")
    header = write_replay([tmp_path / "load.jsonl"], tmp_path / "again.jsonl")
    assert (header.operations, header.hosts) == (40, ("mainpc",))
    assert header.lasts_s == pytest.approx(0.39)
    again = list(replayed(tmp_path / "again.jsonl", "mainpc"))
    assert [due_s for due_s, _ in again] == pytest.approx([n / 100 for n in range(40)])
    for (_, step), first in zip(again, steps, strict=True):
        assert (step.f, step.agent, step.category, step.method) == (
            first.f,
            first.agent,
            first.category,
            first.method,
        )
        assert step.body == first.body


def test_hosts_come_again_each_from_itself_and_places_share(tmp_path):
    for host in ("mainpc", "pc2"):
        load_history(tmp_path / f"{host}.jsonl", host)
    write_replay([tmp_path / "mainpc.jsonl", tmp_path / "pc2.jsonl"], tmp_path / "again.jsonl", speed=2.0)
    made = load_workload(str(tmp_path / "again.jsonl"))
    assert made.replay == str(tmp_path / "again.jsonl")
    assert made.per_s == pytest.approx(40.0)
    assert made.arrivals is Arrivals.CONSTANT
    parts = [list(replayed(tmp_path / "again.jsonl", "pc2", place, 3)) for place in range(3)]
    assert sorted(due for part in parts for due, _ in part) == pytest.approx([n / 200 for n in range(40)])
    with pytest.raises(WorkloadError, match="has nothing from pc3; it is from mainpc, pc2"):
        next(replayed(tmp_path / "again.jsonl", "pc3"))


def test_any_history_of_the_form_comes_again(tmp_path):
    lines = [
        ("call", "planner", Intent(method="ask", intended_ns=2_000 * MS), 2_003 * MS),
        ("call", "diary", {"method": "recall", "body": {"key": "k"}}, 2_010 * MS),
        ("watch", "diary", None, 2_015 * MS),
        ("lookup", "diary", None, 2_020 * MS),
    ]
    with open(tmp_path / "other.jsonl", "wb") as out:
        for number, (f, key, value, at) in enumerate(lines):
            for kind, told, then in ((Kind.INVOKE, value, at), (Kind.OK, None, at + MS)):
                record = Record(
                    process=f"p{number}", type=kind, f=f, key=key, value=raw(told), time_ns=then, host="pc2"
                )
                out.write(encode_line(record))
        out.write(b'{"process": "cut off in the mid')
    write_replay([tmp_path / "other.jsonl"], tmp_path / "again.jsonl")
    again = [(due, s.f, s.agent, s.method, s.body) for due, s in replayed(tmp_path / "again.jsonl", "pc2")]
    assert again == [
        (0.0, "load-call", "planner", "ask", {}),
        (0.01, "load-call", "diary", "recall", {"key": "k"}),
        (0.02, "load-lookup", "diary", "", None),
    ]


@pytest.mark.parametrize(
    ("content", "arguments", "what"),
    [
        (b"", (), "holds no calls or look-ups"),
        (b"{}\n", (), "history.jsonl:1: is no record"),
        (b"", ("--speed", "0"), "must be above 0"),
        (b"", ("--out", "x.yaml"), "x.yaml: is no name of a replay; end it with .jsonl"),
        (None, (), "cannot be read (No such file or directory)"),
    ],
)
def test_what_cannot_come_again_is_told(tmp_path, capsys, content, arguments, what):
    history = tmp_path / "history.jsonl"
    if content is not None:
        history.write_bytes(content)
    assert main([str(history), "--out", str(tmp_path / "again.jsonl"), *arguments]) == 64
    told = capsys.readouterr().err
    assert told.startswith("threenines: ")
    assert told.count("\n") == 1
    assert what in told


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{}", "is no replay"),
        ("[]", "is no replay"),
        (
            json.dumps({"schema": "threenines.replay/9", "name": "x", "operations": 1, "lasts_s": 1}),
            "no replay of this version",
        ),
    ],
)
def test_what_is_no_replay_is_told(tmp_path, text, what):
    (tmp_path / "x.jsonl").write_text(text + "\n")
    with pytest.raises(WorkloadError, match=what):
        replayed_workload(tmp_path / "x.jsonl")


def test_a_replay_that_is_cut_is_told(tmp_path):
    load_history(tmp_path / "load.jsonl")
    write_replay([tmp_path / "load.jsonl"], tmp_path / "again.jsonl")
    data = (tmp_path / "again.jsonl").read_bytes()
    (tmp_path / "again.jsonl").write_bytes(data[:-20])
    with pytest.raises(WorkloadError, match=r"again.jsonl:41: cannot be read"):
        load_workload(str(tmp_path / "again.jsonl"))
    (tmp_path / "again.jsonl").write_bytes(b"".join(data.splitlines(keepends=True)[:-5]))
    with pytest.raises(WorkloadError, match="is cut short: 35 of 40 operations"):
        load_workload(str(tmp_path / "again.jsonl"))


def test_the_command_says_what_it_made(tmp_path, capsys):
    load_history(tmp_path / "load.jsonl")
    assert main([str(tmp_path / "load.jsonl"), "--out", str(tmp_path / "again.jsonl")]) == 0
    assert "40 operations in 0.4 s from mainpc" in capsys.readouterr().out
