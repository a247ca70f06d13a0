"""One agent on this host: performs what services.control.agent decides, and reports what happens to it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import aiohttp

from infra.topology import AgentSpec, HealthKind
from services.agent.connection import Scratch
from services.agent.errors import CallError
from services.agent.pace import settle
from services.agent.runner import EXIT_CANNOT_START
from services.control import starvation
from services.control.agent import AgentState, Event, Fork, Policy, Publish, Reconcile, Say, Signal, step
from services.control.agent_table import EventKind, Phase
from services.hostd.health import Check, PollCheck, SdkCheck, describe, open_link
from services.hostd.process import Process
from services.hostd.scheduling import held_still, look_at
from services.hostd.zygote_client import Zygote
from services.registry.model import Instance, InstanceState, Transport

VALIDATION_RETRY_S = 0.1
UNASKED_VALIDATION_S = 1.0
RECONCILE_RETRY_S = 0.2
LAST_LINES_BYTES = 4096
LONGEST_TURN_S = 1.0
SEE_OFF_S = 0.1
STARVATION = starvation.StarvationPolicy()
STARVED_LINE_NS = 10_000_000_000
"""A full machine starves a hundred agents several times a second: one line of each in so long is enough."""
CHECKED = frozenset({Phase.UP, Phase.UNHEALTHY})


class CannotStart(Exception):
    """A process of this definition said that it cannot start, and why."""


class Surroundings(Protocol):
    """What a runner needs of its host."""

    host: str
    local: str
    chaos: bool
    run_folder: Path
    data_folder: Path
    policy: Policy
    zygote: Zygote
    scratch: Scratch
    http: aiohttp.ClientSession

    def now_ns(self) -> int:
        """CLOCK_BOOTTIME."""

    def epoch(self) -> int:
        """The host's epoch, 0 before it is known."""

    def changed(self, runner: AgentRunner) -> None:
        """The instance record changed: publish it."""

    def forked(self) -> None:
        """A fork succeeded."""

    def turn_to_start(self, runner: AgentRunner) -> AbstractAsyncContextManager[None]:
        """Entered when it is this agent's turn to start, and held while it does."""

    def note(self, event: str, agent: str, incarnation: int, detail: str, time_ns: int | None = None) -> None:
        """A line for the event log."""

    def ended(self, runner: AgentRunner, cause: str) -> None:
        """A process of this agent ended, for that cause."""


