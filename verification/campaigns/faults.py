"""Crashes and freezes agents while both hosts watch and call them, several at a time."""

from __future__ import annotations

import asyncio
import contextlib

import msgspec

from chaos.errors import LeaseLost
from chaos.undo import AnyUndo, Behave, Continue
from infra.substrates.base import SubstrateError
from loadtests.protocol import Arm, Armed, Call, Events, FaultPlan, Misbehave, Release, Watch
from loadtests.record import Kind, Record, now_ns, raw
from verification.campaigns.bench import Bench, obeyed
from verification.campaigns.tracker import Tracker
from verification.kinds import SIGNALS
from verification.links import LinkError
from verification.looks import wanted
from verification.plan import FaultTrial, touches

SLOTS = 2
"""Trials at the same time, on agents that do not need one another. Each has callers and watchers of its own
on every host: with three of them two cores are so full that a trial measures its neighbours."""
MISBEHAVIOUR = frozenset({"errors", "slow"})
REST_S = 12.0
"""Between two faults on one agent, so that the host's back-off after several crashes does not set in."""
REST_POLL_S = 0.25
READY_TIMEOUT_S = 5.0
EFFECT_TIMEOUT_S = 3.0
SETTLE_S = 0.05
TRIAL_LIMIT_S = 90.0
"""More than all waits of a trial together: one that is still not over hangs."""
RELEASE_LIMIT_S = 10.0
BODIES = {
    "recall": msgspec.Raw(b'{"key":"probe"}'),
    "ask": msgspec.Raw(b'{"text":"are you there?","depth":0}'),
    "_ping": msgspec.Raw(b"{}"),
}
"""Reads first: only an owner that has loaded its state answers them. What writes (`ask`) goes through etcd
where failover is on, and a hundred calls a second on one agent would measure that agent's queue."""


def undo_of(trial: FaultTrial) -> tuple[AnyUndo, ...]:
    """What ends a fault of an agent when the harness does not live to heal it.

    A crash is over when it has happened. Who hangs is replaced by hostd, and who fails its calls is only as
    long as somebody calls it, else it fails until its time is up: longer than a fault may last.
    """
    match trial.fault:
        case "hang":
            return (Continue(host=trial.home, what=f"agent/{trial.agent}"),)
        case fault if fault in MISBEHAVIOUR:
            return (Behave(host=trial.home, agent=trial.agent),)
    return ()


