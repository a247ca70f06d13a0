"""`threenines report`: judge and render a stored run again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reports import store

EXAMPLES = (
    "threenines report                     the newest run",
    "threenines report 2026-01-31T1200-quick",
    "threenines report some/folder --no-judge",
    "threenines report latest --json | jq .verdict",
)


def _complete(incomplete: str) -> list[str]:
    return [
        name for name in (store.LATEST, *store.run_ids(store.default_out())) if name.startswith(incomplete)
    ]


def report(
    run: Annotated[
        str,
        typer.Argument(help="A run's id, its folder, or latest.", metavar="RUN", autocompletion=_complete),
    ] = store.LATEST,
    judge: Annotated[
        bool, typer.Option("--judge/--no-judge", help="Judge the raw history again before rendering.")
    ] = True,
    json: Annotated[bool, typer.Option("--json", help="Print report.json instead of a summary.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where the runs are, if not in reports/out.", show_default=False)
    ] = None,
) -> None:
    """Judge and render a stored run again.

    Needs no stack: a run's plan and raw history are enough. Writes report.html, report.md, report.json and
    junit.xml into the run's folder. The same history gives the same bytes. Exit status: the verdict's.
    """
    folder = store.resolve(run, out if out is not None else store.default_out())
    if judge and (folder / "plan.json").is_file() and not store.is_made_up(folder):
        if (folder / "soak").is_dir():
            from verification.soak_run import judge_folder

            judge_folder(folder)
        else:  # also where no record is left: what was told of them before is no evidence
            from verification.judge import judge_run

            judge_run(folder)
    from reports import assemble, render

    rendered = render.render(folder)
    if json:
        typer.echo((folder / "report.json").read_text(encoding="utf-8"), nl=False)
    else:
        from threenines.show import show_report

        show_report(rendered, folder)
    raise typer.Exit(assemble.exit_status(rendered))
