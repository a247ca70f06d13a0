"""A night of scenarios: what comes first, what fits, going on after a stop or a cut journal."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from chaos.scenario import Scenario, load_scenario, shipped
from reports.model import Verdict
from verification import nightly
from verification.progress import NoProgress
from verification.scenario_result import Result

ALL = tuple(load_scenario(name) for name in shipped())[:6]
NAMES = [one.name for one in ALL]


def ended(name: str, verdict: Verdict, night: str = "n") -> nightly.Line:
    return nightly.Line(night=night, scenario=name, at="", verdict=verdict)


def test_never_run_then_not_passed_then_oldest() -> None:
    a, b, c, d = NAMES[:4]
    lines = [ended(a, Verdict.PASS), ended(b, Verdict.PASS), ended(c, Verdict.FAIL), ended(a, Verdict.PASS)]
    assert [one.name for one in nightly.order(ALL[:4], lines)] == [d, c, b, a]


def test_a_pass_after_a_failure_counts_as_a_pass() -> None:
    a, b = NAMES[:2]
    lines = [ended(a, Verdict.FAIL), ended(b, Verdict.PASS), ended(a, Verdict.PASS)]
    assert [one.name for one in nightly.order(ALL[:2], lines)] == [b, a]


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    found: list[str] = []

    def run(scenario: Scenario, wish, deployment, progress, stop: threading.Event):  # type: ignore[no-untyped-def]
        found.append(scenario.name)
        if len(found) == 99:
            stop.set()
        result = Result(
            scenario=scenario.name, title="", rows=scenario.rows, expected="", verdict=Verdict.PASS
        )
        return Path("folder"), (result,)

    monkeypatch.setattr(nightly, "run_scenario", run)
    return found


def night(out: Path, stop: threading.Event | None = None, budget_s: float = 1e9) -> tuple[Path, Verdict]:
    stop = stop or threading.Event()
    return nightly.run_night(ALL, out, budget_s, lambda: None, NoProgress(), stop, lambda: 0.0)  # type: ignore[arg-type,return-value]


def test_all_that_pass_are_a_pass(tmp_path: Path, runs: list[str]) -> None:
    report, verdict = night(tmp_path)
    assert (verdict, sorted(runs)) == (Verdict.PASS, sorted(NAMES))
    assert report.read_text(encoding="utf-8").count("| pass |") == len(ALL)


def test_what_does_not_fit_is_named_and_nothing_is_proved(tmp_path: Path, runs: list[str]) -> None:
    report, verdict = night(tmp_path, budget_s=min(one.about_s for one in ALL) - 1)
    assert (verdict, runs) == (Verdict.INCONCLUSIVE, [])
    assert all(name in report.read_text(encoding="utf-8") for name in NAMES)


def test_a_stopped_night_goes_on_also_after_a_cut_line(tmp_path: Path, runs: list[str]) -> None:
    runs += ["before"] * 96  # the third run is stopped
    _, verdict = night(tmp_path)
    assert verdict is Verdict.INCONCLUSIVE
    first = runs[96:]
    assert len(first) == 3
    with open(tmp_path / nightly.JOURNAL, "ab") as file:
        file.write(b'{"night":"cut in the mid')
    runs.clear()
    _, verdict = night(tmp_path)
    assert verdict is Verdict.PASS
    assert sorted(runs) == sorted(set(NAMES) - set(first[:2]))
    runs.clear()
    night(tmp_path)
    assert sorted(runs) == sorted(NAMES), "the next night is a new one"


def test_what_breaks_the_harness_does_not_end_the_night(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("no such luck")

    monkeypatch.setattr(nightly, "run_scenario", broken)
    report, verdict = night(tmp_path)
    assert verdict is Verdict.INCONCLUSIVE
    assert report.read_text(encoding="utf-8").count("no such luck") == len(ALL)
