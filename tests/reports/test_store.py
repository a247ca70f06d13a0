"""Run directories that are missing, cut short or damaged give one clear line; writes are whole or not."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from reports import render, store
from reports.model import RunState, Verdict
from reports.store import RunError
from tests.reports.synthetic import write_run


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("out"), "run-1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_run(tmp_path, "run-1")


@pytest.mark.parametrize("name", ["run.json", "plan.json", "verdicts.json"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(RunError, match=name):
        store.load(folder)


@pytest.mark.parametrize("name", ["run.json", "plan.json", "verdicts.json", "series.json"])
@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "is empty"),
        (b"\n", "is empty"),
        (b"{", "is damaged"),
        (b"\xff\xfe\x00", "is damaged"),
        (b"[]", "another shape"),
        (b'{"id": 1}', "another shape"),
        (b'{"schema": "threenines.other/1"}', "this version reads"),
        (b'{"x": ' + b"[" * 100_000, "is damaged"),
    ],
)
def test_a_damaged_file_is_named(folder: Path, name: str, content: bytes, says: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(RunError) as caught:
        store.load(folder)
    assert caught.value.where.endswith(name)
    assert says in caught.value.what
    assert "\n" not in str(caught.value)


def test_a_file_of_another_version_is_refused(folder: Path) -> None:
    content = json.loads((folder / "run.json").read_text())
    (folder / "run.json").write_text(json.dumps({**content, "schema": "threenines.run/9"}))
    with pytest.raises(RunError, match=r"threenines.run/9"):
        store.load(folder)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data(), name=st.sampled_from(["run.json", "plan.json", "verdicts.json", "series.json"]))
def test_a_file_cut_anywhere_never_passes_for_a_whole_one(
    sample: Path, tmp_path: Path, data: st.DataObject, name: str
) -> None:
    target = tmp_path / "cut"
    target.mkdir(exist_ok=True)
    for other in ("run.json", "plan.json", "verdicts.json", "series.json"):
        (target / other).write_bytes((sample / other).read_bytes())
    whole = (sample / name).read_bytes()
    end = data.draw(st.integers(0, len(whole) - 2))
    (target / name).write_bytes(whole[:end])
    with pytest.raises(RunError):
        store.load(target)


def test_another_plan_than_the_hashed_one_is_void(folder: Path) -> None:
    plan = (folder / "plan.json").read_bytes()
    (folder / "plan.json").write_bytes(plan.replace(b'"n": 300', b'"n": 30'))
    report = render.render(folder)
    assert report.verdict is Verdict.VOID
    assert "hashed" in report.reason


def test_a_run_that_was_cut_short_is_not_a_pass(tmp_path: Path) -> None:
    folder = write_run(tmp_path, "run-1", kind="passing", state=RunState.INTERRUPTED, plots=False)
    assert render.render(folder).verdict is Verdict.INCONCLUSIVE


def test_runs_are_found_by_id_path_and_latest(folder: Path) -> None:
    render.render(folder)
    out = folder.parent
    for name in ("run-1", "latest", str(folder), str(folder / "report.html")):
        assert store.resolve(name, out) == folder.resolve()


@pytest.mark.parametrize("name", ["", "nope", "../nope", "latest", ".", "a\x00b"])
def test_a_run_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(RunError):
        store.resolve(name, tmp_path / "out")


def test_an_unknown_run_names_the_newest(folder: Path) -> None:
    with pytest.raises(RunError, match="run-1"):
        store.resolve("run-2", folder.parent)


def test_latest_follows_the_newest_run_only(tmp_path: Path) -> None:
    old, new = (
        write_run(tmp_path, "2026-01-01-quick", plots=False),
        write_run(tmp_path, "2026-01-02-quick", plots=False),
    )
    render.render(new)
    assert (tmp_path / "latest").resolve() == new.resolve()
    render.render(old)
    assert (tmp_path / "latest").resolve() == new.resolve(), "an old run rendered again is still old"
    assert os.readlink(tmp_path / "latest") == new.name, "relative, so that the folder can be moved"


def test_something_else_called_latest_is_not_overwritten(folder: Path) -> None:
    (folder.parent / "latest").mkdir()
    with pytest.raises(RunError, match="in the way"):
        store.point_latest(folder)


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.json"
    path.write_bytes(b"old")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(RunError, match="No space left"):
        store.write(path, b"new")
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    assert path.read_bytes() == b"old"
