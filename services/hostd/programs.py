"""Programs (`command:` agents) know of no fence: hostd runs them only while this host serves them, and ends
them a little before the deadline, so that none runs when another host may begin.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable

from infra.topology import AgentSpec
from services.agent.fence import Allowance
from services.hostd.agents import Supervisor
from services.hostd.events import EventLog
from services.hostd.runner import AgentRunner


class Programs:
    """`inherited`: what an earlier life of hostd allowed last, in force until its deadline or this life's
    first word. `kill_margin_ns`: how long before a deadline programs are ended."""

    def __init__(
        self,
        supervisor: Supervisor,
        events: EventLog,
        *,
        inherited: Allowance,
        kill_margin_ns: int,
        now_ns: Callable[[], int],
        serving: Callable[[AgentSpec], bool],
        learned: Callable[[], None],
    ) -> None:
        """`serving(spec)`: whether this host serves an agent now; `learned()`: look again at who may run."""
        self._supervisor = supervisor
        self._events = events
        self._inherited = inherited
        self._kill_margin_ns = kill_margin_ns
        self._now_ns = now_ns
        self._serving = serving
        self._learned = learned
        self._until_ns = 0
        self._ended_early = False
        self._timer: asyncio.TimerHandle | None = None

    def may_run(self, spec: AgentSpec) -> bool:
        """Whether a process of that program is to run on this host now."""
        now_ns = self._now_ns()
        if self._serving(spec):
            return now_ns < self._until_ns
        if now_ns >= self._inherited.deadline_ns - self._kill_margin_ns:
            return False
        # An earlier life of hostd served it, and its word holds for a moment yet: this one may claim in time.
        inherited = self._inherited.epoch_of(spec.home, spec.name, now_ns) is not None
        return inherited and (spec.name in self._supervisor.runners or self._supervisor.runs(spec.name))

    def begin(self) -> None:
        """Those of an earlier life are watched over from now on."""
        if self._inherited.deadline_ns:
            self._due()

    def allowed(self, allowance: Allowance) -> None:
        """The fence has been written."""
        self._until_ns = allowance.deadline_ns - self._kill_margin_ns
        if self._inherited.deadline_ns:
            self._inherited = Allowance()
            self.end(runner for runner in self._programs() if not self._serving(runner.spec))
        if self._ended_early:
            self._ended_early = False
            self._learned()  # those that were ended may run again
        if self._timer is None and allowance.serving:
            self._due()

    def end_all(self) -> None:
        """The deadline has passed."""
        self.end(self._programs())

    def end(self, runners: Iterable[AgentRunner]) -> None:
        """Ends those of the runners that are programs, at once."""
        for runner in runners:
            if runner.spec.command is not None and runner.process is not None:
                runner.process.signal(signal.SIGKILL)

    def close(self) -> None:
        """hostd leaves; the watchdog goes on."""
        if self._timer is not None:
            self._timer.cancel()

    def _programs(self) -> list[AgentRunner]:
        return [runner for runner in self._supervisor.runners.values() if runner.spec.command is not None]

    def _due(self) -> None:
        self._timer = None
        until_ns = max(self._until_ns, self._inherited.deadline_ns - self._kill_margin_ns)
        left_ns = until_ns - self._now_ns()
        if left_ns > 0:
            self._timer = asyncio.get_running_loop().call_later(left_ns / 1e9, self._due)
            return
        running = [runner for runner in self._programs() if runner.process is not None]
        for runner in running:
            self._events.add("killed", agent=runner.name, detail="its host's lease runs out")
        self.end(running)
        self._ended_early = self._ended_early or bool(running)
        self._learned()
