"""A review of a made-up November that got worse in known ways, and the command that writes it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import review_pages
from reports.model import Verdict
from reports.review import Period, Review
from reports.store import RunError
from reports.trends import Course
from tests.reports.past import november, remember
from tests.reports.synthetic import HOSTILE
from tests.reports.test_render import Page
from threenines.__main__ import run as command_line

SCALE = "\n".join(
    json.dumps(
        {"bench": "scale", "measure": f"{n:,} agents: publication p99", "unit": "ms", "ours": n * 0.01}
    )
    for n in (77, 1000, 10_000)
)


@pytest.fixture(scope="module")
def past(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("repo") / "reports" / "out"
    november(out)
    (out.parent.parent / "scale.jsonl").write_text(SCALE)
    return out


@pytest.fixture(scope="module")
def month(past: Path) -> Review:
    return review_pages.read(Period.parse("2026-11"), past)


def test_it_finds_what_was_planted(month: Review) -> None:
    courses = {b.trend.last.id: b.trend.course for b in month.baselines}
    assert courses["SD-4"] is Course.WORSE
    assert {v for k, v in courses.items() if k not in {"SD-4", "SD-1"}} == {Course.STEADY}
    assert [(f.id, f.earlier.started[:10], f.later.started[:10], f.mended_by) for f in month.regressions] == [
        ("RL-3.failover", "2026-11-19", "2026-11-20", None)
    ]
    assert [(f.id, f.runs, f.passed, f.flips) for f in month.flaky] == [("SD-6", 30, 23, 14)]
    (budget,) = month.budgets
    assert (budget.id, budget.tried, budget.bad, budget.allowed) == ("SD-1", 30_000, 39, pytest.approx(30))
    (tally,) = month.tallies
    assert (tally.runs, tally.passed, tally.failed) == (30, 19, 11)


def test_the_baseline_is_the_last_accepted_run_before(month: Review) -> None:
    assert {b.run for b in month.baselines} == {"2026-10-30T030000Z-nightly"}


def test_without_an_earlier_run_the_first_is_the_baseline(tmp_path: Path) -> None:
    for day in (1, 2, 3):
        remember(tmp_path, f"2026-11-0{day}", changes={"SD-4": {"bound": 10.0 * day}})
    found = review_pages.read(Period.parse("2026-11"), tmp_path)
    (told,) = [b for b in found.baselines if b.trend.last.id == "SD-4"]
    assert (told.run, told.value, told.median) == ("2026-11-01T030000Z-nightly", 10, 20)
    assert told.change == pytest.approx(1.0)


def test_the_most_urgent_comes_first(month: Review) -> None:
    wanted = ("Mend RL-3", "Look into SD-1", "Find out why SD-4", "Steady SD-6", "Measure the 41 rows")
    order = [next(i for i, a in enumerate(month.actions) if a.startswith(w)) for w in wanted]
    assert order == sorted(order)


def test_a_month_without_trouble_asks_for_nothing_but_what_is_missing(tmp_path: Path) -> None:
    for day in range(1, 9):
        remember(tmp_path, f"2026-11-0{day}")
    (action,) = review_pages.read(Period.parse("2026-11"), tmp_path).actions
    assert action.startswith("Measure the 41 rows")


def test_the_quarter_says_how_figures_grow(past: Path) -> None:
    written = review_pages.write(Period.parse("2026-Q4"), past, past.parent.parent / "scale.jsonl")
    (growth,) = written.review.growth
    assert growth.exponent == pytest.approx(1)
    assert growth.reaches == pytest.approx(100_000), "1 s at 10 us an agent"
    text = written.markdown.read_text()
    assert "about 100,000 agents (extrapolated)" in text
    assert "All runs had 77 agents" in text


@pytest.mark.parametrize("name", ["2026-11", "2026-Q4"])
def test_pages_are_whole_and_say_the_same_each_time(past: Path, name: str) -> None:
    period = Period.parse(name)
    written = review_pages.write(period, past)
    before = written.markdown.read_bytes(), written.html.read_bytes()
    again = review_pages.write(period, past)
    assert (again.markdown.read_bytes(), again.html.read_bytes()) == before
    page = Page(written.html.read_text())
    assert page.problems == []
    assert page.open == []
    assert not page.all("script")
    assert all("scope" in a for a in page.all("th"))
    for drawing in page.all("svg"):
        assert drawing.get("aria-hidden") == "true" or drawing["aria-label"]
    text = " ".join("".join(page.text).split())
    for action in written.review.actions:
        assert action in text


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    for day, verdict in ((1, Verdict.PASS), (2, Verdict.FAIL), (3, Verdict.PASS)):
        change = {"title": HOSTILE, "verdict": verdict, "bound": float(day)}
        remember(tmp_path, f"2026-11-0{day}", changes={"SD-4": change})
    written = review_pages.write(Period.parse("2026-11"), tmp_path)
    html, text = written.html.read_text(), written.markdown.read_text()
    assert "<script" not in html
    assert "<script" not in text.replace("\\<", "")
    assert "\x1b" not in html + text


@pytest.mark.parametrize(
    ("text", "since", "until"),
    [
        ("2026-11", "2026-11", "2026-12"),
        ("2026-12", "2026-12", "2027-01"),
        ("2026-Q4", "2026-10", "2027-01"),
        ("2026-q1", "2026-01", "2026-04"),
    ],
)
def test_periods(text: str, since: str, until: str) -> None:
    period = Period.parse(text)
    assert (period.since, period.until) == (since, until)


@pytest.mark.parametrize(
    "text", ["", "2026", "2026-13", "2026-00", "2026-Q5", "11-2026", "2026-11-01", "last"]
)
def test_what_is_no_period(text: str) -> None:
    with pytest.raises(RunError, match="no month and no quarter"):
        Period.parse(text)


@given(
    st.datetimes(min_value=datetime(2000, 1, 2), max_value=datetime(2100, 1, 1)),
    st.integers(-11, 11),
    st.booleans(),
)
def test_an_instant_is_in_its_period(naive: datetime, offset: int, quarterly: bool) -> None:
    instant = naive.replace(tzinfo=timezone(timedelta(hours=offset)))
    period = Period.of(instant, quarterly=quarterly)
    assert period.since <= instant.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ") < period.until
    assert period.quarterly is quarterly


def test_the_command_writes_both_pages(past: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["review", "--month", "2026-11", "--out", str(past)]) == 0
    told = capsys.readouterr().out
    assert "19 of 30 runs passed" in told
    assert (past / "reviews" / "2026-11.html").is_file()
    assert command_line(["review", "--month", "2026-11", "--quarter", "--out", str(past), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["period"]["name"] == "2026-Q4"


def test_a_period_without_runs_is_told_in_one_line(past: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["review", "--month", "2025-01", "--out", str(past)]) == 64
    told = capsys.readouterr().err
    assert "2025-01" in told
    assert told.count("\n") == 1
