"""What a run left is what is judged: a change after its end is found, however plausible it is."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest

from reports.model import Run, RunState, Verdict, encode
from tests.verification.stories import faults, load
from tests.verification.test_judge import stored
from verification import gate_sources, seal
from verification.judge import judge_run
from verification.run_folder import RunFolder
from verification.seal import SealError


@pytest.fixture
def ended(tmp_path: Path) -> Path:
    """A run that ended with 59 crashes, the records of a scenario beside it."""
    stored(tmp_path, faults(59) + load())
    home = tmp_path / "scenarios" / "0-mine" / "a-cell"
    (home / "history").mkdir(parents=True)
    for name in ("journal.jsonl", "played.json", "scenario.yaml", "history/load-pc2.jsonl"):
        (home / name).write_bytes(b"{}\n")
    (home / "report.md").write_bytes(b"a view\n")
    RunFolder.read(tmp_path).end(RunState.FINISHED, None)
    return tmp_path


def of_run(folder: Path) -> Run:
    return msgspec.json.decode((folder / "run.json").read_bytes(), type=Run)


def test_a_run_as_it_ended_is_judged(ended):
    verdicts = judge_run(ended)
    assert {one.id: one.verdict for one in verdicts.criteria}["RL-3.detect"] is not Verdict.NOT_MEASURED
    assert gate_sources.judge_history(ended) == verdicts
    (ended / "scenarios/0-mine/a-cell/report.md").write_bytes(b"another view\n")
    assert judge_run(ended) == verdicts, "views are no raw records"


def lose_a_trial(folder: Path) -> None:
    """Whole operations of one trial: what is left is a history without fault."""
    path = folder / "history" / "all.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    kept = [line for line in lines if b"crash-007" not in line]
    assert len(kept) < len(lines)
    path.write_bytes(b"".join(kept))


def quicker(folder: Path) -> None:
    path = folder / "history" / "all.jsonl"
    before = path.read_bytes()
    path.write_bytes(before[:-200].replace(b"00000,", b"00001,", 1) + before[-200:])
    assert path.read_bytes() != before


def added(folder: Path) -> None:
    (folder / "history" / "more.jsonl").write_bytes(b"")


def of_a_scenario(folder: Path) -> None:
    (folder / "scenarios/0-mine/a-cell/journal.jsonl").write_bytes(b"{} \n")


def another_seal(folder: Path) -> None:
    """Who mends only seal.json has not mended run.json."""
    quicker(folder)
    (folder / seal.FILE).write_bytes(seal.make(folder))


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        (lose_a_trial, "history/all.jsonl", "was changed after the run had ended"),
        (quicker, "history/all.jsonl", "was changed"),
        (lambda folder: (folder / "history/all.jsonl").unlink(), "history/all.jsonl", "is gone"),
        (added, "history/more.jsonl", "was added after the run had ended"),
        (of_a_scenario, "a-cell/journal.jsonl", "was changed"),
        (lambda folder: (folder / seal.FILE).unlink(), "seal.json", "cannot be read"),
        (lambda folder: (folder / seal.FILE).write_bytes(b"{}"), "seal.json", "is not the seal"),
        (another_seal, "seal.json", "is not the seal that run.json names"),
    ],
)
def test_a_change_after_the_end_is_found(ended, change, where, what):
    change(ended)
    for judge in (judge_run, gate_sources.judge_history):
        with pytest.raises(SealError) as caught:
            judge(ended)
        assert caught.value.where.endswith(where)
        assert what in caught.value.what
        assert caught.value.exit_status == 64


def test_a_seal_of_another_version_is_told(ended):
    other = encode(seal.Seal(files={})).replace(b"files", b"names")
    (ended / seal.FILE).write_bytes(other)
    run = msgspec.structs.replace(of_run(ended), seal_sha256=hashlib.sha256(other).hexdigest())
    (ended / "run.json").write_bytes(encode(run))
    with pytest.raises(SealError, match="another shape than"):
        judge_run(ended)


def test_a_run_that_goes_on_has_no_seal_until_it_ends_again(ended):
    folder = RunFolder.read(ended)
    folder.begin_again()
    assert of_run(ended).seal_sha256 is None
    quicker(ended)
    judge_run(ended)
    folder.end(RunState.FINISHED, None)
    judge_run(ended)
    quicker(ended)
    with pytest.raises(SealError):
        RunFolder.read(ended).begin_again()


def test_an_older_run_has_none_and_opens(ended):
    run = msgspec.structs.replace(of_run(ended), seal_sha256=None)
    (ended / "run.json").write_bytes(encode(run))
    (ended / seal.FILE).unlink()
    assert judge_run(ended).criteria
