"""`threenines soak`: watch a stack for seven days, and say at any moment how it stands."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from reports import store
from reports.model import RunState, Verdict

if TYPE_CHECKING:
    from verification.soak import HostShare
    from verification.soak_run import Graded
    from verification.soak_status import SoakStatus

EXAMPLES = (
    "threenines soak start                    a small program on every host watches from now on",
    "threenines soak status                   day 3.0 of 7: 12.0 s of 604.8 s used",
    "threenines soak status --json | jq .budget",
    "threenines soak report                   the same as a graded report",
    "threenines soak stop                     what was seen stays; start goes on with it",
)

app = typer.Typer(
    no_args_is_help=True,
    rich_markup_mode="rich",
    help="Watch a running stack for seven days: outages, budget, burn rates.",
)

SHOWN = 20

Stack = Annotated[str, typer.Option(help="The environment: infra/Pulumi.STACK.yaml.")]
Out = Annotated[
    Path | None, typer.Option(help="Where runs are kept, if not in reports/out.", show_default=False)
]
Json = Annotated[bool, typer.Option("--json", help="Print it for a script.")]


@app.command()
def start(
    stack: Stack = "local",
    new: Annotated[
        bool, typer.Option("--new", help="Begin another one, though the last is not decided.")
    ] = False,
    json: Json = False,
    out: Out = None,
) -> None:
    """Begin to watch, or go on with a soak that is not decided yet.

    Needs no harness from then on: each host's supervisor keeps the program running and starts it again with
    the host. What nobody watches meanwhile is a gap. After a change of the fleet, start it again.
    """
    import msgspec

    from infra.project import deployed_environment
    from infra.substrates import open_substrate
    from infra.topology import load_fleet
    from verification import soak_run

    environment = deployed_environment(stack)
    fleet = load_fleet(environment.fleet)
    substrate = open_substrate(environment)
    try:
        begun = soak_run.start(environment, fleet, substrate, _home(out), new=new)
    finally:
        substrate.close()
    if json:
        typer.echo(msgspec.json.encode(begun).decode())
        return
    hosts = " and ".join(host.name for host in fleet.workers)
    what = "runs already" if begun.ran else "has begun" if begun.fresh else "goes on"
    typer.echo(f"soak {begun.folder.name} {what} on {hosts}; see it with `threenines soak status`")


@app.command()
def status(stack: Stack = "local", json: Json = False, out: Out = None) -> None:
    """Say how the soak stands.

    Fetches what the hosts have seen and judges it. Exit status: 0 uptime is proven, 1 broken, 2 neither.
    """
    found = _told(_graded(stack, out), json)
    if not json:
        _show(found)
    raise typer.Exit({Verdict.PASS: 0, Verdict.FAIL: 1}.get(found.verdict, 2))


@app.command()
def stop(stack: Stack = "local", json: Json = False, out: Out = None) -> None:
    """End the programs on the hosts; what they saw stays, and `start` goes on with it."""
    found = _told(_graded(stack, out, ending=True), json)
    if not json:
        typer.echo(f"soak {found.soak} does not watch any more ({found.state.value}): {found.reason}")


@app.command()
def report(stack: Stack = "local", json: Json = False, out: Out = None) -> None:
    """Write the soak's graded report, as `threenines report` does for any run. Exit status: the verdict's."""
    from reports import assemble, render

    graded = _graded(stack, out)
    rendered = render.render(graded.folder)
    if json:
        typer.echo((graded.folder / "report.json").read_text(encoding="utf-8"), nl=False)
    else:
        from threenines.show import show_report

        show_report(rendered, graded.folder)
    raise typer.Exit(assemble.exit_status(rendered))


# ------------------------------------------------------------------------------------------------- inner


def _home(out: Path | None) -> Path:
    return (out if out is not None else store.default_out()).absolute()


def _graded(stack: str, out: Path | None, *, ending: bool = False) -> Graded:
    from infra.project import deployed_environment
    from infra.substrates import open_substrate
    from verification import soak_run

    environment = deployed_environment(stack)
    folder = soak_run.find(stack, _home(out))
    if folder is None:
        mend = f"begin one with `threenines soak start --stack {stack}`"
        raise soak_run.SoakError(f"stack {stack}", "there is no soak of it", mend)
    hosts = soak_run.read_plan(folder)[0].hosts
    substrate = open_substrate(environment)
    try:
        return (soak_run.stop if ending else soak_run.grade)(folder, substrate, hosts)
    finally:
        substrate.close()


def _told(graded: Graded, json: bool) -> SoakStatus:
    """The status, printed already where a script wants it."""
    import msgspec

    from verification.soak_status import status_of

    found = status_of(graded)
    if json:
        typer.echo(msgspec.json.format(msgspec.json.encode(found), indent=2).decode())
    return found


def _words(host: HostShare, *, watches: bool) -> str:
    from reports import figures

    cost = "" if host.cpu_share is None else f", {100 * host.cpu_share:.2f} % of a core"
    now = "watches" if watches else "does not watch"
    return (
        f"{host.host}: {now}, {figures.duration(1000 * host.watched_s)} so far;"
        f" {host.lookups:,} look-ups ({host.lookups_failed:,} failed),"
        f" {host.calls:,} calls ({host.calls_failed:,} failed);"
        f" {figures.plural(host.starts, 'start')}{cost}; last look {host.last_look or figures.DASH}"
    )


def _show(found: SoakStatus) -> None:
    from rich.console import Console
    from rich.text import Text

    from reports import figures
    from threenines.errors import one_line
    from threenines.show import mark

    console = Console(highlight=False)
    for one in found.criteria:
        line = Text.assemble(mark(one.verdict), f"  {one.id}  ", one_line(one.reason))
        console.print(line, soft_wrap=True)
    if found.burn_rates:
        burns = (
            f"{figures.duration(1000 * one.window_s)} {one.rate:.2g} (at most {one.threshold:g})"
            + (" ALERT" if one.alerts else "")
            for one in found.burn_rates
        )
        console.print(Text(f"burn rates: {', '.join(burns)}"), soft_wrap=True)
    for host in found.hosts:
        console.print(Text(one_line(_words(host, watches=host.host in found.watching))), soft_wrap=True)
    for title, stretches in (("outages", found.outages), ("gaps", found.gaps)):
        if stretches:
            console.print(f"\n{title} ({len(stretches)}, the longest first)", style="bold")
        for stretch in sorted(stretches, key=lambda one: -one.length_s)[:SHOWN]:
            seen = f" (seen by {' and '.join(stretch.seen_by)})" if stretch.seen_by else ""
            what = f"  {stretch.at}  {figures.duration(1000 * stretch.length_s)}  {stretch.cause}{seen}"
            console.print(Text(one_line(what)), soft_wrap=True)
        if len(stretches) > SHOWN:
            console.print(f"  and {len(stretches) - SHOWN} more; see all with --json")
    for away in found.away:
        console.print(Text(one_line(f"could not be asked: {away}"), style="yellow"), soft_wrap=True)
    if found.state is RunState.RUNNING and len(found.watching) < len(found.hosts):
        console.print("not every host watches; `threenines soak start` mends that", style="yellow")
    over = found.state is RunState.FINISHED and found.watching
    ended = "; nothing more can change it, `threenines soak stop` ends its programs" if over else ""
    console.print(Text(one_line(f"soak {found.soak}: {found.state.value}{ended}")), soft_wrap=True)
