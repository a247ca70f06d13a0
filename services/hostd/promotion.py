"""Makes an agent's process serve at an epoch, and sees that it does; `services.control.recovery` decides."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import Final

import msgspec

from infra.topology import AgentSpec
from services.agent.errors import CallError
from services.agent.standing import Promote, StandingAnswer
from services.agent.store import StateContent
from services.agent.wire import NIL, pack, unpack_as
from services.control import recovery as recover
from services.control.agent_table import Phase
from services.hostd.health import SdkCheck
from services.hostd.runner import AgentRunner
from services.hostd.view import View
from services.registry.etcd_types import EtcdError
from services.registry.model import InstanceState, Role

AT_ONCE: Final = 16
"""Those that are asked at once answer at once; more would all be late."""

log = logging.getLogger("threenines.hostd")


class Promotions:
    """The promotions of one host, few at a time."""

    def __init__(
        self,
        view: View,
        *,
        now_ns: Callable[[], int],
        acting_epoch: Callable[[AgentSpec], int | None],
        served_here: Callable[[str], bool],
        read_state: Callable[[str, float], Awaitable[StateContent]],
        policy: recover.RecoveryPolicy,
    ) -> None:
        """`acting_epoch(spec)`: at which epoch this host may act for an agent now.
        `served_here(name)`: whether an agent serves on this host, published or not.
        `read_state(name, seconds)`: all that was acknowledged of its state; raises EtcdError."""
        self._view = view
        self._now_ns = now_ns
        self._acting_epoch = acting_epoch
        self._served_here = served_here
        self._read_state = read_state
        self._acting: dict[str, tuple[int, int]] = {}  # agent -> (incarnation, epoch)
        self._policy = policy
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def attempt(self, runner: AgentRunner, epoch: int, since: int) -> bool:
        """Promotes and validates; False when it was tried often enough. `since`: the claim's revision."""
        policy = self._policy
        state = recover.begin(runner.name, epoch, since, self._now_ns(), policy)
        # After the claim and for this process, which nobody has let write yet: what is read stays true while
        # the agent waits for what it depends on.
        early = asyncio.get_running_loop().create_task(self._state(runner))
        try:
            report: recover.Report | None = await self._dependencies(runner.spec)
            async with self._turns:
                return await self._promote(runner, state, report, early)
        finally:
            early.cancel()

    def acts(self, runner: AgentRunner, epoch: int | None) -> bool:
        """Whether that process has said that it acts at that epoch, validated or not."""
        return epoch is not None and self._acting.get(runner.name) == (runner.state.incarnation, epoch)

    async def _promote(
        self,
        runner: AgentRunner,
        state: recover.Recovery,
        report: recover.Report | None,
        early: asyncio.Task[StateContent | None],
    ) -> bool:
        policy, epoch = self._policy, state.epoch
        while True:
            state, dos = recover.recovery_step(state, report, self._now_ns(), policy)
            if state.stage is recover.Stage.RECOVERED:
                return True
            if state.stage not in recover.UNDER_WAY:
                return False
            if recover.Do.PROMOTE in dos:
                content = await (early if state.attempts == 1 else self._state(runner))
                failed = not await self._told(runner, epoch, content)
                report = recover.Report.FAILED if failed else recover.Report.PROMOTED
            elif recover.Do.CHECK in dos:
                answer = await self.order(runner, "_standing", NIL, policy.check_ns / 1e9)
                checked = (
                    recover.Checked(0, False, 0)
                    if answer is None
                    else recover.Checked(answer.epoch, answer.acting, answer.revision)
                )
                report = recover.judge(state, checked)
            else:
                report = recover.Report.FAILED

    async def _state(self, runner: AgentRunner) -> StateContent | None:
        """An agent's state, so that it need not ask for it; None: it cannot be read now, or has none."""
        if runner.spec.command is not None:
            return None
        try:
            return await self._read_state(runner.name, self._policy.promote_ns / 1e9)
        except EtcdError as error:
            log.warning("%s: its state: %s", runner.name, error)
            return None

    async def _told(self, runner: AgentRunner, epoch: int, content: StateContent | None) -> bool:
        """Whether an agent serves at `epoch` now. Who depends on it need not wait until that is validated."""
        if content is None and runner.spec.command is None:
            return False
        incarnation, limit_s = runner.state.incarnation, self._policy.promote_ns / 1e9
        answer = await self.order(runner, "_promote", pack(Promote(epoch, content)), limit_s)
        if answer is None or answer.epoch != epoch:
            return False
        if answer.acting:
            self._acting[runner.name] = (incarnation, epoch)
            self._view.wake()
        return True

    async def _dependencies(self, spec: AgentSpec) -> recover.Report:
        def served() -> bool:
            return all(self._served_here(name) or self._served(name) for name in spec.depends_on)

        try:
            await self._view.wait_for(served, self._policy.wait_ns / 1e9)
        except TimeoutError:
            return recover.Report.FAILED
        return recover.Report.READY

    def _served(self, name: str) -> bool:
        return any(i.state is InstanceState.UP and i.role is Role.PRIMARY for i in self._view.of(name))

    async def order(
        self, runner: AgentRunner, method: str, body: msgspec.Raw, timeout_s: float
    ) -> StandingAnswer | None:
        """An agent's answer to an order; None when there is none. A program knows no orders: it is up."""
        if runner.spec.command is not None:
            epoch = self._acting_epoch(runner.spec) or 0
            up = runner.state.phase is Phase.UP
            return StandingAnswer(epoch, up, 1 << 62) if up else None
        link = runner.check.link if isinstance(runner.check, SdkCheck) else None
        if link is None:
            return None
        try:
            raw = await link.request(runner.name, method, body, timeout_s=timeout_s)
            return unpack_as(raw, StandingAnswer)
        except CallError as error:
            log.warning("%s: %s: %s", runner.name, method, error)
            return None
