"""Render a run: read its directory, grade it, write report.json and the views of it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib.resources import files as package_files
from pathlib import Path

import jsonschema
import msgspec
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from reports import (
    annotation,
    assemble,
    figures,
    grading,
    history,
    junit,
    markdown,
    metrics,
    scenario_views,
    store,
    words,
)
from reports.model import Criterion, Report, Series, SeriesFile, Verdict
from reports.store import RunError

RUN_WIDE = "run"


def render(folder: Path) -> Report:
    """Write the reports of the run in `folder` and let `latest` point to the newest run beside it.

    Raises `RunError` for a directory that is missing, cut short, damaged or contradicts itself. The same
    files give the same bytes.
    """
    files = store.load(folder)
    store.check_unique(folder)
    report = assemble.assemble(files, history.previous(files.run, folder.parent))
    encoded = assemble.encode(report)
    validate(encoded, folder / "report.json")
    pages = {
        "report.html": page(report, files.series).encode(),
        "report.md": markdown.render(report).encode(),
        "junit.xml": junit.render(report),
        "metrics.prom": metrics.render(report),
        "annotation.json": annotation.render(report),
    }
    for name, content in pages.items():
        store.write(folder / name, content)
    store.write(folder / "report.json", encoded)
    if store.run_ids(folder.parent)[:1] == [folder.name]:
        store.point_latest(folder)
    return report


def validate(encoded: bytes, where: Path) -> None:
    """Hold `report.json` against the schema that is checked in."""
    problem = jsonschema.exceptions.best_match(_validator().iter_errors(msgspec.json.decode(encoded)))
    if problem is not None:
        place = "/".join(str(p) for p in problem.absolute_path) or "the top"
        raise RunError(
            f"{where}: {place}",
            f"breaks the schema: {problem.message[:200]}",
            "mend verdicts.json",
            exit_status=3,
        )


@cache
def _validator() -> jsonschema.Draft202012Validator:
    text = (package_files("reports") / "schema" / "report.schema.json").read_bytes()
    return jsonschema.Draft202012Validator(msgspec.json.decode(text))


@dataclass(frozen=True)
class Drawn:
    """A drawing with its caption, and what a test says about it."""

    drawing: Markup
    caption: str
    note: str


@dataclass(frozen=True)
class Certificate:
    """A measured criterion with its drawings (SVG that we made ourselves)."""

    criterion: Criterion
    plots: tuple[Drawn, ...]


def page(report: Report, series: SeriesFile | None) -> str:
    """The whole of `report.html`: one file, nothing fetched, no script."""
    by_criterion: dict[str, list[Series]] = {}
    for one in series.series if series is not None else ():
        by_criterion.setdefault(one.criterion, []).append(one)
    template = environment().get_template("report.html.j2")
    return template.render(
        report=report,
        run=report.run,
        answer=words.answer(report),
        scope=words.scope(report),
        todo=words.to_do(report),
        certificates=[
            Certificate(c, _drawn(by_criterion.get(c.id, []), c, f"p{i}"))
            for i, c in enumerate(words.measured(report))
        ],
        unmeasured=words.unmeasured(report),
        run_plots=_drawn(by_criterion.get(RUN_WIDE, []), None, "run"),
        has_series=series is not None,
        scenarios=scenario_views.urgent_first(report.scenarios),
        scenario_summary=scenario_views.summary(report.scenarios, report.left_out),
        title=words.title_of(report),
    )


def _drawn(series: list[Series], criterion: Criterion | None, prefix: str) -> tuple[Drawn, ...]:
    if not series:
        return ()
    from reports.plots import draw  # matplotlib: half a second, and only needed where there are data

    # Markup: `reports.svg` made it and escaped every label in it.
    return tuple(
        Drawn(Markup(p.svg), p.caption, p.note)  # noqa: S704
        for p in draw(series, criterion, prefix)
    )


def _shown(value: object) -> object:
    return figures.printable(value) if isinstance(value, str) and not isinstance(value, Markup) else value


@cache
def environment() -> Environment:
    """The templates with all their filters: every value is escaped, whatever a run names stays text."""
    found = Environment(
        loader=PackageLoader("reports", "templates"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=_shown,
    )
    found.filters.update(
        quantity=figures.quantity,
        share=figures.share,
        count=figures.count,
        number=figures.number,
        age=figures.age,
        moment=figures.moment,
        target=figures.target,
        plural=figures.plural,
        why=words.why,
        sentence=words.sentence,
        anchor=lambda identifier: "c-" + "".join(c if c.isalnum() else "-" for c in identifier.lower()),
    )
    found.globals.update(
        words=figures.WORDS, lasted=figures.lasted, Verdict=Verdict, dash=figures.DASH, passes=grading.passes
    )
    return found
