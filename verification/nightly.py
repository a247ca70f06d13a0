"""A night: campaigns and scenarios on one stack within a budget, the most informative first, into one run.

    fix the plan and its order → stand the stack up → turn by turn → leave the stack as found → judge

The plan is hashed before the first turn. What comes next follows from the plan and the run's history alone,
so a night that was stopped, killed or ran out of its budget goes on where it was: what came to its end is
not repeated, what was cut is void and repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec

from chaos.scenario import Scenario
from infra.substrates.base import Substrate
from loadtests.workload import load_workload
from reports.model import Report, RunState
from verification import machine, night_campaigns
from verification.bench_setup import open_bench, start_load, unused
from verification.campaigns import discovery, instruments
from verification.campaigns.guarded import Guarded
from verification.catalogue import Catalogue, load_catalogue
from verification.deployment import Deployment
from verification.history import HistoryError
from verification.homecoming import bring_home
from verification.judge import judge_run
from verification.night_log import ALL_DONE, BUDGET, NightLog, Turn, TurnTold, read_log, turns
from verification.night_plan import (
    Kind,
    Piece,
    admitted,
    judged_by,
    next_turn,
    ordered,
    planned_scenario,
    scenario_piece,
    words,
)
from verification.night_trials import begun
from verification.plan import PlanError, RunPlan, read_plan
from verification.progress import Progress
from verification.run_folder import RunFolder, fleet_sha256
from verification.runner import Interrupted, Request, plan_run
from verification.scenario_run import Wish, run_on
from verification.stopping import STOPPING, signals_ignored, stopped_by_signals

PROFILES = ("nightly",)
DEFAULT_BUDGET_S = 90 * 60.0
STOPPED = "it was stopped by a signal"
HUNG = "it hung: nothing was written to its history any more"
OVERDUE = "a campaign did not end with the budget and was cut"
WATCH_S = 0.1
MAX_BREAKS = 3
"""A piece whose turns break so often in a row, and bring no trial to its end, has no further one."""
SILENT_S = 300.0
"""A campaign that writes nothing for so long hangs; its turn is cut."""
LOOK_S = 5.0
"""So often it is looked whether it does."""
OVERDUE_S = 300.0
"""A campaign that is so long over its budget is cut, and with it the night."""


@dataclass(frozen=True)
class NightRequest:
    """What the operator asks for. `earlier`: reports that say what is known, newest first."""

    request: Request
    scenarios: tuple[Scenario, ...]
    budget_s: float = DEFAULT_BUDGET_S
    earlier: Sequence[Report] = ()


def run_night(
    wish: NightRequest, deployment: Deployment, progress: Progress, catalogue: Catalogue | None = None
) -> Path:
    """Runs a new night and judges it; answers with the run's folder.

    Raises PlanError before anything is touched; Interrupted; or what broke the harness as a whole. A piece
    that breaks is told in the report, and the night goes on.
    """
    plan = plan_night(wish, deployment, catalogue or load_catalogue())
    for one in plan.left_out:
        progress.say(f"left out: {one.name} {one.why}")
    with deployment.alone():
        command = f"threenines verify --profile {plan.profile} --seed {plan.seed} --budget {wish.budget_s:g}s"
        folder = RunFolder.create(wish.request.out, command, deployment, plan)
        return _session(wish, plan, folder, deployment, progress)


def resume_night(path: Path, wish: NightRequest, deployment: Deployment, progress: Progress) -> Path:
    """Goes on with a night where it was stopped, with a budget of its own. Raises as `run_night`."""
    refuse(RunFolder.read(path), wish, deployment)  # before anything else, also where the stack is taken
    with deployment.alone():
        folder = RunFolder.read(path)
        plan = refuse(folder, wish, deployment)
        log = read_log(path)
        for note in log.notes:
            progress.say(f"{note.where}: {note.what}")
        if not _waiting(plan, turns(log)):
            raise PlanError(str(path), "has nothing left to run", "start a new one without --resume")
        folder.begin_again()
        return _session(wish, plan, folder, deployment, progress)


def refuse(folder: RunFolder, wish: NightRequest, deployment: Deployment) -> RunPlan:
    """The plan of a run that may go on here. Raises PlanError for any other run."""
    run, where = folder.run, str(folder.path)
    new = "start a new one without --resume"
    plan, sha256 = read_plan(folder.path)
    if not plan.pieces:
        raise PlanError(where, f"is no night: profile {run.profile} cannot be resumed", new)
    if sha256 != run.plan_sha256:
        raise PlanError(f"{where}/plan.json", "is not the plan that was hashed before it began", new)
    if run.environment != deployment.environment.stack:
        told = f"is a run of stack {run.environment}, not of {deployment.environment.stack}"
        raise PlanError(where, told, f"add --stack {run.environment}")
    if run.fleet_sha256 != fleet_sha256(deployment):
        raise PlanError(where, "was made with another fleet manifest", new)
    commit = machine.commit().sha
    if run.commit != commit:
        told = (
            f"was made by commit {(run.commit or 'unknown')[:12]}, and this is {(commit or 'unknown')[:12]}"
        )
        raise PlanError(where, told, f"check that commit out, or {new}")
    now = {one.name: planned_scenario(one).sha256 for one in wish.scenarios}
    changed = [one.name for one in plan.scenarios if now.get(one.name) != one.sha256]
    if changed:
        raise PlanError(where, f"planned another scenario {changed[0]}", new)
    return plan


def newest(out: Path) -> Path:
    """The newest night below `out`, whatever became of it. Raises PlanError."""
    found = sorted(path.parent for path in out.glob("*/run.json") if not path.parent.is_symlink())
    for path in reversed(found):
        with contextlib.suppress(PlanError):
            if RunFolder.read(path).run.profile in PROFILES:
                return path
    raise PlanError(str(out), "holds no night that could go on", "start one without --resume")


def plan_night(wish: NightRequest, deployment: Deployment, catalogue: Catalogue) -> RunPlan:
    """The plan of a new night, its pieces in their order. Raises PlanError."""
    request = wish.request
    plan = plan_run(request, deployment, catalogue, load_workload(request.workload))
    if not deployment.environment.chaos:
        raise PlanError(
            f"stack {deployment.environment.stack}",
            f"profile {plan.profile} runs scenarios and this stack does not allow faults",
            "set threenines:chaos to true in its configuration",
        )
    able, left_out = admitted(wish.scenarios, deployment.capabilities(), deployment.environment.substrate)
    scenarios = tuple(planned_scenario(one) for one in able)
    fresh = {entry.id: entry.fresh_for_days for entry in catalogue.criteria}
    found = words(wish.earlier, deployment.environment.stack, fresh, datetime.now(UTC))
    pieces = (*night_campaigns.pieces(plan), *(scenario_piece(one) for one in scenarios))
    return msgspec.structs.replace(
        plan,
        scenarios=scenarios,
        left_out=left_out,
        pieces=ordered([judged_by(piece, found) for piece in pieces]),
        budget_s=wish.budget_s,
    )


def _session(
    wish: NightRequest, plan: RunPlan, folder: RunFolder, deployment: Deployment, progress: Progress
) -> Path:
    begin = time.monotonic()
    log = NightLog(unused(folder.path / "history", "night"), wish.budget_s)
    why = "the harness broke"
    try:
        try:
            with stopped_by_signals():
                substrate = deployment.prepare(progress)
                with _stop_event() as stop:
                    night = _Night(wish, plan, folder.path, deployment, substrate, progress, log, stop, begin)
                    why = night.run()
        except KeyboardInterrupt:
            why = STOPPED
        finally:
            with signals_ignored():
                deployment.restore(progress)
    except Exception as error:
        told = " ".join(str(error).split())[:500] or type(error).__name__
        log.stopped(f"the harness broke: {told}")
        folder.end(RunState.BROKEN, told)
        raise
    finally:
        if why == STOPPED:
            log.stopped(why)
        log.close(why)
        progress.close()
    if why == STOPPED:
        folder.end(RunState.INTERRUPTED, "stopped by a signal")
        raise Interrupted(
            folder.path,
            f"go on with `threenines verify --profile {plan.profile} --resume {folder.path.name}`",
        )
    folder.end(RunState.FINISHED, None if why == ALL_DONE else why)
    judge_run(folder.path)
    return folder.path


def _waiting(plan: RunPlan, done: Sequence[Turn]) -> list[Piece]:
    """Pieces that have something left, in the plan's order."""
    ended = {turn.piece for turn in done if turn.told is not None and turn.told.done}
    return [piece for piece in plan.pieces if piece.name not in ended]