class Faults:
    """The fault trials of a run."""

    def __init__(self, bench: Bench, timeout_s: float, slots: int = SLOTS) -> None:
        self._bench = bench
        self._timeout_s = timeout_s
        self._slots = slots
        self._waiting = [trial for trial in bench.plan.faults if not trial.reserve]
        self._reserve = [trial for trial in bench.plan.faults if trial.reserve]
        self._rested: dict[str, float] = {}
        self._running: dict[asyncio.Task[Tracker | None], FaultTrial] = {}
        self._done = self._void = self._late = 0
        self._slowest_ms = dict.fromkeys(SIGNALS, 0.0)

    async def run(self) -> None:
        """Runs them in the plan's order, as far as they do not touch one another, stage by stage."""
        self._bench.progress.phase("failures of agents and services", len(self._waiting))
        await self._bench.guarded.stand()
        for probe in self._bench.probes.values():
            await obeyed(probe, Events())
        await self._all_waiting()
        while more := await self._next_stage():
            self._bench.progress.phase("failures of agents and services, next stage", self._done + more)
            await self._all_waiting()

    async def _next_stage(self) -> int:
        """Takes what the plan's next look wants from the reserve; answers with how many trials that are."""
        plan = self._bench.plan
        if self._bench.over() or not any(plan.rule(planned.id).stages for planned in plan.criteria):
            return 0
        kinds = tuple(dict.fromkeys(trial.fault for trial in plan.faults))
        more = await asyncio.to_thread(lambda: wanted(plan, self._bench.history(), kinds))
        taken = 0
        for kind, count in more.items():
            spare = [trial for trial in self._reserve if trial.fault == kind][:count]
            self._bench.note("next stage", fault=kind, trials=str(len(spare)))
            for trial in spare:
                self._reserve.remove(trial)
                self._waiting.append(trial)
            taken += len(spare)
        return taken

    async def _all_waiting(self) -> None:
        try:
            while self._waiting or self._running:
                self._start_admissible()
                if not self._running:  # all that is left has to rest
                    await asyncio.sleep(REST_POLL_S)
                    continue
                finished, _ = await asyncio.wait(
                    self._running, timeout=REST_POLL_S, return_when=asyncio.FIRST_COMPLETED
                )
                for task in finished:
                    self._finished(self._running.pop(task), task.result())
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    def _start_admissible(self) -> None:
        if self._bench.over():
            self._waiting.clear()
        now = asyncio.get_running_loop().time()
        for trial in tuple(self._waiting):
            if len(self._running) >= self._slots:
                return
            busy = any(
                touches(self._bench.plan, trial.agent, other.agent) for other in self._running.values()
            )
            if busy or self._rested.get(trial.agent, 0.0) > now:
                continue
            self._waiting.remove(trial)
            self._running[asyncio.create_task(self._trial(trial))] = trial

    def _finished(self, trial: FaultTrial, tracker: Tracker | None) -> None:
        """`tracker` None: nothing of it counts."""
        self._rested[trial.agent] = asyncio.get_running_loop().time() + REST_S
        if tracker is None or not tracker.took_effect:
            self._void += 1
            spare = next((one for one in self._reserve if one.fault == trial.fault), None)
            if spare is not None:
                self._reserve.remove(spare)
                self._waiting.append(spare)
        else:
            self._done += 1
            self._late += not tracker.complete
            took = tracker.took_ms
            if took is not None:
                self._slowest_ms[trial.fault] = max(self._slowest_ms[trial.fault], took)
        slowest = ", ".join(f"slowest {kind} {ms:.0f} ms" for kind, ms in self._slowest_ms.items() if ms)
        note = f"{self._late} not recovered, {self._void} void" + (f", {slowest}" if slowest else "")
        self._bench.progress.tick(self._done, note)

    async def _trial(self, trial: FaultTrial) -> Tracker | None:
        bench = self._bench
        tracker = Tracker(trial, tuple(bench.probes))
        self._mark(trial, Kind.INVOKE)
        await bench.guarded.stand()
        with contextlib.ExitStack() as stack:
            for host, probe in bench.probes.items():
                stack.enter_context(probe.listening(trial.agent, tracker.listener(host)))
                stack.enter_context(probe.listening(None, tracker.events))
            try:
                async with asyncio.timeout(TRIAL_LIMIT_S):
                    await self._watched(trial, tracker)
            except (LeaseLost, TimeoutError) as error:  # without its end it is void, whatever was seen of it
                why = str(error) or "it hung"
                bench.note("trial void", trial=trial.id, agent=trial.agent, why=why)
                return None
            finally:
                await asyncio.shield(self._release(trial))
        self._mark(trial, Kind.OK)
        return tracker

    async def _watched(self, trial: FaultTrial, tracker: Tracker) -> None:
        """Has the agent watched everywhere, then breaks it."""
        bench = self._bench
        for probe in bench.probes.values():
            await probe.ask(Watch(agent=trial.agent))
            await probe.ask(Call(agent=trial.agent, bodies=BODIES))
        armed = (await bench.probes[trial.home].ask(Arm(agent=trial.agent, trial=trial.id))).armed
        if armed is None:
            bench.note("trial not begun", trial=trial.id, agent=trial.agent, why="its process was not found")
            return
        tracker.incarnation = armed.incarnation
        try:
            async with asyncio.timeout(READY_TIMEOUT_S):
                await tracker.ready.wait()
        except TimeoutError:
            bench.note("trial not begun", trial=trial.id, agent=trial.agent, why="not served on every host")
            return
        target = f"process/{trial.home}/agent/{trial.agent}"
        label = f"{trial.fault} agent/{trial.agent}"
        async with bench.guarded.covered(label, (target,), undo_of(trial)) as cover:
            try:
                await self._inject(trial, armed, tracker)
            finally:
                if await asyncio.shield(self._mended(trial, tracker)):
                    cover.healed()

    async def _inject(self, trial: FaultTrial, armed: Armed, tracker: Tracker) -> None:
        bench = self._bench
        told = FaultPlan(
            trial=trial.id,
            fault=trial.fault,
            signal=SIGNALS[trial.fault],
            home=trial.home,
            incarnation=armed.incarnation,
            pid=armed.pid,
        )
        bench.note("fault", trial=trial.id, agent=trial.agent, host=trial.home, signal=told.signal)
        begin_ns = now_ns()
        tracker.begin(begin_ns)
        kind = Kind.OK
        error = await self._send(trial, told.signal)
        if error is not None:
            kind = Kind.FAIL
            bench.note("fault not injected", trial=trial.id, error=error)
        end_ns = now_ns()
        for which, at in ((Kind.INVOKE, begin_ns), (kind, end_ns)):
            self._record(f"nemesis-{trial.id}", which, "fault", trial.agent, told, at)
        if kind is not Kind.OK:
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(EFFECT_TIMEOUT_S):
                await tracker.effect.wait()
        if not tracker.took_effect:  # void: there is nothing to wait for
            return
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._timeout_s):
                await tracker.done.wait()
        await asyncio.sleep(SETTLE_S)

    async def _send(self, trial: FaultTrial, signal: str) -> str | None:
        """Breaks the agent; None when that was done, else why not."""
        if trial.fault in MISBEHAVIOUR:
            told = Misbehave(agent=trial.agent, trial=trial.id, mode=trial.fault)
            return (await self._bench.probes[trial.home].ask(told)).error
        try:
            await asyncio.to_thread(self._bench.substrate.signal, trial.home, f"agent/{trial.agent}", signal)
        except SubstrateError as error:
            return str(error)
        return None

    async def _mended(self, trial: FaultTrial, tracker: Tracker) -> bool:
        """One that is still frozen goes on, one that fails recovers; whether that could be said to it."""
        if tracker.exited or not tracker.begun:
            return True
        if trial.fault in MISBEHAVIOUR:
            mend = Misbehave(agent=trial.agent, trial=trial.id, mode="none")
            try:
                return (await self._bench.probes[trial.home].ask(mend)).error is None
            except LinkError:
                return False
        if trial.fault == "hang":
            # Else the process has been replaced meanwhile: nothing to heal.
            with contextlib.suppress(SubstrateError):
                await asyncio.to_thread(
                    self._bench.substrate.signal, trial.home, f"agent/{trial.agent}", "CONT"
                )
        return True

    async def _release(self, trial: FaultTrial) -> None:
        """Lets go of the agent everywhere."""
        await asyncio.gather(
            *(probe.ask(Release(agent=trial.agent), RELEASE_LIMIT_S) for probe in self._bench.probes.values())
        )

    def _mark(self, trial: FaultTrial, kind: Kind) -> None:
        self._record(f"trial-{trial.id}", kind, "trial", trial.id, None, now_ns())

    def _record(self, process: str, kind: Kind, f: str, key: str, value: object, time_ns: int) -> None:
        self._bench.nemesis.record(
            Record(process=process, type=kind, f=f, key=key, value=raw(value), time_ns=time_ns)
        )
