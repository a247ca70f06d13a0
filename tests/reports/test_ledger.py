"""The ledger says what the run folders say, whatever happened to it or to them."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reports import ledger
from reports.ledger import CriterionRecord, RunRecord
from reports.model import Direction, Verdict
from reports.store import RunError
from tests.reports.past import remember
from tests.reports.synthetic import write_run

ALWAYS = ("", "9999")
Contents = tuple[tuple[RunRecord, ...], tuple[CriterionRecord, ...], tuple[ledger.Unusable, ...]]


def contents(out: Path) -> Contents:
    with ledger.opened(out) as book:
        return book.runs(*ALWAYS), book.criteria(*ALWAYS), book.unusable()


def test_it_holds_what_was_measured(tmp_path: Path) -> None:
    remember(tmp_path, "2026-11-02", changes={"SD-4": {"bound": 12.5, "n": 300}}, agents=5)
    remember(tmp_path, "2026-11-01", verdict=Verdict.FAIL)
    runs, criteria, unusable = contents(tmp_path)
    assert [(r.started[:10], r.verdict, r.agents) for r in runs] == [
        ("2026-11-01", Verdict.FAIL, 77),
        ("2026-11-02", Verdict.PASS, 5),
    ]
    (told,) = [c for c in criteria if c.id == "SD-4" and c.folder == runs[1].folder]
    assert (told.bound, told.n, told.unit, told.direction) == (12.5, 300, "ms", Direction.BELOW)
    assert not [c for c in criteria if c.verdict is Verdict.NOT_MEASURED], "only what has something to say"
    assert unusable == ()


def test_a_period_is_half_open(tmp_path: Path) -> None:
    for day in ("2026-10-31", "2026-11-01", "2026-11-30", "2026-12-01"):
        remember(tmp_path, day)
    with ledger.opened(tmp_path) as book:
        assert [r.started[:10] for r in book.runs("2026-11", "2026-12")] == ["2026-11-01", "2026-11-30"]
        assert {c.folder[:10] for c in book.criteria("2026-11", "2026-12")} == {"2026-11-01", "2026-11-30"}


def test_made_up_runs_are_left_out(tmp_path: Path) -> None:
    from reports.render import render

    render(write_run(tmp_path, "run-1", kind="passing", plots=False))
    assert contents(tmp_path) == ((), (), ())


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:5000])


def _scribbled(path: Path) -> None:
    raw = bytearray(path.read_bytes())
    raw[4096:4300] = os.urandom(204)
    path.write_bytes(raw)


def _other_version(path: Path) -> None:
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    db.close()


def _other_tables(path: Path) -> None:
    path.unlink()
    with sqlite3.connect(path) as db:
        db.executescript("CREATE TABLE runs (x); PRAGMA user_version = 1;")
    db.close()


@pytest.mark.parametrize(
    "damage",
    [
        Path.unlink,
        _cut,
        _scribbled,
        _other_version,
        _other_tables,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"not a database at all" * 400),
    ],
)
def test_it_is_built_anew_when_it_is_of_no_use(tmp_path: Path, damage: Callable[[Path], None]) -> None:
    remember(tmp_path, "2026-11-01")
    remember(tmp_path, "2026-11-02")
    before = contents(tmp_path)
    damage(tmp_path / ledger.FILE)
    assert contents(tmp_path) == before


def test_a_report_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    whole, cut, none, later = (remember(tmp_path, f"2026-11-0{day}") for day in range(1, 5))
    (cut / "report.json").write_bytes((cut / "report.json").read_bytes()[:-40])
    (none / "report.json").unlink()
    told = json.loads((later / "report.json").read_bytes())
    (later / "report.json").write_text(json.dumps({**told, "schema": "threenines.report/2"}))
    runs, _, unusable = contents(tmp_path)
    assert [r.folder for r in runs] == [whole.name]
    reasons = {u.folder: u.reason for u in unusable}
    assert set(reasons) == {cut.name, none.name, later.name}
    assert "damaged" in reasons[cut.name]
    assert "missing" in reasons[none.name]
    assert "threenines.report/2" in reasons[later.name]


def test_two_runs_of_one_id_are_refused(tmp_path: Path) -> None:
    one = remember(tmp_path, "2026-11-01")
    shutil.copytree(one, tmp_path / "copy")
    with pytest.raises(RunError, match="has the id") as caught:
        contents(tmp_path)
    assert one.name in str(caught.value)
    assert "copy" in str(caught.value)
    assert "\n" not in str(caught.value)
    shutil.rmtree(tmp_path / "copy")
    assert len(contents(tmp_path)[0]) == 1


def test_no_folder_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no run yet"):
        contents(tmp_path / "none")


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from(["add", "remove", "change", "spoil"]), st.integers(1, 4)), max_size=8)
)
def test_after_any_changes_it_is_as_if_made_anew(changes: list[tuple[str, int]]) -> None:
    with TemporaryDirectory() as name:
        out = Path(name)
        for number, (what, day) in enumerate(changes):
            folder = out / f"2026-11-0{day}T030000Z-nightly"
            if what == "add" and not folder.exists():
                remember(out, f"2026-11-0{day}")
            elif what == "remove":
                shutil.rmtree(folder, ignore_errors=True)
            elif what == "change" and folder.exists():
                shutil.rmtree(folder)
                remember(out, f"2026-11-0{day}", changes={"SD-4": {"bound": float(number)}})
            elif what == "spoil" and folder.exists():
                (folder / "report.json").write_bytes(b"{")
            kept = contents(out)
            (out / ledger.FILE).unlink()
            assert contents(out) == kept
