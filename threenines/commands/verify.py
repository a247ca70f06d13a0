"""`threenines verify`: measure a stack against its criteria and write the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from threenines.errors import UserError

if TYPE_CHECKING:
    from verification.deployment import Deployment
    from verification.runner import Request

EXAMPLES = (
    "threenines verify --profile quick         minutes; brings the stack up and down again",
    "threenines verify --keep                  leave the stack up afterwards",
    "threenines verify --seed 42               the same plan again",
    "threenines verify --profile host-losses   half an hour; losses of hosts alone, for their p99",
    "threenines verify --profile nightly --budget 90m",
    "threenines verify --profile nightly --resume latest     go on where a night was stopped",
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
    budget: Annotated[
        str | None,
        typer.Option(help="Of profile nightly: how long it takes, like 90m.", show_default="90m"),
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(
            help="Of profile nightly: the run to go on with (its id, folder, or latest).", show_default=False
        ),
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print report.json instead of a summary.")] = False,
    out: Annotated[
        Path | None, typer.Option(help="Where runs are kept, if not in reports/out.", show_default=False)
    ] = None,
) -> None:
    """Measure a stack against its criteria and write the report.

    A stack that is up is measured and left up; else it is brought up for the run and taken down after it. The
    plan is fixed and hashed before the first trial, the raw history is kept. Profile nightly also runs the
    scenarios of faults, the most informative first, as far as its budget goes. Exit status: 0 all that the
    profile plans passes, 1 something fails, 2 something is not proven, 3 and up the harness broke.
    """
    from infra.environment import load_environment
    from infra.project import deployed_environment
    from reports import assemble, render, store
    from verification import nightly, progress, runner
    from verification.deployment import LiveDeployment

    night = profile in nightly.PROFILES
    for option, given in (("--budget", budget), ("--resume", resume)):
        if given is not None and not night:
            raise UserError(option, f"profile {profile} has none", f"add --profile {nightly.PROFILES[0]}")
    environment = load_environment(stack, fleet=fleet) if fleet is not None else deployed_environment(stack)
    deployment = LiveDeployment(environment, keep=keep)
    place = (out if out is not None else store.default_out()).absolute()
    request = runner.Request(profile=profile, out=place, seed=seed)
    if night:
        folder = _night(request, budget, resume, deployment)
    else:
        folder = runner.run(request, deployment, progress.choose())
    rendered = render.render(folder)
    if json:
        typer.echo((folder / "report.json").read_text(encoding="utf-8"), nl=False)
    else:
        from threenines.show import show_report

        show_report(rendered, folder)
    raise typer.Exit(assemble.exit_status(rendered))


def _night(request: Request, budget: str | None, resume: str | None, deployment: Deployment) -> Path:
    from chaos.parameters import parse_duration_s
    from chaos.scenario import load_scenario, shipped
    from reports import history, store
    from verification import nightly, progress

    wish = nightly.NightRequest(
        request=request,
        scenarios=tuple(load_scenario(name) for name in shipped()),
        budget_s=nightly.DEFAULT_BUDGET_S if budget is None else parse_duration_s(budget, "--budget"),
        earlier=() if resume is not None else tuple(history.reports_in(request.out)),
    )
    if resume is None:
        return nightly.run_night(wish, deployment, progress.choose())
    if request.seed is not None:
        raise UserError("--seed", "a run that goes on has its seed", "leave out --seed")
    latest = resume == store.LATEST
    path = nightly.newest(request.out) if latest else store.resolve(resume, request.out)
    return nightly.resume_night(path, wish, deployment, progress.choose())
