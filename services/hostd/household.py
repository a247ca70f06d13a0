"""What ownership means for the agents of this host: who belongs here, who is promoted, quiesced, demoted,
killed. The decisions are services.control's; this performs them on runners and their processes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from typing import Protocol

from infra.topology import AgentSpec
from services.agent.fence import Allowance, FenceError, FenceWriter
from services.agent.standing import StandingAnswer
from services.agent.store import StateContent
from services.agent.wire import NIL
from services.control import recovery as recover
from services.control.agent import AgentState
from services.control.agent_table import Phase
from services.control.domains import Unit
from services.control.failback import FailBack, FailBackPolicy, failback_step
from services.control.holdings import Effect, Quiesced
from services.control.placement import Candidate, Room, place
from services.control.stances import MAY_ACT, Do, Stance
from services.hostd.agents import Supervisor
from services.hostd.config import HostConfig
from services.hostd.events import EventLog
from services.hostd.freezing import Freezer
from services.hostd.ownership import HostOwnership
from services.hostd.programs import Programs
from services.hostd.promotion import Promotions
from services.hostd.runner import AgentRunner
from services.hostd.view import View
from services.registry.etcd_types import EtcdError
from services.registry.model import Role
from services.registry.store import RecordError

ORDER_LIMIT_S = 1.0
SECOND_TRY_S = 1.0
STAYS_LIMIT_S = 1.0
GRACE_SHARE = 0.5
"""Of the margin: how long a fenced agent may take to say that it is; who is silent is frozen."""

log = logging.getLogger("threenines.hostd")


class Stays(Protocol):
    """The part of `services.registry.stays.StayStore` that is used."""

    async def read(self, *, timeout_s: float) -> Mapping[str, object]: ...


class AgentHousehold:
    """Set `ownership` and `reconsider` before anything is fed; `stays`: which domains are not to go home."""

    def __init__(
        self,
        config: HostConfig,
        *,
        fence: FenceWriter,
        supervisor: Supervisor,
        view: View,
        events: EventLog,
        now_ns: Callable[[], int],
        changed: Callable[[str], None],
        read_state: Callable[[str, float], Awaitable[StateContent]],
        policy: recover.RecoveryPolicy | None = None,
    ) -> None:
        """`changed(name)`: the record of an agent is to be published anew. `read_state`: see `Promotions`."""
        self.ownership: HostOwnership
        self.reconsider: Callable[[], None] = lambda: None
        self.stays: Stays | None = None
        self._config = config
        self._host = config.host
        self._fence = fence
        self._supervisor = supervisor
        self._view = view
        self._events = events
        self._now_ns = now_ns
        self._changed = changed
        self._failback_policy = FailBackPolicy(hold_down_ns=config.failover.hold_down_ms * 1_000_000)
        self._recovered: dict[str, tuple[int, int]] = {}  # agent -> (incarnation, epoch)
        self._recovering: dict[str, tuple[int, int, asyncio.Task[None]]] = {}
        self._since: dict[Unit, int] = {}
        self._away: dict[Unit, FailBack] = {}
        self._roles: dict[str, tuple[Role, int]] = {}
        self._programs = Programs(
            supervisor,
            events,
            inherited=fence.inherited,
            kill_margin_ns=config.lease.margin_ms * 1_000_000 // 2,
            now_ns=now_ns,
            serving=self.serving,
            learned=self.learned,
        )
        self._freezer = Freezer(events, self._ask_standing, self._may_act, self._lost)
        self._promotions = Promotions(
            view,
            now_ns=now_ns,
            acting_epoch=lambda spec: self.ownership.acting_epoch(spec.home, spec.name),
            served_here=self._served_here,
            read_state=read_state,
            policy=policy or recover.RecoveryPolicy(),
        )
        self._tasks: set[asyncio.Task[None]] = set()
        self._due: asyncio.Handle | None = None
        self._waiters: list[tuple[Callable[[], bool], asyncio.Future[None]]] = []
        self.trouble: str | None = None
        """Why the fence cannot be written at present."""

    # What others ask.

    def belongs(self, spec: AgentSpec) -> bool:
        """Whether a process of that agent is to run on this host: to serve, or to stand by."""
        if spec.home != self._host and spec.standby is None:
            return False
        if spec.command is None:
            if spec.home == self._host:
                return True
            if spec.standby == self._host:
                holder, _ = self.ownership.holder(spec.home, spec.name)
                soon = holder == self._host or self.ownership.suspects(holder)
                if soon or self._config.failover.warm(spec.criticality):
                    return True
            return self.ownership.serves(spec.home, spec.name)  # until the handover has been sent
        return self._programs.may_run(spec)

    def standing(self, spec: AgentSpec) -> tuple[Role, int]:
        """Role and epoch of this host's instance of an agent."""
        runner = self._supervisor.runners.get(spec.name)
        epoch = self.ownership.acting_epoch(spec.home, spec.name)
        if runner is None or epoch is None:
            return Role.STANDBY, 0
        if self._recovered.get(spec.name) != (runner.state.incarnation, epoch):
            return Role.STANDBY, 0
        return Role.PRIMARY, epoch

    def in_order(self, specs: Mapping[str, AgentSpec]) -> list[AgentSpec]:
        """Critical first, dependencies first. What does not fit or lacks a dependency comes last."""
        candidates = [
            Candidate(s.name, s.criticality, tuple(d for d in s.depends_on if d in specs), s.memory_mb or 0)
            for s in specs.values()
        ]
        try:
            order = place(candidates, Room(), frozenset()).order
        except ValueError:
            order = ()  # a circle: any order is as good
        return [specs[n] for n in order] + [s for n, s in specs.items() if n not in set(order)]

    async def wait_for(self, wanted: Callable[[], bool], timeout_s: float) -> None:
        """Returns when `wanted` holds, now or after something was learned. Raises TimeoutError."""
        if wanted():
            return
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        entry = (wanted, waiter)
        self._waiters.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                await waiter
        finally:
            self._waiters.remove(entry)

    # What the shell of ownership asks (services.hostd.ownership.Household).

    def allow(self, allowance: Allowance) -> None:
        """Into the fence, before anything else is done."""
        try:
            self._fence.publish(allowance)
            self.trouble = None
        except FenceError as error:
            self.trouble = str(error)  # the last allowance runs out by itself
            return
        self._programs.allowed(allowance)

    def begin(self) -> None:
        """From here on the loop runs."""
        self._programs.begin()

    def learned(self) -> None:
        """Look at everything again, in the next turn of the loop."""
        if self._due is None:
            self._due = asyncio.get_running_loop().call_soon(self._look)

    def effect(self, effect: Effect) -> None:
        """PROMOTE, RESUME, QUIESCE or DEMOTE the agents of a unit."""
        unit = effect.unit
        match effect.do:
            case Do.PROMOTE:
                self._since[unit] = self.ownership.revision(unit.home)
                word = "claimed" if unit.home == self._host and not unit.agent else "takeover"
                self._events.add(word, agent=unit.agent, detail=f"{unit} at epoch {effect.epoch}")
            case Do.RESUME:
                self._events.add("resumed", agent=unit.agent, detail=f"{unit} at epoch {effect.epoch}")
                for runner in self._of(unit):
                    self._freezer.go_on(runner)
                self._tell(unit, "_resume")
            case Do.QUIESCE:
                self._events.add("handover", agent=unit.agent, detail=f"{unit} to {effect.target}")
                self._spawn(self._quiesce(unit))
            case Do.DEMOTE:
                holder, epoch = self.ownership.holder(unit.home, unit.agent)
                if not effect.target:
                    self._events.add("lost", agent=unit.agent, detail=f"{unit} to {holder}, epoch {epoch}")
                self._tell(unit, "_demote")
                for runner in self._of(unit):
                    self._freezer.end(runner)
                self._programs.end(self._of(unit))
        self.learned()

    def fenced(self, units: tuple[Unit, ...]) -> None:
        """The deadline passed: whoever does not say at once that it has stopped is frozen."""
        names = ", ".join(sorted(str(unit) for unit in units))
        self._events.add("fenced", detail=names or "nothing was served")
        self._programs.end_all()
        for runner in self._supervisor.runners.values():
            if runner.spec.command is not None or runner.process is None:
                continue
            if runner.name in self._recovered:
                self._spawn(self._freezer.freeze_unless_fenced(runner))
            else:
                self._freezer.go_on(runner)  # a standby that the watchdog has stopped with the others
        self.learned()

    # What else happens.

    def agent_changed(self, name: str) -> None:
        """A runner's record changed: it came up, or went, or crashes again and again."""
        runner = self._supervisor.runners.get(name)
        if runner is None:
            self._recovered.pop(name, None)
            return
        self._consider(runner)
        crashes = runner.state.phase is Phase.BACKOFF and runner.state.fork_failures == 0
        if crashes and self.serving(runner.spec):
            self._hand_to_standby(runner.spec)

    def keep_house(self, definitions: Mapping[str, AgentSpec]) -> None:
        """Now and then: units that are away from home go back when it has been stable for long enough, and at
        once where nobody but their home can run them."""
        for spec in definitions.values():
            homesick = spec.home != self._host and spec.standby is None and self.serving(spec)
            if homesick and self.ownership.alive(spec.home):
                self.ownership.release(Unit(spec.home, spec.name), spec.home)
        holdings = self.ownership.state.holdings
        away = {unit for unit in holdings if unit.home != self._host or unit.agent}
        for unit in away | self._away.keys():
            home = self._home_of(unit)
            if home is None:
                continue
            holding = holdings.get(unit)
            state, ask = failback_step(
                self._away.get(unit, FailBack()),
                held=holding is not None and holding.stance in MAY_ACT,
                releasing=holding is not None and holding.stance is not Stance.SERVING,
                alive=self.ownership.alive(home),
                now_ns=self._now_ns(),
                policy=self._failback_policy,
            )
            self._away[unit] = state
            if ask:
                self._spawn(self._go_home(unit, home))

    def may_go_home(self, unit: Unit) -> None:
        """What kept it here is gone: its hold-down begins now."""
        self._away.pop(unit, None)

    async def _go_home(self, unit: Unit, home: str) -> None:
        """The fail-back, unless the unit is to stay or nobody can say; then it is looked for again later."""
        try:
            stays = {} if self.stays is None else await self.stays.read(timeout_s=STAYS_LIMIT_S)
        except (EtcdError, RecordError) as error:
            log.warning("%s does not go back to %s yet: %s", unit, home, error)
            return
        if unit.home in stays:
            self._events.add("stays", agent=unit.agent, detail=f"{unit}: {stays[unit.home]}")
            return
        self._events.add("failback", agent=unit.agent, detail=f"{unit} to {home}")
        self.ownership.release(unit, home)

    def close(self) -> None:
        """hostd leaves; the agents stay what they are until the deadline."""
        for _, _, task in self._recovering.values():
            task.cancel()
        for task in self._tasks:
            task.cancel()
        self._programs.close()
        self._fence.close()

    # Who serves.

    def _home_of(self, unit: Unit) -> str | None:
        """Where a unit that this host holds goes back to; None when it is at home."""
        return None if unit.home == self._host else unit.home

    def serving(self, spec: AgentSpec) -> bool:
        """Whether this host serves that agent now, by its unit."""
        unit = self.ownership.state.unit_of(spec.home, spec.name)
        holding = self.ownership.state.holdings.get(unit)
        return (
            holding is not None
            and holding.stance is Stance.SERVING
            and self.ownership.acting_epoch(spec.home, spec.name) is not None
        )

    def _served_here(self, name: str) -> bool:
        runner = self._supervisor.runners.get(name)
        if runner is None or runner.state.phase is not Phase.UP:
            return False
        epoch = self.ownership.acting_epoch(runner.spec.home, name)
        return self.standing(runner.spec)[0] is Role.PRIMARY or self._promotions.acts(runner, epoch)

    def _of(self, unit: Unit) -> list[AgentRunner]:
        """The runners of a unit's agents, those included that have left it for another host by now. One that
        was parted from its domain may belong to it again."""
        state = self.ownership.state

        def meant(name: str) -> bool:
            present = state.unit_of(unit.home, name)
            return name == unit.agent if unit.agent else present == unit or present not in state.holdings

        runners = self._supervisor.runners.values()
        return [runner for runner in runners if runner.spec.home == unit.home and meant(runner.name)]

    def _look(self) -> None:
        self._due = None
        self.reconsider()
        self._supervisor.reconsider_turns()
        for runner in list(self._supervisor.runners.values()):
            self._consider(runner)
            role = self.standing(runner.spec)
            if self._roles.get(runner.name) != role:
                self._roles[runner.name] = role
                self._changed(runner.name)
        for wanted, waiter in self._waiters:
            if not waiter.done() and wanted():
                waiter.set_result(None)

    def _consider(self, runner: AgentRunner) -> None:
        """Level-triggered: begins the recovery of an agent that is up, served here and not yet promoted."""
        name, incarnation = runner.name, runner.state.incarnation
        under_way = self._recovering.get(name)
        if not self.serving(runner.spec) or runner.state.phase is not Phase.UP:
            if under_way is not None:
                under_way[2].cancel()
                del self._recovering[name]
            return
        epoch = self.ownership.acting_epoch(runner.spec.home, name) or 0
        if self._recovered.get(name) == (incarnation, epoch):
            return
        if under_way is not None:
            if under_way[:2] == (incarnation, epoch):
                return
            under_way[2].cancel()
        task = asyncio.get_running_loop().create_task(self._recover(runner, incarnation, epoch))
        self._recovering[name] = (incarnation, epoch, task)

    async def _recover(self, runner: AgentRunner, incarnation: int, epoch: int) -> None:
        name = runner.name
        unit = self.ownership.state.unit_of(runner.spec.home, name)
        since = self._since.get(unit, self._since.get(Unit(unit.home), 0))
        try:
            while not await self._promotions.attempt(runner, epoch, since):
                self._events.add(
                    "not-recovered", agent=name, incarnation=incarnation, detail=f"epoch {epoch}"
                )
                await asyncio.sleep(SECOND_TRY_S)
            self._recovered[name] = (incarnation, epoch)
            self._roles[name] = self.standing(runner.spec)
            self._events.add("promoted", agent=name, incarnation=incarnation, detail=f"epoch {epoch}")
            self._changed(name)
            self._view.wake()  # who depends on it need not wait for the publication
        finally:
            if self._recovering.get(name, (0, 0))[:2] == (incarnation, epoch):
                del self._recovering[name]

    # Handing over, stopping.

    def _hand_to_standby(self, spec: AgentSpec) -> None:
        """Only from its home: on its standby host it stays, crashing or not, until the fail-back."""
        other = spec.standby
        if spec.home == self._host and other is not None and self.ownership.alive(other):
            self._events.add("handover", agent=spec.name, detail=f"crashes here: to {other}")
            self.ownership.release(Unit(spec.home, spec.name), other)

    def _tell(self, unit: Unit, method: str) -> None:
        for runner in self._of(unit):
            if runner.spec.command is None and runner.state.living:
                self._spawn(self._tell_one(runner, method))

    async def _tell_one(self, runner: AgentRunner, method: str) -> None:
        await self._promotions.order(runner, method, NIL, ORDER_LIMIT_S)

    async def _quiesce(self, unit: Unit) -> None:
        limit_s = self._config.failover.quiesce_ms / 1000

        async def one(runner: AgentRunner) -> bool:
            if not runner.state.living:
                return True  # what has no process has nothing in flight
            program = runner.spec.command is not None
            try:  # a program does not belong here any more, so that it is being stopped
                await runner.wait_for(_stopped if program else _begun, limit_s)
            except TimeoutError:
                return False
            if program:
                return True
            answer = await self._promotions.order(runner, "_quiesce", NIL, limit_s)
            return answer is not None or not runner.state.living

        if all(await asyncio.gather(*(one(runner) for runner in self._of(unit)))):
            self.ownership.feed(Quiesced(unit))

    def _may_act(self) -> bool:
        return self.ownership.held()

    def _lost(self, runner: AgentRunner) -> bool:
        return not self.ownership.serves(runner.spec.home, runner.name)

    async def _ask_standing(self, runner: AgentRunner) -> StandingAnswer | None:
        limit_s = self._config.lease.margin_ms / 1000 * GRACE_SHARE
        return await self._promotions.order(runner, "_standing", NIL, limit_s)

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _stopped(state: AgentState) -> bool:
    return state.phase is Phase.DOWN


def _begun(state: AgentState) -> bool:
    """Whether it can be told anything: a process that has just been forked has no ear yet."""
    return state.phase not in (Phase.FORKING, Phase.STARTING)
