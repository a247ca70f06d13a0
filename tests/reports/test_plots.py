"""Drawings: every shape of data gives a well-formed SVG, the same each time, coloured by the page."""

from __future__ import annotations

import math
import re
from itertools import pairwise
from xml.etree import ElementTree

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reports.model import (
    Criterion,
    Direction,
    Gap,
    Line,
    Lines,
    Mark,
    OutageEpisode,
    Outages,
    Phase,
    Quantiles,
    RunOrder,
    Samples,
    Series,
    TimeLine,
)
from reports.plots import _edges, _thin, draw
from reports.strips import merged
from tests.reports.synthetic import HOSTILE

CRITERION = Criterion(
    id="RL-3",
    title="t",
    category="c",
    claim="x",
    unit="ms",
    target=2000,
    direction=Direction.BELOW,
    estimate=80,
    bound=95,
    confidence=0.95,
    statistic="p95",
    exceedances=0,
)


def samples(*values: float | None, **more: object) -> Samples:
    return Samples(criterion="RL-3", title="t", unit="ms", values=values, **more)  # type: ignore[arg-type]


SERIES: dict[str, Series] = {
    "one value": samples(5.0),
    "all the same": samples(5.0, 5.0, 5.0),
    "zeros": samples(0.0, 0.0),
    "negative": samples(-1.0, 3.0),
    "all timed out": samples(None, None),
    "some timed out": samples(1.0, None, 3000.0),
    "groups": samples(1.0, 2.0, 3.0, groups=("a", "b", "a")),
    "more groups than markers": samples(*map(float, range(1, 9)), groups=tuple("abcdefgh")),
    "groups of another length": samples(1.0, 2.0, groups=("a",)),
    "wide": samples(1e-6, 1e9),
    "logarithm asked of zero": samples(0.0, 1.0, log=True),
    "many": samples(*(float(i % 97) + 0.5 for i in range(5000))),
    "hostile": Samples(
        criterion="x", title=HOSTILE, unit="ms", values=(1.0, 2.0), groups=(HOSTILE, "_hidden")
    ),
    "curve": Quantiles(
        criterion="x", title="q", unit="ms", quantiles=(0.0, 0.5, 0.99, 1.0), values=(1, 2, 3, 4), count=9
    ),
    "flat curve": Quantiles(criterion="x", title="q", unit="%", quantiles=(0.5, 1.0), values=(0, 0), count=2),
    "time line": TimeLine(
        criterion="x",
        title="t",
        phases=(Phase(name="detected", start_ms=0, end_ms=61), Phase(name=HOSTILE, start_ms=61, end_ms=61)),
        marks=(Mark(name="SIGKILL", at_ms=-0.2), Mark(name="late", at_ms=90)),
    ),
    "instant time line": TimeLine(criterion="x", title="t", phases=(Phase(name="p", start_ms=0, end_ms=0),)),
    "time line with targets": TimeLine(
        criterion="x",
        title="t",
        phases=(
            Phase(name="detect", start_ms=0, end_ms=61, target_ms=50),
            Phase(name="validate", start_ms=400, end_ms=900, target_ms=5000),
        ),
    ),
    "no outage": Outages(criterion="x", title="t", watched_s=100, budget_s=1),
    "outages": Outages(
        criterion="x",
        title="t",
        watched_s=604800,
        episodes=tuple(
            OutageEpisode(start_s=i * 300.0, length_s=0.2, cause=HOSTILE, planned=i % 2 > 0)
            for i in range(2000)
        ),
        gaps=(Gap(start_s=50, length_s=20, reason="stopped"),),
    ),
    "lines": Lines(
        criterion="x",
        title="t",
        unit="calls/s",
        at_s=(0.0, 1.0, 2.0),
        lines=(Line(name="a", values=(1.0, None, 3.0)), Line(name="short", values=(1.0,))),
        marks=(Mark(name="fault", at_ms=1500),),
    ),
    "lines of nothing": Lines(
        criterion="x", title="t", unit="s", at_s=(0.0,), lines=(Line(name="a", values=(None,)),)
    ),
}


