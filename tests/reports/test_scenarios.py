"""A run with scenarios in every view of its report, and what they mean for the gate."""

from __future__ import annotations

import hashlib
import io
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from reports import history, scenario_views
from reports.grading import Gate
from reports.model import (
    FaultTold,
    Grade,
    LeftOut,
    LookTold,
    Plan,
    PlannedScenario,
    Report,
    Run,
    ScenarioResult,
    Verdict,
    Verdicts,
    encode,
)
from reports.render import render, validate
from reports.store import RunError
from tests.reports.synthetic import write_run
from threenines.show import show_report

NASTY = "<script>alert(1)</script> | `x` & \x07"


def result(name: str, verdict: Verdict, *why: str, **changes: object) -> ScenarioResult:
    seen = verdict is not Verdict.NOT_MEASURED
    made = ScenarioResult(
        name=name,
        title=f"{name} happens",
        rows=("RL-5", "SD-6"),
        expected="pc2 takes over within 5 s",
        verdict=verdict,
        why=why,
        took_s=41.2 if seen else None,
        faults=(
            FaultTold(
                fault="host-kill host=a", effect="host down", proved=True, restored=True, lasted_s=14.5
            ),
        )
        if seen
        else (),
        looks=(
            LookTold(phase="before", what="every agent is served", verdict=Verdict.PASS, within_s=10),
            LookTold(
                phase="during", what="served by pc2", verdict=verdict, within_s=5, after_s=2.6, seen="77"
            ),
            LookTold(phase="after", what="every agent is served", verdict=Verdict.PASS, within_s=90),
        )
        if seen
        else (),
    )
    return msgspec.structs.replace(made, **changes)


MIXED = (
    result("kill-a", Verdict.PASS),
    result("cut-b", Verdict.FAIL, "during: served by pc2"),
    result("hang-c", Verdict.INCONCLUSIVE, NASTY, voids=2),
    result(
        "slow-d", Verdict.NOT_MEASURED, "not run: it did not fit into what was left of the budget of 6 min"
    ),
)


WITHOUT = LeftOut(
    name="slow-disk",
    title="The disk is slow",
    rows=("SD-6", "RK-2"),
    lacks=("slow-disk",),
    substrate="process",
    where="hosts with disks of their own",
)


def night(
    out: Path,
    scenarios: tuple[ScenarioResult, ...],
    *,
    planned: tuple[ScenarioResult, ...] | None = None,
    left_out: tuple[LeftOut, ...] = (),
):
    """A made-up run that passes, with these scenarios."""
    folder = write_run(out, "2026-01-31T120000Z-nightly", kind="passing", plots=False)
    plan = msgspec.json.decode((folder / "plan.json").read_bytes(), type=Plan)
    plan = msgspec.structs.replace(
        plan,
        scenarios=tuple(
            PlannedScenario(
                name=one.name,
                title=one.title,
                rows=one.rows,
                expected=one.expected,
                about_s=60,
                sha256="0" * 64,
            )
            for one in (scenarios if planned is None else planned)
        ),
        left_out=left_out,
    )
    (folder / "plan.json").write_bytes(plan.encode())
    run = msgspec.json.decode((folder / "run.json").read_bytes(), type=Run)
    (folder / "run.json").write_bytes(encode(msgspec.structs.replace(run, plan_sha256=plan.sha256())))
    verdicts = msgspec.json.decode((folder / "verdicts.json").read_bytes(), type=Verdicts)
    (folder / "verdicts.json").write_bytes(encode(msgspec.structs.replace(verdicts, scenarios=scenarios)))
    return folder


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Report]:
    folder = night(tmp_path_factory.mktemp("out"), MIXED)
    return folder, render(folder)


def test_the_page_shows_each_with_what_was_expected_and_seen(mixed: tuple[Path, Report]) -> None:
    page = (mixed[0] / "report.html").read_text(encoding="utf-8")
    section = page[page.index('id="scenarios-h"') :]
    section = section[: section.index("</section>")]
    text = " ".join(re.sub(r"<[^>]+>", " ", section).split())
    assert "Of 4 planned scenarios 1 passed, 1 failed, 1 could not be decided, 1 were not run." in text
    assert text.count("Expected beforehand: Pc2") + text.count("Expected beforehand: pc2") == 3
    assert "host-kill host=a host down 14.5 s yes" in text
    assert "2 attempts void" in text
    assert "did not fit into what was left of the budget of 6 min" in text
    assert text.index("cut-b") < text.index("hang-c") < text.index("kill-a") < text.index("slow-d")
    assert "<script" not in page
    assert section.count("<details open>") == 2, "what did not pass is open"


