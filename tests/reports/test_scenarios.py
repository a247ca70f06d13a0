"""A run with scenarios in every view of its report, and what they mean for the gate."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import scenario_views
from reports.grading import Gate
from reports.model import (
    FaultTold,
    Grade,
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
from reports.render import render
from reports.store import RunError
from tests.reports.synthetic import write_run

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


def night(
    out: Path, scenarios: tuple[ScenarioResult, ...], *, planned: tuple[ScenarioResult, ...] | None = None
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
    assert "Of 4 scenarios 1 passed, 1 failed, 1 could not be decided, 1 were not run." in text
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
