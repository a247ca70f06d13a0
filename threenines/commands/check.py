"""`threenines check`: is a manifest right?"""

from __future__ import annotations

import json as jsonlib
from collections import Counter
from pathlib import Path
from typing import Annotated

import typer

from infra.topology import Fleet, ManifestUnreadable, Problem, TopologyError, load_fleet
from threenines.errors import FAIL, HARNESS, describe

EXAMPLES = ("threenines check", "threenines check my-fleet.yaml", "threenines check my-fleet.yaml --json")


def check(
    file: Annotated[Path, typer.Argument(help="The manifest.", metavar="[FILE]")] = Path("fleet.yaml"),
    json: Annotated[bool, typer.Option("--json", help="Print the outcome for a script.")] = False,
) -> None:
    """Validate a fleet manifest.

    Prints every problem with its file, line and mend. Exit status 0 when the manifest is valid, 1 when it is
    not, 3 when it cannot be read.
    """
    try:
        fleet = load_fleet(file)
    except TopologyError as error:
        _tell(error.problems, json=json)
        raise typer.Exit(HARNESS if isinstance(error, ManifestUnreadable) else FAIL) from None
    if json:
        summary = {"ok": True, "problems": [], "fleet": _summary(fleet)}
        typer.echo(jsonlib.dumps(summary, indent=2))
        return
    told = _summary(fleet)
    typer.echo(f"{file}: valid: {told['name']}, {len(fleet.agents)} agents on {len(fleet.hosts)} hosts")
    for key in ("homes", "criticality", "categories"):
        counts = told[key]
        assert isinstance(counts, dict)
        typer.echo(f"  {key}: " + ", ".join(f"{name} {count}" for name, count in counts.items()))
    typer.echo(f"  model agents: {told['models']}, commands: {told['commands']}")


def _tell(problems: tuple[Problem, ...], *, json: bool) -> None:
    if json:
        rows = [{"where": p.where, "what": p.what, "mend": p.mend} for p in problems]
        typer.echo(jsonlib.dumps({"ok": False, "problems": rows, "fleet": None}, indent=2))
        return
    for problem in problems:
        typer.echo(describe(problem.where, problem.what, problem.mend), err=True)


def _summary(fleet: Fleet) -> dict[str, object]:
    agents = fleet.agents
    return {
        "name": fleet.name,
        "hosts": {host.name: host.role.value for host in fleet.hosts},
        "agents": len(agents),
        "homes": dict(Counter(agent.home for agent in agents).most_common()),
        "criticality": dict(Counter(agent.criticality.value for agent in agents).most_common()),
        "categories": dict(Counter(agent.category for agent in agents).most_common()),
        "models": sum(agent.model is not None for agent in agents),
        "commands": sum(agent.command is not None for agent in agents),
    }
