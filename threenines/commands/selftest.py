"""`threenines selftest`: the judge judged on systems whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from reports.model import SelfTest

EXAMPLES = (
    "threenines selftest                     2,000 runs of each system, some minutes",
    "threenines selftest --runs 200          a quick look: too few to prove anything",
    "threenines selftest --json | jq '.rates[] | select(.holds == false)'",
)


def selftest(
    runs: Annotated[int, typer.Option(help="Synthetic runs of each system.", min=1)] = 2000,
    seed: Annotated[int, typer.Option(help="Seed of the synthetic systems.", min=0)] = 1,
    json: Annotated[bool, typer.Option("--json", help="Print selftest.json instead of a table.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where selftest.json goes, if not in reports/out.", show_default=False)
    ] = None,
) -> None:
    """Judge the judge.

    Synthetic systems that truly keep a target, or truly break it, go through the pipeline that judges real
    runs: false passes and false fails are counted and held against what the plans claim. Naive judges see the
    same data. Exit status: 0 the claims hold, 1 the upper 95 % bound of a false-pass rate is above its claim.
    """
    from datetime import UTC, datetime

    from reports import store
    from reports.model import Verdict, encode
    from verification import machine
    from verification import selftest as judged
    from verification.judge import write_file

    def tell(case: judged.Case, count: int) -> None:
        typer.echo(f"{case.estimator}: {case.system}, {count:,} runs", err=True)

    result = judged.run(
        runs,
        seed,
        created=f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}",
        commit=machine.commit().sha,
        tell=tell,
    )
    folder = (out if out is not None else store.default_out()).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    encoded = encode(result)
    write_file(folder / judged.FILE, encoded)
    if json:
        typer.echo(encoded.decode(), nl=False)
    else:
        _print_table(result)
    raise typer.Exit(0 if result.verdict is Verdict.PASS else 1)


def _print_table(result: SelfTest) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in ("system", "truth", "judge", "wrong", "95 % bound", "claimed", "undecided", ""):
        table.add_column(name, justify="left" if name in {"system", "truth", "judge", ""} else "right")
    for rate in result.rates:
        ours = rate.limit is not None
        table.add_row(
            rate.system if ours else "",
            ("keeps" if rate.keeps_target else "breaks") if ours else "",
            rate.judge,
            f"{100 * rate.error:.2f} %",
            f"{100 * rate.high:.2f} %",
            f"{100 * rate.limit:g} %" if rate.limit is not None else "",
            f"{100 * rate.undecided / rate.runs:.0f} %",
            {True: "holds", False: "BROKEN", None: ""}[rate.holds],
            style=None if ours else "dim",
        )
    console.print(table)
    console.print(
        f"{result.runs:,} runs of each system, seed {result.seed}: "
        + ("every claim holds" if result.detail is None else f"not shown for {result.detail}"),
        markup=False,
    )
