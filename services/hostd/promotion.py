"""Makes an agent's process serve at an epoch, and sees that it does; `services.control.recovery` decides."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Final

import msgspec

from infra.topology import AgentSpec
from services.agent.errors import CallError
from services.agent.standing import Promote, StandingAnswer
from services.agent.wire import NIL, pack, unpack_as
from services.control import recovery as recover
from services.control.agent_table import Phase
from services.hostd.health import SdkCheck
from services.hostd.runner import AgentRunner
from services.hostd.view import View
from services.registry.model import InstanceState, Role

AT_ONCE: Final = 16
"""Each loads its state from etcd, and those that ask at once are answered at once; more would all be late."""

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
        policy: recover.RecoveryPolicy,
    ) -> None:
        """`acting_epoch(spec)`: at which epoch this host may act for an agent now.
        `served_here(name)`: whether an agent has recovered on this host, published or not."""
        self._view = view
        self._now_ns = now_ns
        self._acting_epoch = acting_epoch
        self._served_here = served_here
        self._policy = policy
        self._turns = asyncio.Semaphore(AT_ONCE)

    async def attempt(self, runner: AgentRunner, epoch: int, since: int) -> bool:
        """Promotes and validates; False when it was tried often enough. `since`: the claim's revision."""
        policy = self._policy
        state = recover.begin(runner.name, epoch, since, self._now_ns(), policy)
        report: recover.Report | None = await self._dependencies(runner.spec)
        async with self._turns:
            return await self._promote(runner, state, report)

    async def _promote(
        self, runner: AgentRunner, state: recover.Recovery, report: recover.Report | None
    ) -> bool:
        policy, epoch = self._policy, state.epoch
        while True:
            state, dos = recover.recovery_step(state, report, self._now_ns(), policy)
            if state.stage is recover.Stage.RECOVERED:
                return True
            if state.stage not in recover.UNDER_WAY:
                return False
            if recover.Do.PROMOTE in dos:
                answer = await self.order(runner, "_promote", pack(Promote(epoch)), policy.promote_ns / 1e9)
                failed = answer is None or answer.epoch != epoch
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
