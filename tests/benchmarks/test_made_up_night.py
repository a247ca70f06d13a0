"""The night on which judging and rendering are measured is one that the product takes for a night."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.made_up_night import write_night
from chaos.scenario import shipped
from reports import render
from reports.model import Verdict
from verification.history import History
from verification.judge import judge_run

RECORDS = 6000


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("runs") / "night"
    made.mkdir()
    written = write_night(made, RECORDS)
    assert written >= RECORDS
    assert sum(1 + (one.completion is not None) for one in History.read(made).operations) == written
    return made


@pytest.mark.slow
def test_every_planned_criterion_is_measured_and_none_fails(folder: Path) -> None:
    verdicts = judge_run(folder)
    planned = [one for one in verdicts.criteria if "does not plan it" not in (one.reason or "")]
    assert len(planned) > 25
    assert not [one.id for one in planned if "broke" in (one.reason or "")]
    wrong = [one for one in planned if one.verdict in {Verdict.FAIL, Verdict.VOID}]
    without_porcupine = "not checked: "
    assert not [(one.id, one.reason) for one in wrong if without_porcupine not in (one.reason or "")]
    assert [one.verdict for one in verdicts.scenarios] == [Verdict.PASS] * len(shipped())


@pytest.mark.slow
def test_it_is_judged_and_rendered_to_the_same_bytes(folder: Path) -> None:
    def written() -> dict[str, bytes]:
        judge_run(folder)
        render.render(folder)
        return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}

    first = written()
    assert {"report.html", "report.json", "verdicts.json", "series.json"} <= set(first)
    assert written() == first
