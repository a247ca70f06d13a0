"""`annotation.json`: the run as a mark on Grafana's dashboards.

The body of `POST /api/annotations` of Grafana's HTTP API: times in milliseconds since 1970, tags, a text. It
names no dashboard, so it shows on all that ask for the tag `threenines`.
"""

from __future__ import annotations

import html

import msgspec

from reports import figures, words
from reports.metrics import instant
from reports.model import Report, encode


class Annotation(msgspec.Struct, frozen=True, rename="camel"):
    """Field names are Grafana's."""

    time: int
    time_end: int
    tags: tuple[str, ...]
    text: str


def render(report: Report) -> bytes:
    """The file's bytes."""
    run = report.run
    start = instant(msgspec.structs.replace(run, ended=None))
    end = instant(run)
    answer = words.answer(report)
    grade = f", grade {report.grade.value}" if report.grade is not None else ""
    told = (
        f"{answer.headline}{grade}. {answer.detail} {words.scope(report)} "
        f"Can we release? {answer.release}. Run {run.id}"
    )
    return encode(
        Annotation(
            time=round(start * 1000),
            time_end=round(max(start, end) * 1000),
            tags=(
                "threenines",
                f"profile:{run.profile}",
                f"environment:{run.environment}",
                f"verdict:{report.verdict.value}",
            ),
            # Grafana shows an annotation's text as HTML.
            text=html.escape(figures.printable(told), quote=False),
        )
    )
