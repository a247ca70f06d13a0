"""`junit.xml` for the viewers of build servers: criteria as test cases, skipped where not measured."""

from __future__ import annotations

import re
from datetime import datetime
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from reports import figures, grading, scenario_views, words
from reports.model import Criterion, Report, Verdict

_FORBIDDEN = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def render(report: Report) -> bytes:
    """One suite per category; fails and voids are failures, undecided ones too: a build must not go green."""
    root = Element("testsuites", name=_clean(f"threenines {report.run.profile}"))
    totals = [0, 0, 0]
    for category in report.categories:
        mine = [c for c in report.criteria if c.category == category.id]
        suite = SubElement(root, "testsuite", name=_clean(category.title))
        counts = [len(mine), 0, 0]
        for criterion in mine:
            outcome = _case(suite, criterion)
            counts[1] += outcome == "failure"
            counts[2] += outcome == "skipped"
        _count(suite, counts)
        suite.set("time", _seconds(sum(c.duration_s or 0 for c in mine)))
        if report.run.started:
            suite.set("timestamp", _clean(report.run.started.removesuffix("Z")))
        totals = [a + b for a, b in zip(totals, counts, strict=True)]
    more = scenario_views.junit(root, report.scenarios, report.left_out, _clean)
    totals = [a + b for a, b in zip(totals, more, strict=True)]
    if report.verdict is not Verdict.PASS and totals[1] == 0:
        # Nothing failed by itself, yet the gate does not pass (cut short, other plan, nothing planned).
        suite = SubElement(root, "testsuite", name="Gate")
        case = SubElement(suite, "testcase", name=_clean(words.answer(report).headline), classname="gate")
        SubElement(case, "failure", message=_clean(report.reason), type=report.verdict.value)
        _count(suite, [1, 1, 0])
        totals[0] += 1
        totals[1] += 1
    _count(root, totals)
    root.set("time", _seconds(_elapsed(report)))
    indent(root)
    body: bytes = tostring(root, encoding="utf-8", xml_declaration=True)
    return body + b"\n"


def _case(suite: Element, criterion: Criterion) -> str:
    case = SubElement(
        suite,
        "testcase",
        name=_clean(f"{criterion.id} {criterion.title}"),
        classname=_clean(criterion.category),
        time=_seconds(criterion.duration_s or 0),
    )
    if criterion.verdict is Verdict.NOT_MEASURED and not criterion.planned:
        SubElement(case, "skipped", message=_clean(f"not measured: {words.why(criterion)}"))
        return "skipped"
    text = _clean("\n".join(_lines(criterion)))
    if grading.passes(criterion):
        SubElement(case, "system-out").text = text
        return "passed"
    if not criterion.planned and criterion.verdict is not Verdict.FAIL:
        SubElement(case, "skipped", message=_clean(f"{criterion.verdict.value}: {words.why(criterion)}"))
        return "skipped"
    message = _clean(f"{criterion.verdict.value}: {words.why(criterion)}")
    SubElement(case, "failure", message=message, type=criterion.verdict.value).text = text
    return "failure"


def _lines(criterion: Criterion) -> list[str]:
    lines = [
        f"claim: {criterion.claim}",
        f"target: {figures.target(criterion)}",
        f"{criterion.statistic or 'estimate'}: {figures.quantity(criterion.estimate, criterion.unit)}",
        f"bound: {figures.quantity(criterion.bound, criterion.unit)}"
        f" (one-sided, confidence {figures.share(criterion.confidence)})",
        f"trials: {figures.count(criterion.n)}, exceedances: {figures.count(criterion.exceedances)}",
        f"evidence: {criterion.evidence.value}",
    ]
    if criterion.remedy:
        lines.append(f"remedy: {criterion.remedy}")
    return lines


def _count(element: Element, counts: list[int]) -> None:
    for name, value in zip(("tests", "failures", "skipped"), counts, strict=True):
        element.set(name, str(value))
    element.set("errors", "0")


def _elapsed(report: Report) -> float:
    if report.run.ended is None:
        return 0.0
    try:
        span = datetime.fromisoformat(report.run.ended) - datetime.fromisoformat(report.run.started)
    except (ValueError, TypeError):
        return 0.0
    return span.total_seconds()


def _seconds(value: float) -> str:
    return f"{value:.3f}"


def _clean(text: str) -> str:
    """XML 1.0 has no way to carry control characters: they become U+FFFD."""
    return _FORBIDDEN.sub("\ufffd", text)
