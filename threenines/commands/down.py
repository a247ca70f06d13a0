"""`threenines down`: take the stack down and leave nothing behind."""

from __future__ import annotations

from typing import Annotated

import typer

EXAMPLES = ("threenines down", "threenines down --stack staging")


def down(
    stack: Annotated[str, typer.Option(help="The environment: infra/Pulumi.STACK.yaml.")] = "local",
) -> None:
    """Take the stack down and leave nothing behind.

    Ends every process, host and mount of the stack. The state directory stays, with the servers' data, so
    that the next `up` goes on where this one ended. What an earlier crash left is removed as well.
    """
    from infra import automation
    from infra.exclusive import exclusive
    from infra.project import deployed_environment
    from threenines.progress import shown

    environment = deployed_environment(stack)
    with exclusive(environment, "down"), shown("stopping") as on_event:
        leftovers = automation.down(environment, on_event)
    for leftover in leftovers:
        typer.echo(f"  removed what an earlier crash left: {leftover}")
    typer.echo(f"{stack} is down")