@dataclass
class _Night:
    """One session of a night on a stack that stands."""

    wish: NightRequest
    plan: RunPlan
    path: Path
    deployment: Deployment
    substrate: Substrate
    progress: Progress
    log: NightLog
    stop: threading.Event
    begin_s: float
    clock: Callable[[], float] = time.monotonic

    def __post_init__(self) -> None:
        self._calibrated = False
        self._cut: str | None = None
        self._hung = False

    def run(self) -> str:
        """Turn by turn; answers with why it ended."""
        done = turns(read_log(self.path))
        waiting = _waiting(self.plan, done)
        taken = Counter(turn.piece for turn in done if turn.told is not None)
        breaks: Counter[str] = Counter()
        broken: set[str] = set()
        while waiting and not self.stop.is_set():
            piece = next_turn([p for p in waiting if p.name not in broken], taken, self._left_s())
            if piece is None:
                break
            taken[piece.name] += 1
            before = self._ended()
            told = self._turn(piece)
            if told is None:
                break
            if told.why:
                self.progress.say(f"{piece.name} broke: {told.why}")
            breaks[piece.name] = breaks[piece.name] + 1 if told.why and self._ended() == before else 0
            if breaks[piece.name] >= MAX_BREAKS:
                broken.add(piece.name)
            if told.done:
                waiting.remove(piece)
        if self.stop.is_set():
            return STOPPED
        if self._cut is not None:
            return self._cut
        if not waiting:
            return ALL_DONE
        fitting = [piece for piece in waiting if piece.name not in broken]
        return BUDGET if fitting else f"what is left broke: {', '.join(piece.name for piece in waiting)}"

    def _ended(self) -> int:
        """How many trials have been brought to their end."""
        return sum(begun(read_log(self.path)).values())

    def _left_s(self) -> float:
        return self.wish.budget_s - (self.clock() - self.begin_s)

    def _turn(self, piece: Piece) -> TurnTold | None:
        """One turn; None when it was cut."""
        left_min = max(0.0, self._left_s()) / 60
        self.progress.say(f"{piece.name} ({piece.kind}, {piece.known}); {left_min:.0f} min left")
        self._bring_home()
        if self.stop.is_set():
            self.log.stopped(STOPPED)
            return None
        self.log.begin(piece.name)
        try:
            told = self._scenario(piece) if piece.kind is Kind.SCENARIO else self._campaign(piece)
        except KeyboardInterrupt:
            self.stop.set()
            told = TurnTold(piece=piece.name)
        except HistoryError:
            raise  # nothing can be judged by what is on disk: no night for that
        except Exception as error:  # told in the report; the others are run all the same
            why = " ".join(str(error).split())[:300] or type(error).__name__
            told = TurnTold(piece=piece.name, why=why)
        if self._cut is not None or self.stop.is_set():
            self.log.stopped(self._cut or STOPPED)
            return None
        self.log.end(told)
        return told

    def _bring_home(self) -> None:
        homed = dict(Counter(agent.home for agent in self.plan.agents if agent.faults))
        try:
            lacks = asyncio.run(bring_home(self.substrate, self.plan.hosts, homed, self.stop))
        except Exception as error:  # the turn sees for itself what it can do on such a stack
            lacks = " ".join(str(error).split())[:300] or type(error).__name__
        if lacks is not None and not self.stop.is_set():
            self.progress.say(f"the stack is not as it should be: {lacks}")

    def _scenario(self, piece: Piece) -> TurnTold:
        scenario = next(one for one in self.wish.scenarios if one.name == piece.name)
        folder, results = run_on(
            scenario,
            Wish(out=self.path / "scenarios"),
            self.deployment,
            self.substrate,
            self.progress,
            self.stop,
        )
        where = str(folder.relative_to(self.path))
        return TurnTold(piece=piece.name, done=True, results=results, folder=where)

    def _campaign(self, piece: Piece) -> TurnTold:
        campaign = night_campaigns.named(piece.name)
        part = night_campaigns.next_part(campaign, self.plan, self.path, turns(read_log(self.path)))
        if part is None:
            return TurnTold(piece=piece.name, done=True)
        # A session for each turn: a scenario's own comes after it, and never beside it.
        with (
            contextlib.closing(Guarded(self.deployment.environment, self.deployment.fleet)) as guarded,
            asyncio.Runner() as runner,
            contextlib.suppress(asyncio.CancelledError),
        ):
            runner.run(self._watched(self._measure(campaign, part, guarded)))
        if self._hung:
            return TurnTold(piece=piece.name, why=HUNG)
        done = self._cut is None and (
            campaign.part is None
            or night_campaigns.next_part(campaign, self.plan, self.path, turns(read_log(self.path))) is None
        )
        return TurnTold(piece=piece.name, done=done)

    async def _watched(self, work: Coroutine[None, None, None]) -> None:
        """Lets a stop, or the end of all patience, cancel `work` in order: every `finally` of it runs."""
        task = asyncio.create_task(work)
        self._hung, written, looked_s, alive_s = False, -1, self.clock(), self.clock()
        while not task.done():
            await asyncio.wait({task}, timeout=WATCH_S)
            if task.done():
                break
            if self.stop.is_set() or self._left_s() < -OVERDUE_S:
                self._cut = STOPPED if self.stop.is_set() else OVERDUE
                self.log.stopped(self._cut)
            elif self.clock() - looked_s >= LOOK_S:
                looked_s = self.clock()
                if (size := _written(self.path)) != written:
                    written, alive_s = size, looked_s
                self._hung = looked_s - alive_s >= SILENT_S
            if self._cut is not None or self._hung:
                task.cancel()
                await asyncio.wait({task})
        await task

    async def _measure(self, campaign: night_campaigns.Campaign, part: RunPlan, guarded: Guarded) -> None:
        async with contextlib.AsyncExitStack() as stack:
            bench = await open_bench(part, self.substrate, guarded, self.path, self.progress, stack)
            bench.over = lambda: self._left_s() <= 0
            if not self._calibrated:
                await discovery.calibrate(bench)
                await instruments.clocks(bench)
                self._calibrated = True
            loads = await start_load(bench, stack) if campaign.load else []
            await campaign.run(bench, self.plan)
            await asyncio.gather(*(load.stop() for load in loads))


def _written(folder: Path) -> int:
    """How many bytes a campaign has written; not its load, which runs on beside one that hangs."""
    files = (*(folder / "history").glob("[!l]*.jsonl"), *folder.glob("journal*.jsonl"))
    return sum(file.stat().st_size for file in files)


@contextlib.contextmanager
def _stop_event() -> Iterator[threading.Event]:
    """Set by the signals that stop a run: each turn ends in order, before its time."""
    stop = threading.Event()
    before = {number: signal.signal(number, lambda *_: stop.set()) for number in STOPPING}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
