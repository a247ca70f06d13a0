"""Scenarios in the gate's answer, in `report.md`, `junit.xml` and `metrics.prom`."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from xml.etree.ElementTree import Element, SubElement

from prometheus_client.core import GaugeMetricFamily, Metric

from reports import figures
from reports.grading import Gate, grade_share
from reports.model import LeftOut, ScenarioResult, Verdict

SUITE = "Scenarios"
_PHASES = ("before", "during", "after")


def with_scenarios(gate: Gate, passed: int, planned: int, scenarios: Sequence[ScenarioResult]) -> Gate:
    """The gate over `planned` criteria, `passed` of which pass, and over the planned scenarios.

    A scenario that fails fails it; one that is not proven leaves it undecided at best.
    """
    if not scenarios or gate.verdict is Verdict.VOID:
        return gate
    counts = Counter(one.verdict for one in scenarios)
    failed, good = counts[Verdict.FAIL], counts[Verdict.PASS]
    share = (passed + good) / (planned + len(scenarios))
    grade = gate.grade if gate.grade is None and planned else grade_share(share, failed=failed > 0)
    told = f"{good} of {figures.plural(len(scenarios), 'scenario')} passed"
    if failed:
        told += f", {failed} failed"
    if gate.verdict is Verdict.FAIL:
        return dataclasses.replace(
            gate, grade=grade_share(share, failed=True), reason=f"{gate.reason}; {told}"
        )
    reason = told if gate.verdict is Verdict.NOT_MEASURED else f"{gate.reason}; {told}"
    if failed:
        return Gate(Verdict.FAIL, grade_share(share, failed=True), reason)
    open_ = good < len(scenarios) or gate.verdict is Verdict.INCONCLUSIVE
    return Gate(Verdict.INCONCLUSIVE if open_ else Verdict.PASS, grade, reason)


def with_left_out(gate: Gate, scenarios: Sequence[ScenarioResult], left_out: Sequence[LeftOut]) -> Gate:
    """The same gate, which names what the plan leaves out: that makes it neither better nor worse."""
    if not left_out or gate.verdict is Verdict.VOID:
        return gate
    return dataclasses.replace(gate, reason=f"{gate.reason}; {missing(scenarios, left_out)}")


def missing(scenarios: Sequence[ScenarioResult], left_out: Sequence[LeftOut]) -> str:
    """How many of all scenarios the plan leaves out, which and why, in words."""
    needed = ", ".join(f"{one.name} needs {' and '.join(one.lacks)}" for one in left_out)
    of = f"{len(left_out)} of {figures.plural(len(scenarios) + len(left_out), 'scenario')} left out"
    return f"{of}: {needed}, which the substrate {left_out[0].substrate} lacks here"


def unexercised(scenarios: Sequence[ScenarioResult], left_out: Sequence[LeftOut]) -> tuple[str, ...]:
    """Rows that only scenarios exercise which are left out."""
    exercised = {row for one in scenarios for row in one.rows}
    rows = dict.fromkeys(row for one in left_out for row in one.rows)
    return tuple(row for row in rows if row not in exercised)


def summary(scenarios: Sequence[ScenarioResult], left_out: Sequence[LeftOut] = ()) -> str:
    """How many passed, failed, were not proven, were not run and were left out, in a sentence or three."""
    counts = Counter(one.verdict for one in scenarios)
    parts = [f"{counts[Verdict.PASS]} passed", f"{counts[Verdict.FAIL]} failed"]
    parts.append(f"{counts[Verdict.INCONCLUSIVE] + counts[Verdict.VOID]} could not be decided")
    parts.append(f"{counts[Verdict.NOT_MEASURED]} were not run")
    told = [f"Of {figures.plural(len(scenarios), 'planned scenario')} {', '.join(parts)}."]
    if left_out:
        told.append(f"{missing(scenarios, left_out)}.")
    if rows := unexercised(scenarios, left_out):
        told.append(f"No planned scenario exercises {', '.join(rows)}.")
    return " ".join(told)


def why(one: ScenarioResult) -> str:
    """Why its verdict is what it is, in one line; empty for a pass."""
    return "; ".join(one.why)


def urgent_first(scenarios: Sequence[ScenarioResult]) -> tuple[ScenarioResult, ...]:
    """Failed, undecided, passed, not run; each in the plan's order."""
    order = (Verdict.FAIL, Verdict.VOID, Verdict.INCONCLUSIVE, Verdict.PASS, Verdict.NOT_MEASURED)
    return tuple(sorted(scenarios, key=lambda one: order.index(one.verdict)))


