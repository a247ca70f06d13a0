"""`threenines criteria`: what must be true, how it is judged, what a profile plans, how it stands today."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from verification.catalogue import Catalogue, CatalogueEntry
    from verification.standing import Standing

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
    out: Annotated[
        Path | None, typer.Option(help="Where runs are kept, if not in reports/out.", show_default=False)
    ] = None,
) -> None:
    """List what must be true, and how it stands.

    Every row of the requirements stands here, whether this version can measure it or not. How it stands is
    the newest verdict of the stored runs; one whose evidence is too old is marked stale and proves nothing.
    """
    from threenines.errors import UserError
    from verification.catalogue import load_catalogue

    catalogue = load_catalogue()
    chosen = tuple(
        entry
        for entry in catalogue.criteria
        if (row is None or row.upper() in {entry.id.upper(), entry.row.upper()})
        and (profile is None or profile in entry.plans or entry.id in _beyond(profile))
    )
    if not chosen and row is not None:
        raise UserError(f"criterion {row}", "there is none of that id", "see `threenines criteria`")
    if not chosen:
        known = ", ".join((*catalogue.profiles, "soak"))
        raise UserError(f"profile {profile}", "plans nothing in this version", f"use one of: {known}")
    standings = _standings(chosen, out)
    if json:
        _print_json(chosen, standings)
    elif row is not None:
        _print_full(chosen, standings)
    else:
        _print_table(catalogue, chosen, standings)


def _beyond(profile: str) -> tuple[str, ...]:
    """What a profile decides beyond the catalogue's plans."""
    from verification import soak

    return soak.CRITERIA if profile == soak.PROFILE else ()


def _standings(chosen: tuple[CatalogueEntry, ...], out: Path | None) -> dict[str, Standing]:
    from datetime import UTC, datetime

    from reports import history, store
    from verification.standing import standing

    reports = list(history.reports_in(out if out is not None else store.default_out()))
    now = datetime.now(UTC)
    found = {entry.id: standing(entry, reports, now) for entry in chosen}
    return {name: one for name, one in found.items() if one is not None}


def _word(one: Standing | None) -> str:
    if one is None:
        return "-"
    return f"{one.verdict.value}, {one.age_days:.1f} d" + ("" if one.fresh else ", stale")


def _print_json(chosen: tuple[CatalogueEntry, ...], standings: dict[str, Standing]) -> None:
    import msgspec

    told = {
        "criteria": [
            {**msgspec.to_builtins(entry), "standing": msgspec.to_builtins(standings.get(entry.id))}
            for entry in chosen
        ]
    }
    typer.echo(msgspec.json.format(msgspec.json.encode(told), indent=2).decode())


def _print_full(chosen: tuple[CatalogueEntry, ...], standings: dict[str, Standing]) -> None:
    for entry in chosen:
        typer.echo(f"{entry.id}  {entry.title}")
        typer.echo(f"  claim     {entry.claim}")
        typer.echo(f"  target    {entry.target_text}")
        if entry.stretch_text:
            typer.echo(f"  stretch   {entry.stretch_text}")
        if entry.method:
            typer.echo(f"  method    {entry.method}")
        fresh = "" if entry.fresh_for_days is None else f", fresh for {entry.fresh_for_days:g} days"
        typer.echo(f"  evidence  {', '.join(kind.value for kind in entry.accepts)}{fresh}")
        one = standings.get(entry.id)
        run = "" if one is None else f" ({one.evidence.value} by {one.run})"
        typer.echo(f"  standing  {'no stored run measured it' if one is None else _word(one)}{run}")
        for profile, plan in entry.plans.items():
            sizes = [
                f"n {plan.n:,}" if plan.n else "",
                f"coverage {plan.coverage:g}" if plan.coverage else "",
            ]
            sizes += [f"confidence {plan.confidence:g}" if plan.confidence else ""]
            if plan.stages:
                looks = ", ".join(f"{stage.pass_at_most} of {stage.n}" for stage in plan.stages)
                sizes.append(f"passes with {looks}")
            each = f", each {' and '.join(plan.blocks)}" if plan.blocks else ""
            figures = ", ".join(size for size in sizes if size)
            typer.echo(f"  {profile:<9} {plan.population}" + (f" ({figures}{each})" if figures else each))
        typer.echo(f"  remedy    {entry.remedy}")
        if entry.reproduce:
            typer.echo(f"  command   {entry.reproduce}")
        if entry.panel:
            typer.echo(f"  panel     {entry.panel}")


def _print_table(
    catalogue: Catalogue, chosen: tuple[CatalogueEntry, ...], standings: dict[str, Standing]
) -> None:
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
        for name in ("id", "what must be true", "target", "planned by", "standing"):
            table.add_column(name, no_wrap=name == "id", overflow="fold")
        for entry in entries:
            table.add_row(
                entry.id,
                entry.title,
                entry.target_text or "",
                ", ".join(entry.plans) or "-",
                _word(standings.get(entry.id)),
            )
        console.print(table, markup=False)
        console.print()