def test_markdown_junit_and_metrics_have_them_too(mixed: tuple[Path, Report]) -> None:
    folder, _ = mixed
    text = (folder / "report.md").read_text(encoding="utf-8")
    assert "### Scenarios" in text
    row = next(line for line in text.splitlines() if "hang-c" in line)
    assert len(re.findall(r"(?<!\\)\|", row)) == 6, "nothing in a cell breaks the table"
    suites = ElementTree.fromstring((folder / "junit.xml").read_bytes())
    suite = next(one for one in suites if one.get("name") == scenario_views.SUITE)
    assert [suite.get(key) for key in ("tests", "failures", "skipped", "errors")] == ["4", "2", "1", "0"]
    assert int(suites.get("tests") or 0) == sum(int(one.get("tests") or 0) for one in suites)
    assert int(suites.get("failures") or 0) == 2
    prom = (folder / "metrics.prom").read_text(encoding="utf-8")
    codes = dict(re.findall(r'threenines_scenario_verdict\{.*scenario="([a-z-]+)"\} (\d)', prom))
    assert codes == {"kill-a": "1", "cut-b": "0", "hang-c": "2", "slow-d": "4"}


@pytest.mark.parametrize(
    ("scenarios", "verdict"),
    [
        ((), Verdict.PASS),
        ((MIXED[0],), Verdict.PASS),
        (MIXED[:2], Verdict.FAIL),
        ((MIXED[0], MIXED[2]), Verdict.INCONCLUSIVE),
        ((MIXED[0], MIXED[3]), Verdict.INCONCLUSIVE),
    ],
)
def test_the_gate_passes_only_with_all_of_them(
    tmp_path: Path, scenarios: tuple[ScenarioResult, ...], verdict: Verdict
) -> None:
    report = render(night(tmp_path, scenarios))
    assert report.verdict is verdict
    assert ("scenario" in report.reason) is bool(scenarios)


def test_a_planned_one_that_was_never_judged_is_not_measured(tmp_path: Path) -> None:
    report = render(night(tmp_path, (MIXED[0],), planned=MIXED[:2]))
    assert [one.verdict for one in report.scenarios] == [Verdict.PASS, Verdict.NOT_MEASURED]
    assert report.verdict is Verdict.INCONCLUSIVE


@pytest.mark.parametrize("scenarios", [MIXED[:2], (MIXED[0], MIXED[0])])
def test_one_that_was_not_planned_or_stands_twice_is_refused(
    tmp_path: Path, scenarios: tuple[ScenarioResult, ...]
) -> None:
    with pytest.raises(RunError, match=r"verdicts.json: judges .* which plan.json does not plan once"):
        render(night(tmp_path, scenarios, planned=MIXED[:1]))


@given(
    st.sampled_from(Verdict),
    st.integers(0, 5),
    st.lists(st.sampled_from(Verdict), min_size=1, max_size=6),
)
def test_scenarios_never_make_a_gate_better(verdict: Verdict, passed: int, told: list[Verdict]) -> None:
    gate = Gate(verdict, Grade.A, "told")
    found = scenario_views.with_scenarios(gate, passed, 5, [result(f"s{i}", v) for i, v in enumerate(told)])
    if verdict in {Verdict.VOID, Verdict.FAIL}:
        assert found.verdict is verdict
    elif Verdict.FAIL in told:
        assert found.verdict is Verdict.FAIL
    elif verdict is Verdict.INCONCLUSIVE or set(told) != {Verdict.PASS}:
        assert found.verdict is Verdict.INCONCLUSIVE
    else:
        assert found.verdict is Verdict.PASS
    if found.verdict is Verdict.FAIL and verdict is not Verdict.VOID:
        assert found.grade not in {Grade.A, Grade.B} or not told


LEFT_OUT = "1 of 2 scenarios left out: slow-disk needs slow-disk, which the substrate process lacks here"