class AgentRunner:
    """Life of one agent. Everything runs in the event loop; `feed` is the only way to change `state`."""

    def __init__(self, spec: AgentSpec, around: Surroundings, floor: int) -> None:
        self.spec = spec
        self.state = AgentState(floor=floor, missed_limit=spec.health.unhealthy_after)
        self.methods: tuple[str, ...] = ()
        self.idempotent: tuple[str, ...] = ()
        self.registered = asyncio.Event()
        self.process: Process | None = None
        self.check: Check | None = None
        self._around = around
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._validator: asyncio.Task[None] | None = None
        self._excuse = starvation.Excuse()
        self._starved_ns = -STARVED_LINE_NS
        self._cause = "crash"
        self._refusal: str | None = None
        self._replaced_at = 0
        self._waiters: list[tuple[Callable[[AgentState], bool], asyncio.Future[AgentState]]] = []

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.spec.name

    @property
    def socket_path(self) -> Path:
        """Where an SDK agent listens."""
        return self._around.run_folder / "agents" / f"{self.name}.sock"

    @property
    def log_path(self) -> Path:
        """Where the agent's output goes."""
        return self._around.data_folder / "agents" / f"{self.name}.log"

    def instance(self) -> Instance:
        """The record that the world is told."""
        spec, kind = self.spec, self.spec.health.kind
        if spec.command is None:
            transport = Transport.UNIX
        else:
            transport = Transport.TCP if kind is HealthKind.TCP else Transport.HTTP
        return Instance(
            name=spec.name,
            host=self._around.host,
            incarnation=self.state.incarnation,
            state=InstanceState(self.state.published),
            transport=transport,
            port=spec.port if spec.command is not None else None,
            category=spec.category,
            criticality=spec.criticality,
            tags=spec.tags,
            methods=self.methods,
            idempotent=self.idempotent,
            epoch=self._around.epoch(),
            since_ns=self.state.since_ns,
        )

    # What happens to the agent.

    def start(self) -> None:
        """It is wanted."""
        self.feed(Event(EventKind.START))

    def stop(self) -> None:
        """It is not wanted any more."""
        self.feed(Event(EventKind.STOP))

    def replace(self, spec: AgentSpec) -> None:
        """It is wanted with another definition."""
        self.spec = spec
        self._refusal, self._replaced_at = None, self.state.incarnation
        self.feed(Event(EventKind.REPLACE))

    def adopt(self, pid: int, pidfd: int, incarnation: int) -> None:
        """A process of it was found running before anything was decided; it is wanted."""
        self.state = replace(self.state, wanted=True)
        self._found(pid, pidfd, incarnation)

    def pong(self, incarnation: int, state: str, late: bool) -> None:
        """Its check had an answer."""
        now = self.state
        if self._excuse.looked is not None and not late:
            self._excuse = starvation.Excuse()
        if now.phase is Phase.UP and now.missed == 0 and incarnation == now.incarnation and state == "up":
            return  # nothing that a decision depends on has changed: the usual case, 4 times a second
        if self.spec.command is not None and self.state.phase is Phase.STARTING:
            if self.process is not None:
                settle(self.process.pid)
            self.feed(Event(EventKind.VALIDATED, incarnation))
        elif state == "draining":
            self.leaving(incarnation)
        elif state == "failing":
            # It answers, but no call of late went well: as bad as no answer (services.agent.wellness).
            self.feed(Event(EventKind.MISS, incarnation, "answers pings, fails calls"))
        elif not late or self.state.phase is Phase.UNHEALTHY:
            # A late answer does not undo a miss, but it shows that the agent is slow and not stuck.
            self.feed(Event(EventKind.PONG, incarnation))

    def miss(self) -> None:
        """Its check had none. One that is ready to run and gets no CPU has not missed anything."""
        now = None if self.process is None else look_at(self.process.pid)
        last = self.state.phase is Phase.UP and self.state.missed + 1 >= self.state.missed_limit
        before, (self._excuse, excused) = self._excuse, starvation.miss(self._excuse, now, last, STARVATION)
        if excused:
            quiet_ns = self._around.now_ns() - self._starved_ns
            if before.since_ns is None and quiet_ns >= STARVED_LINE_NS:
                self._starved_ns += quiet_ns
                self._around.note("starved", self.name, self.state.incarnation, "gets no CPU")
            return
        if now is not None and now.stopped:
            self.feed(Event(EventKind.MISS_STOPPED, self.state.incarnation, "stopped by a signal"))
        else:
            self.feed(Event(EventKind.MISS, self.state.incarnation))

    def leaving(self, incarnation: int) -> None:
        """It said good-bye."""
        self.feed(Event(EventKind.LEAVING, incarnation))

    async def wait_for(self, wanted: Callable[[AgentState], bool], timeout_s: float) -> AgentState:
        """The first state for which `wanted` holds, now or later. Raises TimeoutError."""
        if wanted(self.state):
            return self.state
        waiter: asyncio.Future[AgentState] = self._loop.create_future()
        entry = (wanted, waiter)
        self._waiters.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter
        finally:
            if entry in self._waiters:
                self._waiters.remove(entry)

    async def wait_until_up(self, timeout_s: float) -> AgentState:
        """The state in which it is up by its present definition.

        Raises TimeoutError; CannotStart, as soon as a process of that definition has said so.
        """
        self._refusal = None  # what stopped it earlier may have been mended outside of its definition
        state = await self.wait_for(
            lambda state: self._refusal is not None or (state.phase is Phase.UP and not state.outdated),
            timeout_s,
        )
        if self._refusal is not None:
            raise CannotStart(self._refusal)
        return state

    def release(self) -> None:
        """hostd is leaving, the agent stays: everything is let go, nothing is decided any more."""
        self._end_check()
        if self._timer is not None:
            self._timer.cancel()
        for task in self._tasks:
            task.cancel()
        if self.process is not None:
            self.process.release()

    # Decisions and their effects.

    def feed(self, event: Event) -> None:
        """Takes the decision that an event asks for and performs it."""
        before = self.state
        self.state, actions = step(before, event, self._around.now_ns(), self._around.policy)
        for action in actions:
            match action:
                case Publish():
                    self._around.changed(self)
                case Say(name, incarnation, detail, time_ns):
                    self._cause = _CAUSES.get(name, self._cause)
                    self._around.note(name, self.name, incarnation, detail, time_ns)
                case Fork(incarnation):
                    self._spawn(self._fork(incarnation))
                case Signal(_, final):
                    if self.process is not None:
                        self.process.signal(signal.SIGKILL if final else signal.SIGTERM)
                        if not final:
                            self._spawn(self._see_off(self.process))
                case Reconcile(incarnation):
                    self._spawn(self._reconcile(incarnation))
        if self.state is not before:
            self._settle(before)

    def _settle(self, before: AgentState) -> None:
        now = self.state
        if now.phase is not before.phase or now.incarnation != before.incarnation:
            if now.phase is Phase.STARTING:
                self._begin_validation()
            elif now.phase not in CHECKED:
                self._end_check()
        if now.deadline_ns != before.deadline_ns:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None
            if now.deadline_ns is not None:
                delay_s = max(0.0, (now.deadline_ns - self._around.now_ns()) / 1e9)
                self._timer = self._loop.call_later(delay_s, self._timed)
        self._wake()

    def _wake(self) -> None:
        for wanted, waiter in self._waiters:
            if not waiter.done() and wanted(self.state):
                waiter.set_result(self.state)

    def _timed(self) -> None:
        self._timer = None
        deadline_ns, now_ns = self.state.deadline_ns, self._around.now_ns()
        if deadline_ns is not None and now_ns < deadline_ns:
            # The loop's clock and CLOCK_BOOTTIME differ by a hair.
            self._timer = self._loop.call_later((deadline_ns - now_ns) / 1e9 + 0.001, self._timed)
            return
        self.feed(Event(EventKind.TIMER))

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _fork(self, incarnation: int) -> None:
        async with self._around.turn_to_start(self):
            if not self.state.wanted:
                self.feed(Event(EventKind.FORK_FAILED, incarnation, "not wanted any more"))
                return
            await self._fork_now(incarnation)
            with suppress(TimeoutError):  # a slow one does not hold up the others for ever
                await self.wait_for(
                    lambda state: state.phase is not Phase.STARTING or state.incarnation != incarnation,
                    LONGEST_TURN_S,
                )

    async def _fork_now(self, incarnation: int) -> None:
        spec = self.spec
        env = {
            "THREENINES_LOG": str(self.log_path),
            "THREENINES_LOCAL": self._around.local,
            "THREENINES_CHAOS": "1" if self._around.chaos else "0",
        }
        try:
            child = await self._around.zygote.fork(spec, incarnation, env)
        except CallError as error:
            kind = EventKind.FORK_FAILED if error.definite else EventKind.FORK_UNKNOWN
            self.feed(Event(kind, incarnation, error.message))
            return
        self._hold(child.pid, child.pidfd, incarnation)
        self.feed(Event(EventKind.FORKED, incarnation, f"pid {child.pid}", child.forked_ns))
        self._around.forked()

    async def _reconcile(self, incarnation: int) -> None:
        while True:
            try:
                child = await self._around.zygote.find(self.name, incarnation)
                break
            except CallError:
                await asyncio.sleep(RECONCILE_RETRY_S)
        if child is None:
            self.feed(Event(EventKind.ABSENT, incarnation))
            return
        self._found(child.pid, child.pidfd, incarnation)

    def _found(self, pid: int, pidfd: int, incarnation: int) -> None:
        self._hold(pid, pidfd, incarnation)
        self.feed(Event(EventKind.ADOPTED, incarnation, f"pid {pid}"))
        self.registered.set()  # it may have registered long ago: ask it now

    def _hold(self, pid: int, pidfd: int, incarnation: int) -> None:
        if self.process is not None:
            self.process.release()
        self.process = Process(pid, pidfd, incarnation, self._exited)

    def _exited(self, incarnation: int) -> None:
        cause, self._cause = self._cause, "crash"
        self.process = None
        self.feed(Event(EventKind.EXITED, incarnation, cause))
        self._around.ended(self, cause)
        self._spawn(self._note_status(incarnation))

    async def _see_off(self, process: Process) -> None:
        """Who is asked to end and is held still by a signal, before or after, will never hear of it."""
        while self.process is process:
            if held_still(process.pid):
                process.signal(signal.SIGKILL)
                return
            await asyncio.sleep(SEE_OFF_S)

    async def _note_status(self, incarnation: int) -> None:
        status = await self._around.zygote.exit_status(self.name, incarnation)
        if status is not None:
            self._around.note("exit-status", self.name, incarnation, str(status))
        if status == EXIT_CANNOT_START and incarnation > self._replaced_at:
            self._refusal = f"{self.name} cannot start: {_last_reason(self.log_path)}"
            self._wake()

    # Validation and checks.

    def _begin_validation(self) -> None:
        self._end_check()
        self.registered.clear()
        incarnation = self.state.incarnation
        if self.spec.command is not None:
            self.check = PollCheck(
                self.spec.health,
                address=self._around.local,
                port=self.spec.port or 0,
                incarnation=incarnation,
                watcher=self,
                http=self._around.http,
            )
            self.check.start()
            return
        self._validator = self._loop.create_task(self._validate(incarnation))

    async def _validate(self, incarnation: int) -> None:
        try:
            # It registers when it is ready; one that was adopted, or whose registration got lost, is asked.
            async with asyncio.timeout(UNASKED_VALIDATION_S):
                await self.registered.wait()
        except TimeoutError:
            pass
        while self.state.phase is Phase.STARTING and self.state.incarnation == incarnation:
            if await self._validate_once(incarnation):
                return
            await asyncio.sleep(VALIDATION_RETRY_S)

    async def _validate_once(self, incarnation: int) -> bool:
        timeout_s = max(1.0, self.spec.health.timeout_ms / 1000)
        try:
            link = await open_link(self.socket_path, self._around.scratch, timeout_s=timeout_s)
        except CallError:
            return False
        accepted = False
        try:
            pong, description = await describe(link, self.name, timeout_s=timeout_s)
            accepted = pong.incarnation == incarnation and description.name == self.name
        except CallError:
            return False
        finally:
            if not accepted:
                link.close()
        if not accepted:
            return False
        self.methods, self.idempotent = description.methods, description.idempotent
        self.check = SdkCheck(
            self.name,
            self.socket_path,
            health=self.spec.health,
            watcher=self,
            scratch=self._around.scratch,
            link=link,
        )
        self.check.start()
        self.feed(Event(EventKind.VALIDATED, incarnation))
        return True

    def _end_check(self) -> None:
        if self._validator is not None:
            self._validator.cancel()
            self._validator = None
        if self.check is not None:
            self.check.stop()
            self.check = None


def _last_reason(log: Path) -> str:
    """What the last line of an agent's log gives as the reason."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_LINES_BYTES))
            lines = file.read(LAST_LINES_BYTES).decode("utf-8", "replace").splitlines()
    except OSError as error:
        return f"its log cannot be read ({error.strerror})"
    last = lines[-1] if lines else "its log is empty"
    return last.rpartition("cannot start: ")[2][:300]


_CAUSES = {
    "killed": "hang",
    "start-timeout": "start-timeout",
    "replaced": "replaced",
    "stopping": "stopped",
    "leaving": "left",
}
"""Why a process ends, by the last word that was said about it; else it crashed."""
