"""All agents of this host: which ones ought to run, which ones do, who may register."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import aiohttp
import msgspec

from infra.topology import AgentSpec
from services.agent.connection import Scratch
from services.agent.errors import CallError, Code
from services.agent.hostd_link import Registration
from services.control.agent import Event
from services.control.agent_table import EventKind, Phase
from services.control.placement import URGENCY
from services.hostd.clock import boottime_ns
from services.hostd.config import HostConfig
from services.hostd.events import EventLog
from services.hostd.process import running_agents
from services.hostd.runner import AgentRunner
from services.hostd.starting import Rank, StartGate
from services.hostd.zygote_client import Zygote
from services.registry.model import Instance, InstanceState, Role

FORK_OUTCOME_S = 2.0
LOG_LIMIT_BYTES = 16 << 20


class Supervisor:
    """The runners by name. `on_change` is told whenever the record of an agent changed."""

    def __init__(
        self,
        config: HostConfig,
        *,
        events: EventLog,
        zygote: Zygote,
        http: aiohttp.ClientSession,
        floor: int,
        on_change: Callable[[str], None],
        on_incarnation: Callable[[int], None],
    ) -> None:
        self.host = config.host
        self.local = config.local
        self.chaos = config.chaos
        self.run_folder = config.run_folder
        self.data_folder = config.data_folder
        self.policy = config.supervision.policy()
        self.zygote = zygote
        self.scratch = Scratch()
        self.http = http
        self.runners: dict[str, AgentRunner] = {}
        self.restarts: Counter[tuple[str, str]] = Counter()
        self.host_epoch = 0
        self.standing: Callable[[AgentSpec], tuple[Role, int]] | None = None
        """Role and epoch of an agent on this host, where ownership is on; else all serve."""
        self.to_serve: Callable[[AgentSpec], bool] = lambda spec: True
        """Whether an agent is to serve here once it is up."""
        self._gate = StartGate()
        self._events = events
        self._floor = floor
        self._on_change = on_change
        self._on_incarnation = on_incarnation
        self._unclaimed: dict[str, tuple[int, int, int]] = {}
        self._last_incarnation: dict[str, int] = {}  # of those that were removed in this life

    # What the runners ask of their host (services.hostd.runner.Surroundings).

    def now_ns(self) -> int:
        """CLOCK_BOOTTIME."""
        return boottime_ns()

    def epoch(self) -> int:
        """The host's epoch, 0 before it is known."""
        return self.host_epoch

    def changed(self, runner: AgentRunner) -> None:
        """The record of an agent changed."""
        self._on_change(runner.name)

    def forked(self) -> None:
        """The zygote works: those that wait for it need not wait any longer."""
        for runner in self.runners.values():
            if runner.state.fork_failures:
                runner.feed(Event(EventKind.FORK_POSSIBLE))

    def turn_to_start(self, runner: AgentRunner) -> AbstractAsyncContextManager[None]:
        """Few agents start at once, those that are to serve before those that stand by."""
        return self._gate.turn(lambda: Rank(not self.to_serve(runner.spec), URGENCY[runner.spec.criticality]))

    def reconsider_turns(self) -> None:
        """Who is to serve here has changed."""
        self._gate.look()

    def note(self, event: str, agent: str, incarnation: int, detail: str, time_ns: int | None = None) -> None:
        """A line for the event log."""
        self._events.add(event, agent=agent, incarnation=incarnation, detail=detail, time_ns=time_ns)
        if event == "forked":
            self._on_incarnation(incarnation)

    def ended(self, runner: AgentRunner, cause: str) -> None:
        """A process ended."""
        if runner.state.wanted:
            self.restarts[runner.name, cause] += 1

    # Which agents ought to run.

    def find_running(self) -> None:
        """Takes hold of the agents that an earlier life of hostd left running; `apply` claims them."""
        self._unclaimed = running_agents(self.run_folder / "agents")

    def runs(self, name: str) -> bool:
        """Whether an agent was found running that nobody has claimed yet."""
        return name in self._unclaimed

    def has(self, wanted: Mapping[str, AgentSpec]) -> bool:
        """Whether exactly those are wanted here already, by the same definitions: the usual case."""
        runners = self.runners
        if wanted.keys() != runners.keys():
            return False
        for name, spec in wanted.items():
            runner = runners[name]
            if not runner.state.wanted or runner.state.phase is Phase.DOWN:
                return False
            if runner.spec is not spec and runner.spec != spec:
                return False
        return True

    def apply(self, spec: AgentSpec, incarnation: int = 0) -> AgentRunner:
        """Makes `spec` run. `incarnation`: the highest that the registry knows of it on this host."""
        runner = self.runners.get(spec.name)
        if runner is None:
            last = max(incarnation, self._last_incarnation.get(spec.name, 0))
            runner = AgentRunner(spec, self, max(self._floor, last + 1))
            self.runners[spec.name] = runner
            self._claim(runner)
            runner.start()
        elif runner.spec != spec:
            runner.replace(spec)
        else:
            runner.start()
        return runner

    def _claim(self, runner: AgentRunner) -> None:
        found = self._unclaimed.pop(runner.name, None)
        if found is None:
            return
        pid, incarnation, pidfd = found
        if incarnation > 0:
            runner.adopt(pid, pidfd, incarnation)
            return
        self._kill(pidfd)

    def kill_unclaimed(self) -> tuple[str, ...]:
        """Ends the running agents that nobody wants any more; their names."""
        names = tuple(self._unclaimed)
        for _, _, pidfd in self._unclaimed.values():
            self._kill(pidfd)
        self._unclaimed.clear()
        return names

    @staticmethod
    def _kill(pidfd: int) -> None:
        try:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass
        finally:
            os.close(pidfd)

    async def remove(self, name: str) -> None:
        """Stops an agent and forgets it once its process is gone."""
        runner = self.runners.get(name)
        if runner is None:
            return
        runner.stop()
        limit_s = self.policy.stop_timeout_ns / 1e9 + 10.0
        await runner.wait_for(lambda state: state.phase is Phase.DOWN, limit_s)
        if self.runners.get(name) is runner and not runner.state.wanted:
            runner.release()
            self._last_incarnation[name] = max(runner.state.incarnation, runner.state.floor)
            del self.runners[name]
            for suffix in ("sock", "pid"):
                (self.run_folder / "agents" / f"{name}.{suffix}").unlink(missing_ok=True)
            self._on_change(name)

    def instance(self, name: str) -> Instance | None:
        """The record of one of this host's agents."""
        runner = self.runners.get(name)
        if runner is None:
            return None
        if self.standing is None:
            return runner.instance()
        role, epoch = self.standing(runner.spec)
        instance = runner.instance()
        state = instance.state
        if role is Role.STANDBY and state is InstanceState.UP:
            state = InstanceState.STANDBY
        return msgspec.structs.replace(instance, role=role, epoch=epoch, state=state)

    def counts(self) -> Counter[str]:
        """How many agents are in which published state."""
        return Counter(runner.state.published for runner in self.runners.values())

    # Who says it is ready.

    async def register(self, registration: Registration, pid: int) -> None:
        """An agent says that it is ready; `pid` is the one that the kernel vouches for. Raises CallError."""
        runner = self.runners.get(registration.name)
        if runner is None:
            raise CallError(Code.NOT_FOUND, f"no agent {registration.name[:64]!r} belongs on this host")
        incarnation = registration.incarnation
        if runner.state.phase is Phase.FORKING and incarnation == runner.state.pending:
            # Quicker than the zygote's answer.
            try:
                await runner.wait_for(lambda state: state.phase is not Phase.FORKING, FORK_OUTCOME_S)
            except TimeoutError:
                raise CallError(Code.UNAVAILABLE, "the fork has not been confirmed yet") from None
        process = runner.process
        if process is None or process.incarnation != incarnation or process.pid != pid:
            raise CallError(
                Code.BAD_REQUEST,
                f"{runner.name} is incarnation {runner.state.incarnation}"
                f"{f' with pid {process.pid}' if process else ''}, not {incarnation} with pid {pid}",
            )
        if runner.state.phase is Phase.STARTING:
            self.note("registered", runner.name, incarnation, f"pid {pid}")
        runner.registered.set()

    def deregister(self, name: str, incarnation: int, pid: int) -> None:
        """An agent says good-bye. Raises CallError."""
        runner = self.runners.get(name)
        if runner is None or runner.process is None:
            raise CallError(Code.NOT_FOUND, f"no agent {name[:64]!r} runs on this host")
        if runner.process.incarnation != incarnation or runner.process.pid != pid:
            raise CallError(Code.BAD_REQUEST, f"{name} is incarnation {runner.process.incarnation}")
        runner.leaving(incarnation)

    # The end.

    def release(self) -> None:
        """hostd leaves, the agents stay."""
        for runner in self.runners.values():
            runner.release()
        for _, _, pidfd in self._unclaimed.values():
            os.close(pidfd)
        self._unclaimed.clear()


async def trim_logs(folder: Path, limit_bytes: int = LOG_LIMIT_BYTES) -> None:
    """Empties agents' logs that have grown past the limit, keeping one older copy (agents append)."""
    await asyncio.to_thread(_trim_logs, folder, limit_bytes)


def _trim_logs(folder: Path, limit_bytes: int) -> None:
    for path in folder.glob("*.log"):
        try:
            if path.stat().st_size > limit_bytes:
                path.with_suffix(".log.1").write_bytes(path.read_bytes())
                os.truncate(path, 0)
        except OSError:
            continue  # seen again at the next round
