"""Trends, regressions, flaky criteria and growth, each against a plainer way to find the same."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reports import capacity, trends
from reports.capacity import Growth
from reports.ledger import CriterionRecord, RunRecord
from reports.model import Direction, Evidence, RunState, Verdict
from reports.store import RunError
from reports.trends import Course, Group, Point

GROUP = Group("nightly", "local")
P, F, I, V = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE, Verdict.VOID  # noqa: E741  read as a row of letters


def points(
    values: list[float | None],
    verdicts: list[Verdict] | None = None,
    commits: list[str] | None = None,
    direction: Direction = Direction.BELOW,
    target: float = 100.0,
) -> tuple[Point, ...]:
    found = []
    for number, value in enumerate(values):
        run = RunRecord(
            folder=f"run-{number:03}",
            id=f"run-{number:03}",
            started=f"2026-{1 + number // 28:02}-{1 + number % 28:02}T03:00:00Z",
            ended=None,
            profile=GROUP.profile,
            environment=GROUP.environment,
            commit=commits[number] if commits else f"c{number}",
            dirty=False,
            state=RunState.FINISHED,
            agents=77,
            verdict=P,
            grade=None,
            release=I,
            rows=46,
            planned=5,
            passed=4,
            voids=0,
        )
        record = CriterionRecord(
            folder=run.folder,
            id="X-1",
            title="X",
            category="reliability",
            verdict=verdicts[number] if verdicts else P,
            grade=None,
            evidence=Evidence.MEASURED,
            planned=True,
            unit="ms",
            target=target,
            direction=direction,
            statistic="p99",
            estimate=value,
            bound=value,
            n=59,
            exceedances=0,
        )
        found.append(Point(run, record))
    return tuple(found)


def one(values: list[float | None], direction: Direction = Direction.BELOW) -> trends.Trend:
    (trend,) = trends.trends_of(GROUP, {"X-1": points(values, direction=direction)})
    return trend


@pytest.mark.parametrize(
    ("values", "direction", "course"),
    [
        ([10, 11, 12, 13], Direction.BELOW, Course.UNKNOWN),
        ([10, None, None, 11, 12, 13], Direction.BELOW, Course.UNKNOWN),
        ([10.0] * 12, Direction.BELOW, Course.STEADY),
        ([10, 12, 9, 11, 10, 12, 9, 11], Direction.BELOW, Course.STEADY),
        ([10, 11, 12, 13, 14, 15, 16, 17], Direction.BELOW, Course.WORSE),
        ([10, 11, 12, 13, 14, 15, 16, 17], Direction.AT_LEAST, Course.BETTER),
        ([17, 16, 15, 14, 13, 12, 11, 10], Direction.AT_MOST, Course.BETTER),
        ([17, 16, 15, 14, 13, 12, 11, 10], Direction.ABOVE, Course.WORSE),
        ([10, 11, 12, 13, 14, 15, 16, 17], Direction.EXACTLY, Course.STEADY),
    ],
)
def test_courses(values: list[float | None], direction: Direction, course: Course) -> None:
    assert one(values, direction).course is course


def test_the_slope_says_when_the_target_is_met() -> None:
    trend = one([10.0 + 2 * i for i in range(10)])
    assert trend.slope_per_day == pytest.approx(2)
    assert trends.days_left(trend) == pytest.approx((100 - 26) / 2), "from the median of the last three"
    assert trends.days_left(one([28.0 - 2 * i for i in range(10)])) is None, "what gets better never meets it"
    assert trends.days_left(one([90.0 + 5 * i for i in range(10)])) == 0, "already there"


@given(st.lists(st.sampled_from([P, F, I, V]), max_size=12))
def test_regressions_are_each_pass_with_a_fail_behind_it(verdicts: list[Verdict]) -> None:
    by_id = {"X-1": points([1.0] * len(verdicts), verdicts)}
    found = {(f.earlier.folder, f.later.folder): f.mended_by for f in trends.regressions(GROUP, by_id)}
    expected: dict[tuple[str, str], str | None] = {}
    for i in range(1, len(verdicts)):
        if verdicts[i - 1] is P and verdicts[i] is F:
            mended = [j for j in range(i + 1, len(verdicts)) if verdicts[j] is P]
            expected[f"run-{i - 1:03}", f"run-{i:03}"] = f"run-{mended[0]:03}" if mended else None
    assert found == expected


@pytest.mark.parametrize(
    ("verdicts", "commits", "flips"),
    [
        ([P, P, P], "aaa", None),
        ([P, F, F], "abc", None),
        ([P, F, P], "abc", 2),
        ([P, V, F, V, P, I], "abcdef", 3),
        ([P, V, P], "aaa", None),
        ([P, F], "aa", 1),
        ([P, I], "aa", 1),
    ],
)
def test_flaky_is_what_flips_or_disagrees_on_one_commit(
    verdicts: list[Verdict], commits: str, flips: int | None
) -> None:
    found = trends.flaky(GROUP, {"X-1": points([1.0] * len(verdicts), verdicts, list(commits))})
    assert [f.flips for f in found] == ([] if flips is None else [flips])


@pytest.mark.parametrize(
    ("value", "target", "direction", "left"),
    [
        (25, 100, Direction.BELOW, 0.75),
        (150, 100, Direction.AT_MOST, -0.5),
        (120, 100, Direction.AT_LEAST, 0.2),
        (100, 100, Direction.EXACTLY, None),
        (None, 100, Direction.BELOW, None),
        (1, 0, Direction.AT_MOST, None),
    ],
)
def test_headroom(value: float | None, target: float, direction: Direction, left: float | None) -> None:
    assert trends.headroom(value, target, direction) == (None if left is None else pytest.approx(left))


@given(
    st.floats(-0.5, 2),
    st.floats(0.001, 1000),
    st.lists(st.integers(2, 10_000), min_size=2, max_size=6, unique=True),
)
def test_growth_finds_the_power_that_made_the_figures(power: float, scale: float, sizes: list[int]) -> None:
    lines = [
        capacity._Line(
            bench="scale", measure=f"{n:,} agents: publication p99", unit="ms", ours=scale * n**power
        )
        for n in sizes
    ]
    (found,) = capacity.growths(lines)
    assert found.exponent == pytest.approx(power, abs=1e-6)
    assert [n for n, _ in found.points] == sorted(sizes)


def test_growth_says_where_the_target_is_met() -> None:
    growth = Growth("publication p99", "us", ((100, 1000.0), (1000, 10_000.0)), 1.0)
    (criterion,) = [p.record for p in points([1.0], target=100.0)]
    (told,) = capacity.with_limits([growth], [replace(criterion, id="SD-4")])
    assert told.limit == 100_000
    assert told.reaches == pytest.approx(10_000)
    assert told.headroom == pytest.approx(0.9)
    (far,) = capacity.with_limits([replace(growth, exponent=0.06)], [replace(criterion, id="SD-4")])
    assert far.reaches is None, "an extrapolation that far says nothing"
    (free,) = capacity.with_limits([growth], [])
    assert free.limit is None


@pytest.mark.parametrize("content", [b"{", b'{"bench": "scale"}', b"\xff"])
def test_a_spoilt_benchmark_file_is_named_with_its_line(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "latest.jsonl"
    good = {"bench": "scale", "measure": "77 agents: publication p99", "unit": "ms", "ours": 1.0}
    path.write_bytes(json.dumps(good).encode() + b"\n" + content)
    with pytest.raises(RunError, match=r"latest.jsonl:2"):
        capacity.read_scale(path)


def test_days_of_what_is_no_time() -> None:
    assert math.isnan(trends.days("yesterday"))
    assert trends.days("1970-01-02T12:00:00Z") == 1.5
