"""`threenines status`: hosts, units and agents."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Annotated

import typer

from threenines.errors import FAIL

if TYPE_CHECKING:
    from rich.table import Table

    from infra.status import StackStatus

EXAMPLES = (
    "threenines status",
    "threenines status --agents            every agent, a line each",
    "threenines status --json | jq '.agents[] | select(.state != \"up\")'",
)

_COLOURS = {"up": "green", "starting": "yellow", "draining": "yellow", "unknown": "yellow"}


def status(
    stack: Annotated[str, typer.Option(help="The environment: infra/Pulumi.STACK.yaml.")] = "local",
    agents: Annotated[bool, typer.Option("--agents", help="List every agent.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print everything for a script.")] = False,
) -> None:
    """Show hosts, units and agents.

    Exit status 0 when everything is up that the manifest wants, 1 when something is not.
    """
    import msgspec

    from infra.project import deployed_environment
    from infra.status import stack_status

    found = stack_status(deployed_environment(stack))
    if json:
        document = {"ok": found.well, **msgspec.to_builtins(found)}
        typer.echo(msgspec.json.format(msgspec.json.encode(document), indent=2).decode())
    elif found.absent:
        typer.echo(f"{stack} is not up; start it with `threenines up`")
    else:
        _show(found, every_agent=agents)
    if not found.well:
        raise typer.Exit(FAIL)


def _show(found: StackStatus, *, every_agent: bool) -> None:
    from rich.console import Console

    console = Console(highlight=False)
    hosts = _table("host", "role", "state", "address")
    for host in found.hosts:
        hosts.add_row(host.name, host.role, _coloured(host.state), host.address or "-")
    units = _table("host", "unit", "state", "")
    for unit in sorted(found.units, key=lambda unit: unit.host):
        units.add_row(unit.host, unit.name, _coloured(unit.state), unit.detail)
    console.print(hosts, "", units, "")
    if every_agent:
        table = _table("agent", "home", "on", "state", "criticality", "category", "starts")
        for line in sorted(found.agents, key=lambda line: (line.home, line.name)):
            starts = "-" if line.incarnation is None else str(line.incarnation)
            on = line.host or "-"
            table.add_row(
                line.name, line.home, on, _coloured(line.state), line.criticality, line.category, starts
            )
        console.print(table, "")
    else:
        ill = [line for line in found.agents if line.state != "up"]
        for line in ill[:20]:
            console.print(f"{line.name} ({line.home}): {_coloured(line.state)}")
        if len(ill) > 20:
            console.print(f"… and {len(ill) - 20} more; see them all with --agents")
    counts = Counter(line.state for line in found.agents)
    told = ", ".join(f"{count} {state}" for state, count in counts.most_common())
    source = f"as {found.agents_from} sees it" if found.agents_from else "no hostd answered"
    stale = ", [yellow]stale: its view of the registry is not fresh[/yellow]" if found.agents_stale else ""
    console.print(f"agents: {told} of {len(found.agents)} ({source}{stale})")


def _table(*columns: str) -> Table:
    from rich.table import Table

    return Table(*columns, box=None, header_style="bold", pad_edge=False)


def _coloured(state: str) -> str:
    colour = _COLOURS.get(state, "red")
    return f"[{colour}]{state}[/{colour}]"
