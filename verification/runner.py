"""A run from its plan to its verdicts.

    fix the plan → stand the stack up → measure → leave the stack as found → judge

Whatever happens on the way, the run's folder says how far it came, no fault and no program of ours stays
behind, and the raw history that was written can be judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import secrets
import signal
from collections import Counter
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from infra.substrates.base import Substrate
from loadtests.raw import Raw
from loadtests.workload import Workload, load_workload
from reports import model
from reports.model import Run, RunState
from verification import machine
from verification.campaigns import discovery, exchange, instruments, monitoring, registration
from verification.campaigns.bench import Bench
from verification.campaigns.faults import Faults
from verification.campaigns.hosts import HostTrials
from verification.campaigns.switches import SwitchOvers
from verification.catalogue import Catalogue, load_catalogue
from verification.deployment import Deployment
from verification.history import Journal
from verification.judge import judge_run, write_file
from verification.links import LoadLink, ProbeLink
from verification.plan import PLAN_FILE, Load, PlanError, RunPlan, make_plan
from verification.progress import Progress

LOAD_LIMIT_S = {"quick": 1200}
"""The load ends by itself after so long, should the harness be killed."""
DEFAULT_LOAD_LIMIT_S = 4 * 3600
RAW_PROFILES = ("quick",)
"""Profiles whose load writes every operation; of the others' load, its seconds and its failures are kept."""
HOST_TIMEOUT_S = 15.0
"""How long a trial on a host waits for what it waits for."""
STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


@dataclass(frozen=True)
class Request:
    """What the operator asks for. `seed` None: a fresh one, told in the report."""

    profile: str
    out: Path
    seed: int | None = None
    workload: str = "reference"
    command: str | None = None


class Interrupted(Exception):
    """The run was stopped from outside; its folder is kept, marked as incomplete."""

    exit_status = 130

    def __init__(self, folder: Path) -> None:
        super().__init__(f"the run in {folder} was interrupted")
        self.folder = folder
        self.where = "verify"
        self.what = f"interrupted; the incomplete run is in {folder}"
        self.mend = "start it again"


def run(
    request: Request, deployment: Deployment, progress: Progress, catalogue: Catalogue | None = None
) -> Path:
    """Runs a profile and judges it; answers with the run's folder.

    Raises PlanError before anything is touched; Interrupted; or what broke the harness, after the stack is
    as it was found and `run.json` says so.
    """
    workload = load_workload(request.workload)
    plan = _plan(request, deployment, catalogue or load_catalogue(), workload)
    with deployment.alone():
        return _run(request, deployment, progress, plan)


def _run(request: Request, deployment: Deployment, progress: Progress, plan: RunPlan) -> Path:
    folder = _Folder.create(request, deployment, plan)
    try:
        with _stopped_by_signals():
            _measured(plan, deployment, folder, progress)
    except (KeyboardInterrupt, asyncio.CancelledError):
        folder.end(RunState.INTERRUPTED, "stopped by a signal")
        raise Interrupted(folder.path) from None
    except Exception as error:
        folder.end(RunState.BROKEN, " ".join(str(error).split())[:500] or type(error).__name__)
        raise
    finally:
        progress.close()
    folder.end(RunState.FINISHED, None)
    judge_run(folder.path)
    return folder.path


def _plan(request: Request, deployment: Deployment, catalogue: Catalogue, workload: Workload) -> RunPlan:
    seed = request.seed if request.seed is not None else secrets.randbelow(2**31)
    plan = make_plan(
        profile=request.profile,
        seed=seed,
        fleet=deployment.fleet,
        catalogue=catalogue,
        load=Load(workload=request.workload, per_s=workload.per_s, users=workload.users),
        created=_now(),
    )
    if plan.faults and not deployment.environment.chaos:
        raise PlanError(
            f"stack {deployment.environment.stack}",
            f"profile {request.profile} injects faults and this stack does not allow them",
            "set threenines:chaos to true in its configuration",
        )
    return plan


def _measured(plan: RunPlan, deployment: Deployment, folder: _Folder, progress: Progress) -> None:
    try:
        substrate = deployment.prepare(progress)
        with asyncio.Runner() as runner:
            runner.run(_cancellable(_measure(plan, substrate, folder, progress)))
    finally:
        with _signals_ignored():
            deployment.restore(progress)


async def _cancellable(work: Coroutine[None, None, None]) -> None:
    """Lets the stopping signals cancel `work` in order: every `finally` of it runs."""
    loop, task = asyncio.get_running_loop(), asyncio.current_task()
    assert task is not None
    for number in STOPPING:
        loop.add_signal_handler(number, task.cancel)
    try:
        await work
    finally:
        for number in STOPPING:
            loop.remove_signal_handler(number)


async def _measure(plan: RunPlan, substrate: Substrate, folder: _Folder, progress: Progress) -> None:
    async with contextlib.AsyncExitStack() as stack:
        bench = await _bench(plan, substrate, folder, progress, stack)
        await discovery.calibrate(bench)
        await instruments.clocks(bench)
        if plan.plans("SD-1"):
            await discovery.census(bench)
        loads = await _start_load(plan, substrate, folder, progress, stack)
        if plan.plans("SD-2"):
            await discovery.warm(bench, plan.rule("SD-2").n or 0)
        if plan.plans("SD-2.cold"):
            rule = plan.rule("SD-2.cold")
            await discovery.cold(bench, rule.n or 0, rule.timeout_s or 5.0)
        if plan.registrations:
            await registration.propagate(bench, plan.rule("SD-4").timeout_s or 5.0)
        if plan.faults:
            await Faults(bench, _fault_timeout_s(plan)).run()
        if plan.plans("OB-1.targets"):
            await monitoring.targets(bench)
        await asyncio.gather(*(load.stop() for load in loads))
        if plan.plans("RK-3"):
            await exchange.signs_of_life(bench, plan.rule("RK-3").n or 0)
        if plan.switches:
            await SwitchOvers(bench).run()
        if plan.host_faults:
            await HostTrials(bench, HOST_TIMEOUT_S).run()
        progress.phase("collecting")