def markdown(
    scenarios: Sequence[ScenarioResult], left_out: Sequence[LeftOut], escape: Callable[[str], str]
) -> list[str]:
    """Lines of `report.md`; none without scenarios."""
    if not scenarios and not left_out:
        return []
    lines = ["### Scenarios", "", escape(summary(scenarios, left_out)), ""]
    lines += ["| | scenario | rows | before · during · after | why |", "|---|---|---|---|---|"]
    for one in urgent_first(scenarios):
        verdict = f"{figures.SIGNS[one.verdict]} {figures.WORDS[one.verdict].lower()}"
        phases = " · ".join(one.steady(phase).value for phase in _PHASES) if one.looks else figures.DASH
        name = f"{one.name} (simulated)" if one.simulated else one.name
        cells = (verdict, name, ", ".join(one.rows), phases, why(one))
        lines.append(f"| {' | '.join(map(escape, cells))} |")
    for without in left_out:
        cells = ("left out", without.name, figures.DASH, figures.DASH, without.why)
        lines.append(f"| {' | '.join(map(escape, cells))} |")
    return [*lines, ""]


def junit(
    root: Element,
    scenarios: Sequence[ScenarioResult],
    left_out: Sequence[LeftOut],
    clean: Callable[[str], str],
) -> tuple[int, int, int]:
    """Adds a suite; answers with its tests, failures and skipped. What is not proven is a failure too."""
    tests = len(scenarios) + len(left_out)
    if not tests:
        return 0, 0, 0
    suite = SubElement(root, "testsuite", name=SUITE)
    failures, skipped = 0, len(left_out)
    for one in scenarios:
        case = SubElement(
            suite,
            "testcase",
            name=clean(f"{one.name} {one.title}"),
            classname="scenarios",
            time=f"{one.took_s or 0.0:.3f}",
        )
        message = clean(f"{one.verdict.value}: {why(one)}")
        text = clean("\n".join(_lines(one)))
        if one.verdict is Verdict.NOT_MEASURED:
            SubElement(case, "skipped", message=message)
            skipped += 1
        elif one.verdict is Verdict.PASS:
            SubElement(case, "system-out").text = text
        else:
            SubElement(case, "failure", message=message, type=one.verdict.value).text = text
            failures += 1
    for without in left_out:
        name = clean(f"{without.name} {without.title}")
        case = SubElement(suite, "testcase", name=name, classname="scenarios", time="0.000")
        SubElement(case, "skipped", message=clean(f"left out before the first trial: {without.why}"))
    for key, value in (
        ("tests", tests),
        ("failures", failures),
        ("skipped", skipped),
        ("errors", 0),
    ):
        suite.set(key, str(value))
    suite.set("time", f"{sum(one.took_s or 0.0 for one in scenarios):.3f}")
    return tests, failures, skipped


def _lines(one: ScenarioResult) -> Iterator[str]:
    yield f"rows: {', '.join(one.rows)}"
    yield f"expected beforehand: {one.expected}"
    for fault in one.faults:
        proof = "took effect" if fault.proved else "NOT PROVED"
        back = "all as before" if fault.restored else f"NOT AS BEFORE: {fault.trouble}"
        yield f"fault: {fault.fault}: {proof} ({fault.effect}); {fault.lasted_s:.1f} s; {back}"
    for look in one.looks:
        yield f"{look.phase}: {look.what}: {look.verdict.value} {look.seen}".rstrip()


def metrics(
    scenarios: Sequence[ScenarioResult],
    left_out: Sequence[LeftOut],
    scope: list[str],
    labels: list[str],
    at: float,
    codes: dict[Verdict, int],
) -> Iterator[Metric]:
    """Families of `metrics.prom`, each only where there is something to say."""
    labels = [*labels, "scenario"]
    if left_out:
        skipped = GaugeMetricFamily(
            "threenines_scenario_left_out", "1: the stack's hosts cannot run it.", labels=labels
        )
        for without in left_out:
            skipped.add_metric([*scope, without.name], 1, timestamp=at)
        yield skipped
    if not scenarios:
        return
    told = ", ".join(f"{code} {verdict.value}" for verdict, code in codes.items())
    family = GaugeMetricFamily("threenines_scenario_verdict", f"{told}.", labels=labels)
    for one in scenarios:
        family.add_metric([*scope, one.name], codes[one.verdict], timestamp=at)
    yield family
