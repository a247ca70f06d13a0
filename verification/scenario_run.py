"""A scenario from its file to its report: stand the stack up, load and faults, judge, write.

A run's folder, `reports/out/<when>-<scenario>/`: `planned.yaml`, `scenario.yaml` (as it was run),
`journal.jsonl` (written before anything is judged), `history/load-<host>.jsonl`, `played.json`, `logs/`,
`result.json`, `report.md`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from chaos.explore import with_steps
from chaos.journal import Journal
from chaos.scenario import Scenario, ScenarioError, cells, fits
from chaos.scenario_play import Played, play
from chaos.session import Session
from infra.substrates.base import Substrate
from loadtests.raw import Raw
from loadtests.workload import load_workload
from verification import machine
from verification.deployment import Deployment
from verification.judge import write_file
from verification.links import LoadLink
from verification.progress import Progress
from verification.scenario_folder import PLANNED, judge_folder
from verification.scenario_result import Result, markdown, worst

LONGEST_LOAD_S = 14_400
"""It ends with the harness; after this by itself, whatever became of that. More than any scenario takes."""


@dataclass(frozen=True)
class Wish:
    """What the operator asks for. `seed` None: the scenario's own."""

    out: Path
    seed: int | None = None


def run_scenario(
    scenario: Scenario, wish: Wish, deployment: Deployment, progress: Progress, stop: threading.Event
) -> tuple[Path, tuple[Result, ...]]:
    """Runs it; answers with its folder and a result for each cell of its design (one without a design).

    The stack is left as it was found. Raises ScenarioError before anything is touched, ChaosError, LinkError.
    """
    for one in cells(scenario):
        if one.load is not None:
            load_workload(one.load.workload)
    with deployment.alone():
        substrate = deployment.prepare(progress)
        try:
            return run_on(scenario, wish, deployment, substrate, progress, stop)
        finally:
            deployment.restore(progress)


def run_on(
    scenario: Scenario,
    wish: Wish,
    deployment: Deployment,
    substrate: Substrate,
    progress: Progress,
    stop: threading.Event,
) -> tuple[Path, tuple[Result, ...]]:
    """The same on a stack that stands and that the caller holds alone."""
    folder = fresh_folder(wish.out, scenario.name)
    write_file(folder / PLANNED, msgspec.yaml.encode(scenario))
    parts = cells(scenario)
    results = []
    for part in parts:
        if stop.is_set():
            break
        place = folder if len(parts) == 1 else folder / part.name
        place.mkdir(exist_ok=True)
        progress.phase(part.name, unit="looks")
        results.append(_one(part, wish, deployment, substrate, progress, place, stop))
    if len(parts) > 1:
        write_file(folder / "scenario.yaml", msgspec.yaml.encode(scenario))
        write_file(folder / "report.md", _together(scenario, results).encode())
        write_file(folder / "result.json", msgspec.json.encode(results))
    return folder, tuple(results)


def _one(
    scenario: Scenario,
    wish: Wish,
    deployment: Deployment,
    substrate: Substrate,
    progress: Progress,
    folder: Path,
    stop: threading.Event,
) -> Result:
    started = _now()
    seed = wish.seed if wish.seed is not None else scenario.random.seed if scenario.random else 0
    (folder / "history").mkdir(exist_ok=True)
    environment = deployment.environment
    with (
        _journal(folder) as journal,
        Session.open(
            environment,
            purpose=f"scenario {scenario.name}",
            journal=journal,
            lock=False,
            fleet=deployment.fleet,
        ) as session,
    ):
        scenario = with_steps(scenario, session.stage, seed)
        fits(scenario, session.stage)
        write_file(folder / "scenario.yaml", msgspec.yaml.encode(scenario))
        played = asyncio.run(_loaded(scenario, session, substrate, progress, folder, stop, seed))
    write_file(folder / "played.json", msgspec.json.encode(played))
    found = machine.commit()
    result = msgspec.structs.replace(
        judge_folder(folder),
        seed=seed,
        stack=environment.stack,
        commit=found.sha,
        commit_dirty=found.dirty,
        started=started,
        ended=_now(),
        machine=", ".join(f"{key} {value}" for key, value in machine.machine().items()),
    )
    write_file(folder / "result.json", msgspec.json.format(msgspec.json.encode(result), indent=2))
    write_file(folder / "report.md", markdown(result).encode())
    return result


async def _loaded(
    scenario: Scenario,
    session: Session,
    substrate: Substrate,
    progress: Progress,
    folder: Path,
    stop: threading.Event,
    seed: int,
) -> Played:
    async with contextlib.AsyncExitStack() as stack:
        if scenario.load is not None:
            workload = load_workload(scenario.load.workload)
            hosts = scenario.load.hosts or tuple(host.name for host in session.stage.fleet.workers)

            async def start(host: str) -> None:
                load = await LoadLink.start(
                    substrate,
                    host,
                    workload=workload.name if scenario.load is None else scenario.load.workload,
                    users=workload.users,
                    seed=seed,
                    raw=Raw.FAILURES,
                    run_s=LONGEST_LOAD_S,
                    history=folder / "history" / f"load-{host}.jsonl",
                    log=folder / "logs" / f"load-{host}.log",
                )
                stack.push_async_callback(load.stop)

            await asyncio.gather(*(start(host) for host in hosts))
        return await asyncio.to_thread(play, scenario, session, stop, progress.tick)


@contextlib.contextmanager
def _journal(folder: Path) -> Iterator[Journal]:
    yield Journal(folder / "journal.jsonl")  # the session closes it


def fresh_folder(out: Path, name: str) -> Path:
    """A new folder for a run. Raises ScenarioError."""
    stem = f"{datetime.now(UTC):%Y-%m-%dT%H%M%SZ}-{name}"
    try:
        out.mkdir(parents=True, exist_ok=True)
        for suffix in ("", *(f"-{number}" for number in range(2, 100))):
            with contextlib.suppress(FileExistsError):
                (out / f"{stem}{suffix}").mkdir()
                return out / f"{stem}{suffix}"
    except OSError as error:
        raise ScenarioError(str(out), f"cannot be written ({error.strerror})", "give another --out") from None
    raise ScenarioError(str(out), f"has too many runs called {stem}", "wait a second")


def _together(scenario: Scenario, results: list[Result]) -> str:
    lines = [f"# {scenario.name}: {worst(tuple(results)).value}", "", scenario.title, ""]
    lines += ["| cell | verdict | why |", "|---|---|---|"]
    lines += [
        f"| [{r.scenario}]({r.scenario}/report.md) | {r.verdict.value} | {'; '.join(r.why)} |"
        for r in results
    ]
    return "\n".join(lines) + "\n"


def _now() -> str:
    return f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}"
