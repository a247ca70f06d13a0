"""`threenines compare`: two runs side by side."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

from reports import figures, history, store
from reports.model import Report, Verdict
from threenines.errors import FAIL, one_line

EXAMPLES = (
    "threenines compare 2026-01-30T1200-quick latest",
    "threenines compare EARLIER LATER --json",
)


def _complete(incomplete: str) -> list[str]:
    return [
        name for name in (store.LATEST, *store.run_ids(store.default_out())) if name.startswith(incomplete)
    ]


def compare(
    earlier: Annotated[
        str, typer.Argument(help="The run to compare with.", metavar="EARLIER", autocompletion=_complete)
    ],
    later: Annotated[
        str, typer.Argument(help="The run to look at.", metavar="LATER", autocompletion=_complete)
    ] = store.LATEST,
    json: Annotated[bool, typer.Option("--json", help="Print the differences for a script.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the runs, if not reports/out.", show_default=False)
    ] = None,
) -> None:
    """Set two runs side by side.

    Shows every criterion that either run measured. Exit status 1 when something that passed in the earlier
    run fails in the later one, else 0.
    """
    home = out if out is not None else store.default_out()
    before = history.read(store.resolve(earlier, home))
    after = history.read(store.resolve(later, home))
    found = history.compare(before, {c.id: c for c in after.criteria})
    if json:
        document = {
            "earlier": before.run.id,
            "later": after.run.id,
            "regressions": [r.id for r in found.regressions],
            "mended": list(found.mended),
            "criteria": _rows(before, after),
        }
        typer.echo(jsonlib.dumps(document, indent=2))
    else:
        _show(before, after, {r.id for r in found.regressions})
    if found.regressions:
        raise typer.Exit(FAIL)


def _rows(before: Report, after: Report) -> list[dict[str, object]]:
    old = {c.id: c for c in before.criteria}
    rows: list[dict[str, object]] = []
    for now in after.criteria:
        then = old.get(now.id)
        verdicts = {now.verdict, then.verdict if then is not None else Verdict.NOT_MEASURED}
        if verdicts == {Verdict.NOT_MEASURED}:
            continue
        rows.append(
            {
                "id": now.id,
                "title": now.title,
                "unit": now.unit,
                "earlier": {"verdict": then.verdict.value, "estimate": then.estimate, "bound": then.bound}
                if then is not None
                else None,
                "later": {"verdict": now.verdict.value, "estimate": now.estimate, "bound": now.bound},
            }
        )
    return rows


def _show(before: Report, after: Report, regressed: set[str]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from threenines.show import mark

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("criterion")
    for name in (before.run.id, after.run.id):
        table.add_column(one_line(name))
        table.add_column("", justify="right", no_wrap=True)
    old = {c.id: c for c in before.criteria}
    for now in after.criteria:
        then = old.get(now.id)
        earlier = then.verdict if then is not None else Verdict.NOT_MEASURED
        if {earlier, now.verdict} == {Verdict.NOT_MEASURED}:
            continue
        shown = Text(one_line(f"{now.id} {now.title}"), style="bold red" if now.id in regressed else "")
        table.add_row(
            shown,
            mark(earlier),
            figures.quantity(then.estimate if then is not None else None, now.unit),
            mark(now.verdict),
            figures.quantity(now.estimate, now.unit),
        )
    console.print(table)
    told = f"regressed: {', '.join(sorted(regressed))}" if regressed else "nothing regressed"
    console.print(Text(one_line(told), style="bold red" if regressed else "green"))