def test_what_is_left_out_stands_in_every_view_and_nowhere_as_passed(tmp_path: Path) -> None:
    folder = night(tmp_path, MIXED[:1], left_out=(WITHOUT,))
    report = render(folder)
    assert report.verdict is Verdict.PASS
    assert report.reason.endswith(f"; 1 of 1 scenario passed; {LEFT_OUT}")
    told = json.loads((folder / "report.json").read_bytes())
    assert told["left_out"] == [json.loads(msgspec.json.encode(WITHOUT))]
    assert [one["name"] for one in told["scenarios"]] == ["kill-a"]
    page = (folder / "report.html").read_text(encoding="utf-8")
    text = " ".join(re.sub(r"<[^>]+>", " ", page).split())
    assert text.count(LEFT_OUT) == 2, "in the answer and above the scenarios"
    assert "No planned scenario exercises RK-2." in text
    assert "it takes hosts with disks of their own." in text
    markdown = (folder / "report.md").read_text(encoding="utf-8")
    assert f"{LEFT_OUT}." in markdown
    row = next(line for line in markdown.splitlines() if line.startswith("| left out"))
    assert "RK-2" not in row
    assert "SD-6" not in row
    suite = next(
        one
        for one in ElementTree.fromstring((folder / "junit.xml").read_bytes())
        if one.get("name") == scenario_views.SUITE
    )
    assert [suite.get(key) for key in ("tests", "failures", "skipped")] == ["2", "0", "1"]
    (skipped,) = suite.iter("skipped")
    assert (skipped.get("message") or "").startswith("left out before the first trial: needs slow-disk")
    prom = (folder / "metrics.prom").read_text(encoding="utf-8")
    assert re.findall(r'threenines_scenario_left_out\{.*scenario="([a-z-]+)"\} (\S+)', prom) == [
        ("slow-disk", "1.0")
    ]
    assert re.findall(r'threenines_scenario_verdict\{.*scenario="([a-z-]+)"', prom) == ["kill-a"]
    assert LEFT_OUT in (folder / "annotation.json").read_text(encoding="utf-8")
    console = Console(file=io.StringIO(), width=300)
    show_report(report, folder, console)
    assert f"left out: {WITHOUT.name} {WITHOUT.why}" in console.file.getvalue()  # type: ignore[attr-defined]
    assert LEFT_OUT in console.file.getvalue()  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["failed", "open", "none planned"])
def test_what_is_left_out_changes_no_verdict_and_no_grade(tmp_path: Path, kind: str) -> None:
    scenarios = {"failed": MIXED[:2], "open": (MIXED[0], MIXED[2]), "none planned": ()}[kind]
    bare = render(night(tmp_path / "bare", scenarios))
    report = render(night(tmp_path / "out", scenarios, left_out=(WITHOUT,)))
    assert (report.verdict, report.grade, report.coverage) == (bare.verdict, bare.grade, bare.coverage)
    assert report.release == bare.release
    assert "slow-disk needs slow-disk" in report.reason
    assert "slow-disk" in (tmp_path / "out" / "2026-01-31T120000Z-nightly" / "report.html").read_text()


@given(st.sampled_from(Verdict), st.lists(st.sampled_from(Verdict), max_size=4))
def test_leaving_out_makes_a_gate_neither_better_nor_worse(verdict: Verdict, told: list[Verdict]) -> None:
    scenarios = [result(f"s{i}", v) for i, v in enumerate(told)]
    gate = scenario_views.with_left_out(Gate(verdict, Grade.B, "told"), scenarios, (WITHOUT,))
    assert (gate.verdict, gate.grade) == (verdict, Grade.B)


def test_rows_that_only_a_scenario_exercises_which_is_left_out_are_named() -> None:
    assert scenario_views.unexercised(MIXED, (WITHOUT,)) == ("RK-2",)
    assert scenario_views.unexercised((), (WITHOUT, WITHOUT)) == ("SD-6", "RK-2")
    assert scenario_views.unexercised(MIXED, ()) == ()


def test_a_result_of_one_that_is_left_out_is_refused(tmp_path: Path) -> None:
    passed = result("slow-disk", Verdict.PASS)
    with pytest.raises(RunError, match=r"judges slow-disk, which plan.json does not plan once"):
        render(night(tmp_path, (MIXED[0], passed), planned=MIXED[:1], left_out=(WITHOUT,)))


def test_a_run_from_before_anything_was_left_out_renders_as_ever(tmp_path: Path) -> None:
    folder = night(tmp_path, MIXED)
    now = render(folder)
    plan = json.loads((folder / "plan.json").read_bytes())
    assert plan.pop("left_out") == []
    data = json.dumps(plan).encode()
    (folder / "plan.json").write_bytes(data)
    run = json.loads((folder / "run.json").read_bytes())
    digest = hashlib.sha256(data).hexdigest()
    (folder / "run.json").write_text(json.dumps({**run, "plan_sha256": digest}))
    old = json.loads((folder / "report.json").read_bytes())
    del old["left_out"]
    (folder / "report.json").write_text(json.dumps(old))
    validate(json.dumps(old).encode(), folder / "report.json")
    assert history.read(folder).left_out == ()
    report = render(folder)
    assert (report.verdict, report.reason, report.left_out) == (now.verdict, now.reason, ())
