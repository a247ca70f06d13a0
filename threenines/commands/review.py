"""`threenines review`: what a month or a quarter of runs says."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from reports import store

EXAMPLES = (
    "threenines review                       this month",
    "threenines review --month 2026-11",
    "threenines review --quarter             this quarter: capacity, headroom, risks",
    "threenines review --quarter --month 2026-05    the quarter that May is in",
    "threenines review --json | jq -r '.actions[]'",
)


def review(
    month: Annotated[
        str | None,
        typer.Option(help="Another period than the present one: 2026-11, or 2026-Q4.", show_default=False),
    ] = None,
    quarter: Annotated[bool, typer.Option("--quarter", help="Review the quarter instead.")] = False,
    scale: Annotated[
        Path | None,
        typer.Option(
            help="File of the scale benchmark, if not benchmarks/out/latest.jsonl.", show_default=False
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print the review for a script.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where the runs are, if not in reports/out.", show_default=False)
    ] = None,
) -> None:
    """Review a month or a quarter of runs.

    Sets what was measured beside the last accepted run before: trends, regressions, flaky criteria and error
    budgets; a quarter also says how figures grow with the fleet and how much room is left. Writes Markdown
    and HTML into reports/out/reviews. It judges nothing: its exit status is 0 when it could be written.
    """
    from datetime import UTC, datetime

    from reports import review_pages
    from reports.review import Period

    home = out if out is not None else store.default_out()
    period = (
        Period.parse(month, quarterly=quarter)
        if month is not None
        else Period.of(datetime.now(UTC), quarterly=quarter)
    )
    source = scale
    if source is None and period.quarterly:
        usual = home.parent.parent / "benchmarks" / "out" / "latest.jsonl"
        source = usual if usual.is_file() else None
    written = review_pages.write(period, home, source)
    if json:
        import msgspec

        document = msgspec.to_builtins(written.review)
        typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
        return
    found = written.review
    typer.echo(f"{review_pages.title(found)}: {found.answer}.")
    for number, action in enumerate(found.actions, 1):
        typer.echo(f"{number:>3}. {action}.")
    typer.echo(str(written.markdown))
    typer.echo(str(written.html))
