"""`threenines chaos`: what can be broken, and breaking it under guard."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from chaos.session import Outcome

EXAMPLES = (
    "threenines chaos list",
    "threenines chaos show link-latency",
    "threenines chaos run link-latency host=mainpc to=gateway-pc2 latency=200ms --duration 10s",
    "threenines chaos run process-kill target=agent/asr-0",
    "threenines chaos run host-freeze host=pc2 --duration 5s",
    "threenines chaos panic                heal everything now",
)

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Break things on purpose, under guard.")

Stack = Annotated[str, typer.Option(help="The environment: infra/Pulumi.STACK.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print it for a script.")]


@app.command("list")
def list_(json: Json = False) -> None:
    """Say which faults and scenarios there are."""
    from chaos import presentation

    typer.echo(presentation.listing_json() if json else presentation.listing())


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A fault or a scenario.")],
    json: Json = False,
) -> None:
    """Say what a fault does, which parameters it takes, how it is proved and undone."""
    from chaos import presentation

    typer.echo(presentation.shown_json(name) if json else presentation.shown(name))


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="A fault, a scenario, or a file with one.")],
    parameters: Annotated[list[str] | None, typer.Argument(help="key=value …")] = None,
    duration: Annotated[str, typer.Option(help="How long the fault lasts, like 10s or 500ms.")] = "5s",
    stack: Stack = "local",
    json: Json = False,
) -> None:
    """Run a fault, and prove that it took effect and that all is as before.

    Exit status: 0 it took effect and all is as before; 1 something is not as before; 2 it did not take
    effect, so nothing is proved; 3 it could not be run.
    """
    from chaos import presentation
    from chaos.parameters import make_fault, parse_duration_s, parse_words
    from chaos.session import Session
    from infra import environment

    fault = make_fault(name, parse_words(parameters or [], name))
    duration_s = parse_duration_s(duration, "--duration")
    with _asked_to_stop() as stop, Session.open(environment.load_environment(stack)) as session:
        for line in session.swept:
            typer.echo(f"swept     {line}", err=True)
        if not json:
            typer.echo(f"fault     {fault}")
        outcome = session.run(fault, duration_s, stop)
    typer.echo(presentation.outcome_json(outcome) if json else presentation.outcome(outcome))
    raise typer.Exit(_status(outcome))


@app.command()
def panic(stack: Stack = "local") -> None:
    """Heal everything now: end every fault, whoever began it; a harness that runs loses its lease."""
    from chaos.session import panic as heal_everything
    from chaos.stage import Stage
    from infra.environment import load_environment

    stage = Stage(load_environment(stack))
    try:
        found = heal_everything(stage)
    finally:
        stage.close()
    for line in found:
        typer.echo(line)
    typer.echo(f"{len(found)} things healed" if found else "nothing to heal")


@contextmanager
def _asked_to_stop() -> Iterator[threading.Event]:
    """Set by Ctrl-C, a closed terminal or SIGTERM: the fault ends in order, before its time."""
    stop = threading.Event()
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _status(outcome: Outcome) -> int:
    from threenines.errors import FAIL, NOT_PROVEN, PASS

    if not outcome.whole:
        return FAIL
    return NOT_PROVEN if outcome.void else PASS
