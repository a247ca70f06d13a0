"""`threenines chaos`: what can be broken, and breaking it under guard."""

from __future__ import annotations

import json as json_
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from chaos.scenario import Scenario
    from chaos.session import Outcome

EXAMPLES = (
    "threenines chaos list",
    "threenines chaos show link-latency",
    "threenines chaos run kill-mainpc          a scenario: load, faults, looks, a report",
    "threenines chaos explore --seed 7 --budget 5m",
    "threenines chaos run link-latency host=mainpc to=gateway-pc2 latency=200ms --duration 10s",
    "threenines chaos export kill-mainpc > experiment.json",
    "threenines chaos run experiment.json      one of Chaos Toolkit's",
    "threenines chaos run process-kill target=agent/asr-0",
    "threenines chaos run host-freeze host=pc2 --duration 5s",
    "threenines chaos panic                heal everything now",
)

app = typer.Typer(no_args_is_help=True, rich_markup_mode="rich", help="Break things on purpose, under guard.")

Stack = Annotated[str, typer.Option(help="The environment: infra/Pulumi.STACK.yaml.")]
Json = Annotated[bool, typer.Option("--json", help="Print it for a script.")]
Keep = Annotated[bool, typer.Option("--keep", help="Leave up what this brings up.")]
Out = Annotated[
    Path | None, typer.Option(help="Where runs are kept, if not in reports/out.", show_default=False)
]


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
    """Say what a fault does, which parameters it takes, its proof and its undo; or what a scenario is."""
    from chaos import presentation, scenario, scenario_listing

    if name in scenario.shipped() or name.endswith((".yaml", ".yml")):
        found = scenario.load_scenario(name)
        typer.echo(scenario_listing.shown_json(found) if json else scenario_listing.shown(found))
        return
    typer.echo(presentation.shown_json(name) if json else presentation.shown(name))


@app.command()
def run(
    name: Annotated[str, typer.Argument(help="A fault, a scenario, or a file with one.")],
    parameters: Annotated[list[str] | None, typer.Argument(help="key=value …")] = None,
    duration: Annotated[str, typer.Option(help="How long the fault lasts, like 10s or 500ms.")] = "5s",
    stack: Stack = "local",
    json: Json = False,
    keep: Keep = False,
    seed: Annotated[int | None, typer.Option(help="For random faults of a scenario.", min=0)] = None,
    out: Out = None,
) -> None:
    """Run a fault, and prove that it took effect and that all is as before; or a scenario with its report.

    A scenario brings the stack up when it is down, and leaves it as it was. Exit status: 0 it took effect and
    all is as before (a scenario: all that must hold held); 1 something is not; 2 it did not take effect, so
    nothing is proved; 3 it could not be run.
    """
    from chaos import scenario

    if name.endswith(".json"):
        _run_experiment(name, stack, keep=keep, json=json, out=out)
    if name in scenario.shipped() or name.endswith((".yaml", ".yml")):
        _run_scenario(scenario.load_scenario(name), stack, seed, keep=keep, json=json, out=out)
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
def explore(
    seed: Annotated[
        int | None, typer.Option(help="The same seed breaks the same; fresh by default.", min=0)
    ] = None,
    budget: Annotated[str, typer.Option(help="How long, like 5m.")] = "5m",
    stack: Stack = "local",
    json: Json = False,
    keep: Keep = False,
    out: Out = None,
) -> None:
    """Break whatever may be broken, at random; the seed is printed first and replays it."""
    import secrets

    from chaos.explore import exploration
    from chaos.parameters import parse_duration_s

    budget_s = parse_duration_s(budget, "--budget")
    drawn = seed if seed is not None else secrets.randbelow(2**31)
    typer.echo(f"seed {drawn}: threenines chaos explore --seed {drawn} --budget {budget}", err=True)
    _run_scenario(exploration(drawn, budget_s), stack, drawn, keep=keep, json=json, out=out)


@app.command()
def export(
    name: Annotated[str, typer.Argument(help="A scenario, or a file with one.")],
    stack: Stack = "local",
) -> None:
    """Print a scenario as an experiment of Chaos Toolkit."""
    from chaos.scenario import load_scenario
    from chaos.toolkit_export import experiment_of

    typer.echo(json_.dumps(experiment_of(load_scenario(name), stack), indent=2))


@app.command()
def panic(stack: Stack = "local") -> None:
    """Heal everything now: end every fault, whoever began it; a harness that runs loses its lease."""
    from chaos.clearing import panic as heal_everything
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


def _run_scenario(
    scenario: Scenario, stack: str, seed: int | None, *, keep: bool, json: bool, out: Path | None
) -> None:
    from infra.project import deployed_environment
    from reports import store
    from verification import progress
    from verification.deployment import LiveDeployment
    from verification.scenario_result import exit_status, words, worst
    from verification.scenario_run import Wish, run_scenario

    deployment = LiveDeployment(deployed_environment(stack), keep=keep)
    wish = Wish(out=(out if out is not None else store.default_out()).absolute(), seed=seed)
    with _asked_to_stop() as stop:
        telling = progress.choose()
        try:
            folder, results = run_scenario(scenario, wish, deployment, telling, stop)
        finally:
            telling.close()
    if json:
        typer.echo((folder / "result.json").read_text(encoding="utf-8"))
    else:
        for result in results:
            typer.echo(words(result))
        typer.echo(f"report  {folder / 'report.md'}")
    raise typer.Exit(exit_status(worst(results)))


def _run_experiment(name: str, stack: str, *, keep: bool, json: bool, out: Path | None) -> None:
    from chaos.stage import Stage
    from chaos.toolkit_file import check_ours, read_experiment
    from chaos.toolkit_run import Ended, run_experiment
    from infra.project import deployed_environment
    from reports import store
    from verification.deployment import LiveDeployment
    from verification.judge import write_file
    from verification.progress import choose
    from verification.scenario_run import fresh_folder

    experiment, environment = read_experiment(Path(name)), deployed_environment(stack)
    with closing(Stage(environment)) as stage:
        check_ours(experiment, stack, stage)
    for line in experiment.warnings:
        typer.echo(line, err=True)
    deployment, telling = LiveDeployment(environment, keep=keep), choose()
    with closing(telling), deployment.alone():
        deployment.prepare(telling)
        try:
            folder = fresh_folder((out if out is not None else store.default_out()).absolute(), "experiment")
            ended, journal = run_experiment(experiment, stack, folder / "toolkit.log", telling.say)
            told = json_.dumps(journal, indent=2, default=str)
            write_file(folder / "journal.json", told.encode())
        finally:
            deployment.restore(telling)
    if json:
        typer.echo(told)
    else:
        title = journal.get("experiment", {}).get("title", name)
        typer.echo(f"{title}: {ended.value} ({journal.get('status')})")
        typer.echo(f"journal {folder / 'journal.json'}")
    raise typer.Exit({Ended.HELD: 0, Ended.DEVIATED: 1}.get(ended, 2))


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