def _fault_timeout_s(plan: RunPlan) -> float:
    limits = [
        entry.plans[plan.profile].timeout_s for entry in plan.catalogue.criteria if plan.plans(entry.id)
    ]
    return max((limit for limit in limits if limit is not None), default=10.0)


async def _bench(
    plan: RunPlan, substrate: Substrate, folder: _Folder, progress: Progress, stack: contextlib.AsyncExitStack
) -> Bench:
    progress.phase("starting probes")
    journals = {
        name: stack.enter_context(Journal(folder.path / "history" / f"{name}.jsonl"))
        for name in ("nemesis", "prometheus")
    }
    journal = stack.enter_context(Journal(folder.path / "journal.jsonl"))
    lives: Counter[str] = Counter()

    async def start_probe(host: str) -> ProbeLink:
        lives[host] += 1
        name = f"probe-{host}" if lives[host] == 1 else f"probe-{host}.{lives[host]}"
        written = stack.enter_context(Journal(folder.path / "history" / f"{name}.jsonl"))
        probe = await ProbeLink.start(substrate, host, written, folder.path / "logs" / f"{name}.log")
        stack.push_async_callback(probe.close)
        return probe

    probes = {host: await start_probe(host) for host in plan.hosts}
    return Bench(
        plan=plan,
        substrate=substrate,
        probes=probes,
        nemesis=journals["nemesis"],
        prometheus=journals["prometheus"],
        journal=journal,
        progress=progress,
        folder=folder.path,
        start_probe=start_probe,
    )


async def _start_load(
    plan: RunPlan, substrate: Substrate, folder: _Folder, progress: Progress, stack: contextlib.AsyncExitStack
) -> list[LoadLink]:
    progress.phase("starting the load")

    async def start(host: str) -> LoadLink:
        load = await LoadLink.start(
            substrate,
            host,
            workload=plan.load.workload,
            users=plan.load.users,
            seed=plan.seed,
            raw=Raw.ALL if plan.profile in RAW_PROFILES else Raw.FAILURES,
            run_s=LOAD_LIMIT_S.get(plan.profile, DEFAULT_LOAD_LIMIT_S),
            history=folder.path / "history" / f"load-{host}.jsonl",
            log=folder.path / "logs" / f"load-{host}.log",
        )
        stack.push_async_callback(load.stop)
        return load

    return list(await asyncio.gather(*(start(host) for host in plan.hosts)))


class _Folder:
    """A run's folder; `run.json` says at any time how far it came."""

    def __init__(self, path: Path, run: Run) -> None:
        self.path = path
        self._run = run

    @classmethod
    def create(cls, request: Request, deployment: Deployment, plan: RunPlan) -> _Folder:
        """Makes the folder with the plan, hashed, and `run.json`. Raises PlanError."""
        started = datetime.now(UTC)
        stem = f"{started:%Y-%m-%dT%H%M%SZ}-{request.profile}"
        path = _fresh(request.out, stem)
        encoded = plan.encode()
        fleet = Path(deployment.environment.fleet)
        found = machine.commit()
        run = Run(
            id=path.name,
            started=_iso(started),
            profile=request.profile,
            environment=deployment.environment.stack,
            seed=plan.seed,
            plan_sha256=hashlib.sha256(encoded).hexdigest(),
            commit=found.sha,
            commit_dirty=found.dirty,
            state=RunState.RUNNING,
            command=f"threenines verify --profile {request.profile} --seed {plan.seed}",
            fleet=deployment.fleet.name,
            fleet_sha256=hashlib.sha256(fleet.read_bytes()).hexdigest() if fleet.is_file() else None,
            versions=machine.versions(),
            machine=machine.machine(),
            configuration={
                "agents": str(len(plan.agents)),
                "hosts": ", ".join(plan.hosts),
                "substrate": deployment.environment.substrate,
                "network": deployment.environment.network,
                "load": f"{plan.load.workload}: {plan.load.per_s:g} operations/s on each host",
                "fault trials": str(sum(not trial.reserve for trial in plan.faults)),
            },
        )
        write_file(path / PLAN_FILE, encoded)
        folder = cls(path, run)
        folder._write()
        return folder

    def end(self, state: RunState, detail: str | None) -> None:
        """The run is over, one way or another."""
        self._run = msgspec.structs.replace(self._run, state=state, detail=detail, ended=_now())
        self._write()

    def _write(self) -> None:
        write_file(self.path / "run.json", model.encode(self._run))


def _fresh(out: Path, stem: str) -> Path:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for suffix in ("", *(f"-{number}" for number in range(2, 100))):
            path = out / f"{stem}{suffix}"
            with contextlib.suppress(FileExistsError):
                path.mkdir()
                (path / "history").mkdir()
                return path
    except OSError as error:
        raise PlanError(
            str(out), f"cannot be written ({error.strerror})", "name another folder with --out", exit_status=3
        ) from error
    raise PlanError(str(out), f"has too many runs called {stem}", "wait a second", exit_status=3)


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP stop a run as Ctrl-C does, outside of the event loop as well."""

    def stop(_number: int, _frame: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in STOPPING if number != signal.SIGINT}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _signals_ignored() -> Iterator[None]:
    """A second Ctrl-C does not interrupt the clearing up."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _now() -> str:
    return _iso(datetime.now(UTC))


def _iso(instant: datetime) -> str:
    return f"{instant:%Y-%m-%dT%H:%M:%SZ}"