@pytest.mark.parametrize("series", SERIES.values(), ids=SERIES.keys())
@pytest.mark.parametrize("criterion", [CRITERION, None], ids=["with target", "bare"])
@pytest.mark.filterwarnings("error::UserWarning")
def test_every_shape_of_data_is_drawn(series: Series, criterion: Criterion | None) -> None:
    plots = draw([series], criterion, "p1")
    assert len(plots) == (2 if isinstance(series, Samples) else 1)
    for plot in plots:
        root = ElementTree.fromstring(plot.svg)
        assert root.tag.endswith("svg")
        assert root.get("role") == "img"
        assert root.get("aria-label") == plot.alt
        assert "viewBox" in root.attrib
        assert "<script" not in plot.svg
        assert "<image" not in plot.svg
        used = set(re.findall(r"#[0-9a-f]{6}", plot.svg))
        assert not used, f"colours that are not the page's: {used}"
        ids = re.findall(r'\bid="([^"]+)"', plot.svg)
        assert all(name.startswith("p1-") for name in ids)
        referred = set(re.findall(r'(?:url\(|href=")#([^)"]+)', plot.svg))
        assert referred <= set(ids)


def test_drawings_are_the_same_each_time() -> None:
    data = list(SERIES.values())
    assert draw(data, CRITERION, "p1") == draw(data, CRITERION, "p1")


@pytest.mark.parametrize("series", [samples(), TimeLine(criterion="x", title="t", phases=())])
def test_no_data_no_drawing(series: Series) -> None:
    assert draw([series], CRITERION, "p1") == ()


def test_target_and_bound_are_in_the_drawing_and_in_its_words() -> None:
    for plot in draw([samples(10.0, 20.0, 40.0)], CRITERION, "p1"):
        assert "target &lt; 2 s" in plot.svg
        assert "target < 2 s" in plot.alt
        assert "3 trials: from 10 ms to 40 ms" in plot.alt
    assert "95 % bound 95 ms" in draw([samples(10.0, 20.0, 40.0)], CRITERION, "p1")[0].svg


@pytest.mark.parametrize(("drifts", "says"), [(True, "values drift over the run"), (False, "no drift found")])
def test_what_a_test_for_drift_says_stands_below_the_order_of_the_run(drifts: bool, says: str) -> None:
    test = RunOrder(
        test="Mann-Kendall", statistic=1, p_value=0.00002, alpha=0.01, drifts=drifts, detail="so it is"
    )
    distribution, order = draw([samples(1.0, 2.0, 3.0, run_order=(test,))], CRITERION, "p1")
    assert order.note == f"Mann-Kendall: {says} (p < 0.001, limit 0.01). So it is."
    assert order.note in order.alt
    assert distribution.note == ""


def test_injected_outages_are_shown_and_not_counted() -> None:
    episodes = (
        OutageEpisode(start_s=10, length_s=5, cause="crash (injected)", planned=True),
        OutageEpisode(start_s=20, length_s=2, cause="unknown"),
    )
    (plot,) = draw(
        [Outages(criterion="x", title="t", watched_s=100, episodes=episodes, budget_s=4)], CRITERION, "p1"
    )
    assert "downtime 2 s" in plot.svg
    assert "allowed 4 s" in plot.svg
    assert "1 outage in 100 s, 2 s in all, the longest 2 s (unknown); allowed 4 s; 1 more" in plot.alt


@given(st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 50)), max_size=60), st.integers(1, 40))
def test_merged_bars_cover_every_outage_and_nothing_beyond(drawn: list[tuple[int, int]], least: int) -> None:
    episodes = [OutageEpisode(start_s=s, length_s=n, cause="c") for s, n in drawn]
    bars = merged(episodes, least)
    assert all(a[1] < b[0] for a, b in pairwise(bars)), "in order and apart"
    covered = {t for a, b in bars for t in range(int(a), int(b))}
    assert covered == {t for s, n in drawn for t in range(s, s + max(n, least))}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=4000))
def test_thinning_keeps_the_extremes(values: list[float]) -> None:
    points = list(enumerate(values))
    kept = _thin(points)
    assert len(kept) <= 800
    assert set(kept) <= set(points)
    assert min(v for _, v in kept) == min(values)
    assert max(v for _, v in kept) == max(values)
    assert kept == sorted(kept)


@given(st.lists(st.floats(0.001, 1e6), min_size=1, max_size=200), st.floats(0.001, 1e6), st.booleans())
@example([0.0010000000000000002], 0.001, False)
@example([1.0], 1.0000000000000002, True)
def test_every_trial_is_in_a_bar_that_can_be_seen(values: list[float], target: float, log: bool) -> None:
    shown = [*values, target]
    edges = _edges(np.array(values), shown, log=log)
    assert edges == sorted(edges)
    assert edges[0] <= min(values)
    assert edges[-1] >= max(values)
    counted, _ = np.histogram(values, bins=edges)
    assert counted.sum() == len(values)
    change = math.log10 if log else float
    span = change(max(shown)) - change(min(shown))
    assert all(change(b) - change(a) >= span * 0.0119 for a, b in pairwise(edges) if a > 0 or not log)
