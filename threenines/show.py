"""A report on the terminal: the answer, what to do, where the pages are. Colours only on a terminal."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reports import figures, words
from reports.model import Report, Verdict
from threenines.errors import one_line

_STYLES = {
    Verdict.PASS: "green",
    Verdict.FAIL: "red",
    Verdict.INCONCLUSIVE: "yellow",
    Verdict.NOT_MEASURED: "dim",
    Verdict.VOID: "yellow",
}


def show_report(report: Report, folder: Path, console: Console | None = None) -> None:
    """Print the planned criteria and the answer of a rendered run."""
    console = console or Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold", show_edge=False)
    for name in ("", "criterion", "measured", "bound", "target", "trials"):
        table.add_column(
            name, justify="left" if name in {"", "criterion"} else "right", no_wrap=name != "criterion"
        )
    for c in report.criteria:
        if not c.planned:
            continue
        table.add_row(
            mark(c.verdict),
            Text(one_line(f"{c.id} {c.title}")),
            Text(figures.quantity(c.estimate, c.unit)),
            Text(figures.quantity(c.bound, c.unit)),
            Text(one_line(figures.target(c))),
            Text(figures.count(c.n)),
        )
    console.print(table)
    console.print()
    for c in words.to_do(report):
        console.print(
            Text.assemble(mark(c.verdict), "  ", one_line(f"{c.id}: {words.why(c)}")), soft_wrap=True
        )
        if c.remedy:
            console.print(Text(one_line(f"→ {c.remedy}")), soft_wrap=True, style="dim")
    for one in report.left_out:
        console.print(Text(one_line(f"left out: {one.name} {one.why}")), soft_wrap=True, style="dim")
    answer = words.answer(report)
    grade = f", grade {report.grade.value}" if report.grade is not None else ""
    head = Text(one_line(f"{answer.headline}{grade}"), style=f"bold {_STYLES[report.verdict]}")
    console.print(Text.assemble(head, one_line(f". {answer.detail} {words.scope(report)}")), soft_wrap=True)
    console.print(Text(one_line(f"Release: {answer.release}. {answer.release_detail}")), soft_wrap=True)
    if report.run.synthetic:
        console.print(Text("Made-up data: a test fixture, not a run.", style="yellow"))
    console.print(Text(_near(folder / "report.html")), soft_wrap=True)


def mark(verdict: Verdict) -> Text:
    """A sign and a word, coloured: never colour alone."""
    return Text(f"{figures.SIGNS[verdict]} {figures.WORDS[verdict].lower()}", style=_STYLES[verdict])


def _near(path: Path) -> str:
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
