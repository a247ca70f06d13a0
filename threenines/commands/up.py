"""`threenines up`: bring the stack up, or to what the manifest now says."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = (
    "threenines up",
    "threenines up --fleet my-fleet.yaml",
    "threenines up --preview               what would change",
    "cd infra && . ./env.sh && pulumi up   the same, by the engine's own command",
)


def up(
    stack: Annotated[str, typer.Option(help="The environment: infra/Pulumi.STACK.yaml.")] = "local",
    fleet: Annotated[Path | None, typer.Option(help="Another manifest than the stack's.")] = None,
    preview: Annotated[
        bool, typer.Option("--preview", help="Show what would change; change nothing.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print the outcome for a script.")] = False,
) -> None:
    """Bring the stack up, or to what the manifest now says.

    Makes hosts, servers and agents that are missing, replaces those whose description changed, mends what
    has been killed by hand, and leaves the rest alone. Run it as often as you like.
    """
    import msgspec

    from infra import automation
    from infra.environment import load_environment
    from threenines.progress import shown

    environment = load_environment(stack, fleet=fleet)
    with shown("planning" if preview else "starting", quiet=json) as on_event:
        outcome = (
            automation.preview(environment, on_event) if preview else automation.up(environment, on_event)
        )
    if json:
        typer.echo(jsonlib.dumps(msgspec.to_builtins(outcome), indent=2))
        return
    changes = ", ".join(f"{step} {len(names)}" for step, names in outcome.changed.items())
    if isinstance(outcome, automation.PreviewResult):
        typer.echo(f"would change: {changes or 'nothing'} (unchanged {outcome.same})")
        return
    seconds = f"{outcome.duration_s:.1f} s"
    typer.echo(f"{stack} is up: {changes or 'no changes'}, unchanged {outcome.same}, in {seconds}")
    for kind, places in (
        ("host", outcome.hosts),
        ("prometheus", outcome.prometheus),
        ("hostd", outcome.hostd),
    ):
        for host, place in places.items():
            typer.echo(f"  {kind:<11} {host:<9} {place}")
