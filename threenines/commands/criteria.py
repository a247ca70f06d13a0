"""`threenines criteria`: what must be true, how it is judged, what a profile plans for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from verification.catalogue import Catalogue, CatalogueEntry

EXAMPLES = (
    "threenines criteria",
    "threenines criteria SD-2                    one row with its parts, in full",
    "threenines criteria --profile quick         what that profile plans",
    "threenines criteria --json | jq -r '.criteria[].id'",
)


def criteria(
    row: Annotated[
        str | None, typer.Argument(help="A row or a part of one: SD-2, RL-3.detect.", show_default=False)
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Only what this profile plans.", show_default=False)
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print them for a script.")] = False,
) -> None:
    """List what must be true.

    Every row of the requirements stands here, whether this version can measure it or not.
    """
    from threenines.errors import UserError
    from verification.catalogue import load_catalogue

    catalogue = load_catalogue()
    chosen = tuple(
        entry
        for entry in catalogue.criteria
        if (row is None or row.upper() in {entry.id.upper(), entry.row.upper()})
        and (profile is None or profile in entry.plans)
    )
    if not chosen and row is not None:
        raise UserError(f"criterion {row}", "there is none of that id", "see `threenines criteria`")
    if not chosen:
        known = ", ".join(catalogue.profiles)
        raise UserError(f"profile {profile}", "plans nothing in this version", f"use one of: {known}")
    if json:
        _print_json(chosen)
    elif row is not None:
        _print_full(chosen)
    else:
        _print_table(catalogue, chosen)


def _print_json(chosen: tuple[CatalogueEntry, ...]) -> None:
    import msgspec

    told = {"criteria": [msgspec.to_builtins(entry) for entry in chosen]}
    typer.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())


def _print_full(chosen: tuple[CatalogueEntry, ...]) -> None:
    for entry in chosen:
        typer.echo(f"{entry.id}  {entry.title}")
        typer.echo(f"  claim     {entry.claim}")
        typer.echo(f"  target    {entry.target_text}")
        if entry.stretch_text:
            typer.echo(f"  stretch   {entry.stretch_text}")
        if entry.method:
            typer.echo(f"  method    {entry.method}")
        typer.echo(f"  evidence  {', '.join(kind.value for kind in entry.accepts)}")
        for profile, plan in entry.plans.items():
            sizes = [
                f"n {plan.n:,}" if plan.n else "",
                f"coverage {plan.coverage:g}" if plan.coverage else "",
            ]
            sizes += [f"confidence {plan.confidence:g}" if plan.confidence else ""]
            each = f", each {' and '.join(plan.blocks)}" if plan.blocks else ""
            figures = ", ".join(size for size in sizes if size)
            typer.echo(f"  {profile:<9} {plan.population}" + (f" ({figures}{each})" if figures else each))
        typer.echo(f"  remedy    {entry.remedy}")


def _print_table(catalogue: Catalogue, chosen: tuple[CatalogueEntry, ...]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    for category in catalogue.categories:
        entries = [entry for entry in chosen if entry.category == category.id]
        if not entries:
            continue
        table = Table(
            title=f"{category.title} (threshold {category.threshold:.2f})",
            title_justify="left",
            box=None,
            pad_edge=False,
            header_style="bold",
        )
        for name in ("id", "what must be true", "target", "planned by"):
            table.add_column(name, no_wrap=name == "id", overflow="fold")
        for entry in entries:
            table.add_row(entry.id, entry.title, entry.target_text or "", ", ".join(entry.plans) or "-")
        console.print(table, markup=False)
        console.print()
