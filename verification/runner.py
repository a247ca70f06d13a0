"""A run from its plan to its verdicts.

    fix the plan → stand the stack up → measure → leave the stack as found → judge

Whatever happens on the way, the run's folder says how far it came, no fault and no program of ours stays
behind, and the raw history that was written can be judged.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path

from infra.substrates.base import Substrate
from loadtests.workload import Workload, load_workload
from reports.model import RunState
from verification.bench_setup import open_bench, start_load
from verification.campaigns import discovery, exchange, instruments, monitoring, registration
from verification.campaigns.faults import Faults
from verification.campaigns.guarded import Guarded
from verification.campaigns.hosts import HostTrials
from verification.campaigns.switches import SwitchOvers
from verification.catalogue import Catalogue, load_catalogue
from verification.deployment import Deployment
from verification.judge import judge_run
from verification.plan import Load, PlanError, RunPlan, make_plan
from verification.progress import Progress
from verification.run_folder import RunFolder, now
from verification.stopping import STOPPING, signals_ignored, stopped_by_signals

HOST_TIMEOUT_S = 15.0
"""How long a trial on a host waits for what it waits for."""


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

    def __init__(self, folder: Path, mend: str = "start it again") -> None:
        super().__init__(f"the run in {folder} was interrupted")
        self.folder = folder
        self.where = "verify"
        self.what = f"interrupted; the incomplete run is in {folder}"
        self.mend = mend


def run(
    request: Request, deployment: Deployment, progress: Progress, catalogue: Catalogue | None = None
) -> Path:
    """Runs a profile and judges it; answers with the run's folder.

    Raises PlanError before anything is touched; Interrupted; or what broke the harness, after the stack is
    as it was found and `run.json` says so.
    """
    workload = load_workload(request.workload)
    plan = plan_run(request, deployment, catalogue or load_catalogue(), workload)
    with deployment.alone():
        return _run(request, deployment, progress, plan)


def _run(request: Request, deployment: Deployment, progress: Progress, plan: RunPlan) -> Path:
    folder = RunFolder.create(request.out, _command(plan), deployment, plan)
    try:
        with stopped_by_signals():
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


def _command(plan: RunPlan) -> str:
    return f"threenines verify --profile {plan.profile} --seed {plan.seed}"


def plan_run(request: Request, deployment: Deployment, catalogue: Catalogue, workload: Workload) -> RunPlan:
    """The plan of a run of its profile. Raises PlanError."""
    seed = request.seed if request.seed is not None else secrets.randbelow(2**31)
    plan = make_plan(
        profile=request.profile,
        seed=seed,
        fleet=deployment.fleet,
        catalogue=catalogue,
        load=Load(workload=request.workload, per_s=workload.per_s, users=workload.users),
        created=now(),
    )
    if plan.faults and not deployment.environment.chaos:
        raise PlanError(
            f"stack {deployment.environment.stack}",
            f"profile {request.profile} injects faults and this stack does not allow them",
            "set threenines:chaos to true in its configuration",
        )
    return plan


def _measured(plan: RunPlan, deployment: Deployment, folder: RunFolder, progress: Progress) -> None:
    guarded = Guarded(deployment.environment, deployment.fleet)
    try:
        substrate = deployment.prepare(progress)
        with asyncio.Runner() as runner:
            runner.run(_cancellable(_measure(plan, substrate, guarded, folder, progress)))
    finally:
        with signals_ignored():
            try:
                guarded.close()
            finally:
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


async def _measure(
    plan: RunPlan, substrate: Substrate, guarded: Guarded, folder: RunFolder, progress: Progress
) -> None:
    async with contextlib.AsyncExitStack() as stack:
        bench = await open_bench(plan, substrate, guarded, folder.path, progress, stack)
        await discovery.calibrate(bench)
        await instruments.clocks(bench)
        if plan.plans("SD-1"):
            await discovery.census(bench)
        loads = await start_load(bench, stack)
        if plan.plans("SD-2"):
            await discovery.warm(bench, plan.rule("SD-2").n or 0)
        if plan.plans("SD-2.cold"):
            rule = plan.rule("SD-2.cold")
            await discovery.cold(bench, rule.n or 0, rule.timeout_s or 5.0)
        if plan.registrations:
            await registration.propagate(bench, plan.rule("SD-4").timeout_s or 5.0)
        if plan.faults:
            await Faults(bench, fault_timeout_s(plan)).run()
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


def fault_timeout_s(plan: RunPlan) -> float:
    """How long a fault trial waits for what it waits for."""
    limits = [
        entry.plans[plan.profile].timeout_s for entry in plan.catalogue.criteria if plan.plans(entry.id)
    ]
    return max((limit for limit in limits if limit is not None), default=10.0)
