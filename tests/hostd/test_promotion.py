"""A promotion: the state is read after the claim and handed over; dependents do not wait for a validation."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from infra.topology import AgentSpec
from services.agent.errors import CallError, Code
from services.agent.standing import Promote, StandingAnswer
from services.agent.store import StateContent
from services.agent.wire import pack, unpack_as
from services.control.agent_table import Phase
from services.control.recovery import RecoveryPolicy
from services.hostd.health import SdkCheck
from services.hostd.promotion import Promotions
from services.hostd.runner import AgentRunner
from services.registry.etcd_types import EtcdUnavailable
from services.registry.model import Instance

EPOCH, SINCE = 7, 100
MS = 1_000_000
POLICY = RecoveryPolicy(wait_ns=20_000 * MS, promote_ns=20_000 * MS, check_ns=20_000 * MS)


class Process:
    """An agent's process at the other end of its link; `plan`: what it makes of the next promotions."""

    open = True

    def __init__(self) -> None:
        self.plan: list[str] = []
        self.told: list[str] = []
        self.states: list[StateContent | None] = []
        self.epoch = self.revision = 0
        self.checked = asyncio.Event()
        self.checked.set()

    async def request(self, agent: str, method: str, body: Any, *, timeout_s: float) -> Any:
        self.told.append(method)
        if method == "_promote":
            outcome = self.plan.pop(0) if self.plan else "ok"
            if outcome == "refused":
                raise CallError(Code.UNAVAILABLE, "not now")
            wanted = unpack_as(body, Promote)
            self.states.append(wanted.state)
            assert wanted.state is not None
            self.epoch, self.revision = wanted.epoch, wanted.state.revision
        else:
            await self.checked.wait()
        return pack(StandingAnswer(self.epoch, self.epoch > 0, self.revision))


class Views:
    """The view: who waits hears when something may have changed. `others`: served elsewhere."""

    def __init__(self) -> None:
        self.waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []

    def of(self, name: str) -> tuple[Instance, ...]:
        return ()

    def wake(self) -> None:
        for wanted, waiter in self.waiters:
            if not waiter.done() and wanted():
                waiter.set_result(None)

    async def wait_for(self, wanted: Callable[[], bool], timeout_s: float) -> None:
        if not wanted():
            waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.waiters.append((wanted, waiter))
            async with asyncio.timeout(timeout_s):
                await waiter


class Host:
    """Some agents of one host, and the store that their state is in."""

    def __init__(self, **depends_on: tuple[str, ...]) -> None:
        self.view = Views()
        self.revision = SINCE
        self.reads: list[str] = []
        self.troubles: list[str] = []
        self.processes = {name: Process() for name in depends_on}
        self.runners = {name: self._runner(name, needed) for name, needed in depends_on.items()}
        self.promotions = Promotions(
            cast(Any, self.view),
            now_ns=lambda: 0,
            acting_epoch=lambda spec: EPOCH,
            served_here=lambda name: self.promotions.acts(self.runners[name], EPOCH),
            read_state=self.read,
            policy=POLICY,
        )

    def _runner(self, name: str, needed: tuple[str, ...]) -> AgentRunner:
        spec = AgentSpec(name=name, home="h", category="t", handler="x:Y", depends_on=needed)
        check = SdkCheck.__new__(SdkCheck)
        check.link = cast(Any, self.processes[name])
        state = SimpleNamespace(incarnation=3, phase=Phase.UP)
        return cast(AgentRunner, SimpleNamespace(spec=spec, name=name, state=state, check=check))

    async def read(self, name: str, timeout_s: float) -> StateContent:
        self.reads.append(name)
        await asyncio.sleep(0)
        if self.troubles and self.troubles.pop(0):
            raise EtcdUnavailable("nobody there")
        self.revision += 1
        return StateContent(self.revision, (("k", b"\xa1v", 5),))

    async def attempt(self, name: str) -> bool:
        return await self.promotions.attempt(self.runners[name], EPOCH, SINCE)


async def test_the_state_comes_with_the_promotion() -> None:
    host = Host(a=())
    assert await host.attempt("a")
    process = host.processes["a"]
    assert process.told == ["_promote", "_standing"]
    assert [state.revision for state in process.states if state is not None] == [SINCE + 1]
    assert host.reads == ["a"]


@pytest.mark.parametrize(("troubles", "recovers"), [(1, True), (2, True), (3, False)])
async def test_a_state_that_cannot_be_read_is_read_again(troubles: int, recovers: bool) -> None:
    host = Host(a=())
    host.troubles = ["down"] * troubles
    assert await host.attempt("a") is recovers
    assert len(host.reads) == min(troubles + 1, POLICY.attempts)
    assert ("_promote" in host.processes["a"].told) is recovers, "nobody is promoted without its state"


async def test_each_try_has_a_state_of_its_own() -> None:
    host = Host(a=())
    host.processes["a"].plan = ["refused", "ok"]
    assert await host.attempt("a")
    assert host.reads == ["a", "a"]
    assert host.processes["a"].revision == SINCE + 2


async def test_what_was_read_before_the_claim_is_not_believed() -> None:
    host = Host(a=())
    host.revision = SINCE - 50
    assert not await host.attempt("a")


async def test_a_dependent_waits_until_what_it_needs_acts_and_not_until_that_is_validated() -> None:
    host = Host(a=(), b=("a",))
    first, second = host.processes["a"], host.processes["b"]
    first.checked.clear()
    b = asyncio.create_task(host.attempt("b"))
    for _ in range(20):
        await asyncio.sleep(0)
    assert host.reads == ["b"], "read while it waits"
    assert second.told == []
    a = asyncio.create_task(host.attempt("a"))
    assert await b
    assert not a.done()
    first.checked.set()
    assert await a


async def test_another_process_of_it_has_to_act_itself() -> None:
    host = Host(a=())
    await host.attempt("a")
    assert host.promotions.acts(host.runners["a"], EPOCH)
    assert not host.promotions.acts(host.runners["a"], EPOCH + 1)
    assert not host.promotions.acts(host.runners["a"], None)
    cast(Any, host.runners["a"].state).incarnation += 1
    assert not host.promotions.acts(host.runners["a"], EPOCH)
