"""`threenines resolve`: where an agent is served."""

from __future__ import annotations

from typing import Annotated

import typer

from threenines.errors import FAIL, UserError

EXAMPLES = (
    "threenines resolve request-coordinator",
    "threenines resolve request-coordinator --host pc2",
    "threenines resolve request-coordinator --json | jq -r '.instances[0].host'",
)


def resolve(
    name: Annotated[str, typer.Argument(help="The agent.")],
    host: Annotated[str | None, typer.Option(help="Ask this host instead of the first one.")] = None,
    stack: Annotated[str, typer.Option(help="The environment: infra/Pulumi.STACK.yaml.")] = "local",
    json: Annotated[bool, typer.Option("--json", help="Print the whole answer for a script.")] = False,
) -> None:
    """Find where an agent is served, best instance first.

    Exit status 0 when somebody serves it, 1 when it is known and nobody does, or not known at all.
    """
    from urllib.parse import quote

    import msgspec

    from services.registry.model import Resolution
    from threenines.commands._api import ask_hostd, failure_of, print_json

    status, answer, asked = ask_hostd(stack, host, "GET", f"/v1/resolve/{quote(name, safe='')}")
    failure = failure_of(status, answer)
    if failure is not None:
        mend = "see `threenines status --agents` for the names"
        raise UserError(name, f"{failure.message} (says {asked})", mend, exit_status=FAIL)
    found = msgspec.json.decode(answer, type=Resolution)
    if json:
        print_json(answer, compact=True)
    else:
        _show(found, asked)
    if not found.instances:
        raise typer.Exit(FAIL)


def _show(found: object, asked: str) -> None:
    from rich.console import Console
    from rich.table import Table

    from services.registry.model import Resolution

    assert isinstance(found, Resolution)
    console = Console(highlight=False)
    table = Table(
        "host", "state", "role", "way", "incarnation", box=None, header_style="bold", pad_edge=False
    )
    for one in found.instances:
        way = one.transport.value if one.port is None else f"{one.transport.value} port {one.port}"
        table.add_row(one.host, one.state.value, one.role.value, way, str(one.incarnation))
    if found.instances:
        console.print(table)
    else:
        console.print(f"{found.name} is known, and nobody serves it now")
    age = f"confirmed {found.age_ms:,.0f} ms ago" if found.age_ms >= 0 else "not confirmed since its start"
    stale = ", [yellow]stale[/yellow]" if found.stale else ""
    console.print(f"as {asked} sees it: generation {found.generation}, {age}{stale}")
