"""`threenines doctor`: what is there, what is missing, and how to get it."""

from __future__ import annotations

import dataclasses
import json as jsonlib
from typing import Annotated

import typer

from infra.tools.inventory import Inventory, Level, take_inventory
from infra.tools.layout import Layout
from infra.tools.paths import PROJECT_ROOT

EXAMPLES = ("threenines doctor", "threenines doctor --json")

EXIT_MISSING = 3


def doctor(
    json: Annotated[bool, typer.Option("--json", help="Print the facts for a script.")] = False,
) -> None:
    """Say which tools are there, which are missing, and how to get them.

    Exit status 0 when everything that is required is there, 3 when something is missing.
    """
    inventory = take_inventory(Layout(PROJECT_ROOT))
    if json:
        typer.echo(jsonlib.dumps(as_document(inventory), indent=2))
    else:
        _show(inventory)
    if not inventory.complete:
        raise typer.Exit(EXIT_MISSING)


def as_document(inventory: Inventory) -> dict[str, object]:
    """The inventory as it is printed for scripts."""
    return {
        "ok": inventory.complete,
        "tools": [dataclasses.asdict(tool) for tool in inventory.tools],
        "machine": [dataclasses.asdict(ability) for ability in inventory.abilities],
    }


def _show(inventory: Inventory) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    tools = Table("", "tool", "version", "wanted", "from", box=None, header_style="bold", pad_edge=False)
    for tool in inventory.tools:
        mark = (
            "[green]ok[/green]"
            if tool.ok
            else "[red]missing[/red]"
            if tool.found is None
            else "[red]unfit[/red]"
        )
        tools.add_row(mark, tool.name, tool.found or "-", tool.wanted, tool.source)
    machine = Table("", "machine", "found", box=None, header_style="bold", pad_edge=False)
    for ability in inventory.abilities:
        lesser = "[red]no[/red]" if ability.level is Level.REQUIRED else "[yellow]less[/yellow]"
        machine.add_row("[green]ok[/green]" if ability.ok else lesser, ability.name, ability.found)
    console.print(tools)
    console.print()
    console.print(machine)
    mends = [*(f"{t.name}: {t.mend}" for t in inventory.tools if t.mend)]
    mends += [f"{a.name}: {a.mend}" for a in inventory.abilities if a.mend]
    if mends:
        console.print()
        for mend in mends:
            console.print(mend, markup=False)
