"""`threenines verify`: measure a stack against its criteria and write the report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

EXAMPLES = (
    "threenines verify --profile quick         minutes; brings the stack up and down again",
    "threenines verify --keep                  leave the stack up afterwards",
    "threenines verify --seed 42               the same plan again",
    "threenines verify --json | jq .verdict",
)


def verify(
    profile: Annotated[str, typer.Option(help="What to measure, and how thoroughly.")] = "quick",
    stack: Annotated[str, typer.Option(help="The environment: infra/Pulumi.STACK.yaml.")] = "local",
    fleet: Annotated[Path | None, typer.Option(help="Another manifest than the stack's.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of the plan; a fresh one by default.", min=0, show_default=False)
    ] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave up what this brings up.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print report.json instead of a summary.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where runs are kept, if not in reports/out.", show_default=False)
    ] = None,
) -> None:
    """Measure a stack against its criteria and write the report.

    A stack that is up is measured and left up; else it is brought up for the run and taken down after it. The
    plan is fixed and hashed before the first trial, the raw history is kept. Exit status: 0 all that the
    profile plans passes, 1 something fails, 2 something is not proven, 3 and up the harness broke.
    """
    from infra.environment import load_environment
    from infra.project import deployed_environment
    from reports import assemble, render, store
    from verification import progress, runner
    from verification.deployment import LiveDeployment

    environment = load_environment(stack, fleet=fleet) if fleet is not None else deployed_environment(stack)
    deployment = LiveDeployment(environment, keep=keep)
    request = runner.Request(
        profile=profile, out=(out if out is not None else store.default_out()).absolute(), seed=seed
    )
    folder = runner.run(request, deployment, progress.choose())
    rendered = render.render(folder)
    if json:
        typer.echo((folder / "report.json").read_text(encoding="utf-8"), nl=False)
    else:
        from threenines.show import show_report

        show_report(rendered, folder)
    raise typer.Exit(assemble.exit_status(rendered))
