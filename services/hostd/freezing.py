"""Agents that do not say at the deadline that they have stopped: held still until it is known who serves."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable

from services.agent.standing import StandingAnswer
from services.hostd.events import EventLog
from services.hostd.process import Process
from services.hostd.runner import AgentRunner
from services.hostd.scheduling import held_still


class Freezer:
    """`ask(runner)`: how an agent stands, None without an answer; `held()`: whether this host may act now;
    `lost(runner)`: whether another host serves it by now."""

    def __init__(
        self,
        events: EventLog,
        ask: Callable[[AgentRunner], Awaitable[StandingAnswer | None]],
        held: Callable[[], bool],
        lost: Callable[[AgentRunner], bool],
    ) -> None:
        self._events = events
        self._ask = ask
        self._held = held
        self._lost = lost
        self._frozen: dict[str, Process] = {}

    async def freeze_unless_fenced(self, runner: AgentRunner) -> None:
        """Who does not say that it has stopped may be in the middle of something, or merely lack CPU. Frozen,
        it does no harm; it goes on if this host has served it all the while, and else it is killed."""
        process = runner.process
        answer = await self._ask(runner)
        if process is None or runner.process is not process or self._held():
            return
        if answer is not None and not answer.acting:
            return
        if self._lost(runner):  # while it was asked: nothing is left to wait for
            process.signal(signal.SIGKILL)
        else:
            self._events.add("frozen", agent=runner.name, detail="did not stop at the deadline")
            process.signal(signal.SIGSTOP)
            self._frozen[runner.name] = process

    def go_on(self, runner: AgentRunner) -> None:
        """This host serves it again, at the same epoch as before; or it never served. The watchdog may have
        stopped it as well."""
        self._frozen.pop(runner.name, None)
        if runner.process is not None:
            runner.process.signal(signal.SIGCONT)

    def end(self, runner: AgentRunner) -> None:
        """Another host serves it. Who was frozen may be in the middle of something, also when it was the
        watchdog that did it, as it does beside a hostd that stood still and is told of its deadline late."""
        frozen, process = self._frozen.pop(runner.name, None), runner.process
        if process is not None and (frozen is process or held_still(process.pid)):
            process.signal(signal.SIGKILL)
