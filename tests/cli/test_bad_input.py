"""Bad input at the command line: a clear verdict or one line, never a pass, never a traceback."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from loadtests.record import encode_line
from reports.model import RunState
from tests.verification.stories import faults, load
from tests.verification.test_judge import stored
from threenines.__main__ import run
from verification import evidence, evidence_keys
from verification.run_folder import RunFolder

Change = Callable[[Path], object]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run whose crashes are clean, never sealed: what is wrong must be seen in the records themselves."""
    made = tmp_path / "out" / "r"
    made.mkdir(parents=True)
    stored(made, faults(69) + load())
    return made


def history(change: Callable[[list[bytes]], list[bytes]]) -> Change:
    def edit(folder: Path) -> None:
        path = folder / "history" / "all.jsonl"
        before = path.read_bytes().splitlines(keepends=True)
        after = change(list(before))
        assert after != before
        path.write_bytes(b"".join(after))

    return edit


def line(lines: list[bytes], part: bytes, **changes: object) -> list[bytes]:
    """The first line with `part`, some of its keys changed; NaN as Python writes it."""
    at = next(number for number, one in enumerate(lines) if part in one)
    return [*lines[:at], json.dumps(json.loads(lines[at]) | changes).encode() + b"\n", *lines[at + 1 :]]


def text(name: str, old: str, new: str) -> Change:
    def edit(folder: Path) -> None:
        before = (folder / name).read_text()
        assert old in before
        (folder / name).write_text(before.replace(old, new, 1))

    return edit


def judged_pass(folder: Path) -> set[str]:
    report = json.loads((folder / "report.json").read_bytes())
    return {one["id"] for one in report["criteria"] if one["verdict"] == "pass"}


def test_the_run_as_it_is_proves_something(folder: Path) -> None:
    run(["report", str(folder)])
    assert "RL-3.detect" in judged_pass(folder), "else nothing below could fail"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (history(lambda lines: [*lines[:9], *lines[10:]]), "history/all.jsonl:11: process "),
        (history(lambda lines: [*lines[:9], b"\0\0\n", *lines[10:]]), "history/all.jsonl:10: not a record"),
        (history(lambda lines: line(lines, b'"ok"', time_ns=5)), "its clock went back"),
        (history(lambda lines: line(lines, b'"ok"', time_ns=float("nan"))), "not a record of history"),
        (history(lambda lines: line(lines, b'"ok"', type="good")), "not a record of history"),
        (text("run.json", "threenines.run/1", "threenines.run/9"), "this version reads threenines.run/1"),
        (text("plan.json", "threenines.plan/", "threenines.plan/9"), "plan.json: "),
        (text("run.json", '"seed": 7', '"seed": NaN'), "run.json: is damaged"),
        (lambda folder: (folder / "plan.json").unlink(), "plan.json: "),
        (lambda folder: shutil.copytree(folder, folder.parent / "copy"), "has the id r of"),
    ],
)
def test_one_line_and_no_report(
    folder: Path, capsys: pytest.CaptureFixture[str], change: Change, says: str
) -> None:
    change(folder)
    assert run(["report", str(folder)]) == 64
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert told.err.startswith("threenines: ")
    assert says in told.err
    assert not (folder / "report.json").exists()


def none_left(folder: Path) -> None:
    (folder / "history" / "all.jsonl").unlink()


@pytest.mark.parametrize(
    "change",
    [
        none_left,
        lambda folder: shutil.rmtree(folder / "history"),
        lambda folder: (folder / "history" / "all.jsonl").write_bytes(b""),
        lambda folder: (folder / "history" / "all.jsonl").write_bytes(b'{"process": "cut in'),
    ],
)
def test_without_trials_nothing_passes_whatever_was_said_before(folder: Path, change: Change) -> None:
    run(["report", str(folder)])
    assert judged_pass(folder)
    change(folder)
    assert run(["report", str(folder)]) == 2
    assert judged_pass(folder) == set()


def test_a_sealed_run_whose_worst_trial_was_taken_out(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is left is a history without a fault, and would pass more than the run did."""
    records = faults(69) + faults(1, left_ms=(9_000.0, 9_000.0), agent="agent-2") + load()
    (folder / "history" / "all.jsonl").write_bytes(b"".join(map(encode_line, records)))
    RunFolder.read(folder).end(RunState.FINISHED, None)
    none = b"".join(map(encode_line, faults(69) + load()))
    (folder / "history" / "all.jsonl").write_bytes(none)
    assert run(["report", str(folder)]) == 64
    assert "history/all.jsonl: was changed after the run had ended" in capsys.readouterr().err


def test_a_bundle_of_a_stranger(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["report", str(folder)])
    RunFolder.read(folder).end(RunState.FINISHED, None)
    theirs = tmp_path / "theirs"
    evidence_keys.make_key(theirs)
    bundle = tmp_path / "run.zip"
    evidence.export_bundle(folder, theirs, bundle, datetime.now(UTC))
    capsys.readouterr()
    out, mine = tmp_path / "here", tmp_path / "mine"
    evidence_keys.make_key(mine)
    assert run(["evidence", "import", str(bundle), "--runs", str(out), "--keys", str(mine)]) == 64
    told = capsys.readouterr().err
    assert told.count("\n") == 1
    assert "is signed by a stranger" in told
    assert not list(out.glob("**/run.json"))
