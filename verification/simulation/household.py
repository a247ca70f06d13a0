"""What a simulated hostd does for its agents, as `services/hostd/household.py` does it with the same core:
who runs here, in which order, whose recovery is validated, what goes home, who is killed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.control import recovery as recover
from services.control.domains import Unit
from services.control.failback import Away, FailBack, failback_step
from services.control.holdings import Quiesced
from services.control.placement import Room, place
from services.control.recovery import Recovery, Report, Stage
from services.control.stances import MAY_ACT, Do, Stance
from verification.simulation.agents import START_NS, Agents
from verification.simulation.etcd_model import ACKED, Answer
from verification.simulation.world import MS, Event

if TYPE_CHECKING:
    from verification.simulation.node import Node

SECOND_TRY_NS = 1_000 * MS
GRACE_NS = 50 * MS
"""Half the margin: how long a fenced agent may take to say that it is, and hostd to say anything."""
CHECK_NS = MS // 2
"""A question to a process, and its answer."""
TOLD_NS = 2 * MS
"""From an announcement to the other hosts' view of it."""


@dataclass(slots=True)
class Recovering:
    """The recovery of one process at one epoch, and its timer. `content`: what was read of its state."""

    incarnation: int
    epoch: int
    state: Recovery
    timer: Event | None = None
    read: int = 0  # number of the read that counts
    content: Answer | None = None


class Household:
    """Ends with hostd; what lasts are the processes (`agents`)."""

    def __init__(self, node: Node, agents: Agents) -> None:
        self.node = node
        self.agents = agents
        self.fleet = node.setting.fleet
        self.recovered: dict[str, tuple[int, int]] = {}  # agent -> (incarnation, epoch)
        self.away: dict[Unit, FailBack] = {}
        self.drained = False
        self._recovering: dict[str, Recovering] = {}
        self._since: dict[Unit, int] = {}
        self._quiescing: set[Unit] = set()
        self._acting: dict[str, tuple[int, int]] = {}
        self._reads = 0
        self._kept: dict[str, Answer] = {}

    def begin(self) -> None:
        """A new hostd: it knows nothing, and finds the processes that run."""
        self.recovered.clear()
        self.away.clear()
        self._since.clear()
        self._quiescing.clear()
        self._acting.clear()
        self._kept.clear()
        self.drained = False
        for agent in tuple(self._recovering):
            self._forget(agent)

    # What the core's effects are here.

    def effect(self, do: Do, unit: Unit, epoch: int) -> None:
        node, own = self.node, self.node.own
        assert own is not None
        self._quiescing.discard(unit)
        if do is Do.PROMOTE:
            node.checkers.note("promote", node.name, str(unit), epoch)
            self._since[unit] = own.domains[unit.home].revision
        elif do is Do.RESUME:
            for agent in node.agents_of(unit):
                self.agents.resume(agent)
        elif do is Do.QUIESCE:
            for agent in node.agents_of(unit):
                self.agents.quiesce(agent)
            self._quiescing.add(unit)
            self.tell_quiesced()
        else:
            node.checkers.note("demote", node.name, str(unit), epoch)
            for agent in node.agents_of(unit):
                self.agents.demote(agent)

    def tell_quiesced(self) -> None:
        """Units that are to be handed over and in which nothing is in flight any more."""
        for unit in tuple(self._quiescing):
            if all(self.agents.idle(agent) for agent in self.node.agents_of(unit)):
                self._quiescing.discard(unit)
                self.node.after(MS, self.node.feed, Quiesced(unit))

    def fenced(self) -> None:
        """The deadline passed: who serves and does not answer is killed."""
        for agent in self.recovered:
            seat = self.agents.seats.get(agent)
            if seat is not None and seat.hung:
                self.node.after(GRACE_NS, self.kill_if_hung, agent, seat.incarnation)

    def kill_if_hung(self, agent: str, incarnation: int) -> None:
        """hostd's word on a process that has not answered for too long."""
        seat = self.agents.seats.get(agent)
        if seat is not None and seat.hung and seat.incarnation == incarnation and self.node.running:
            self.node.checkers.note("killed", self.node.name, agent)
            self.agents.kill(agent)
            self.node.told(self.ended, agent)

    # Processes.

    def belongs(self, agent: str) -> bool:
        """Whether a process of that agent is to run on this host: to serve, or to stand by."""
        spec = self.fleet.agents[agent]
        name = self.node.name
        if spec.home == name or (spec.standby == name and spec.criticality != "utility"):
            return True
        own = self.node.own
        if own is None or spec.standby is None:
            return False
        known = own.domains.get(spec.home)
        holder = spec.home if known is None else known.record.assignment(agent).holder
        soon = holder == name or holder in self.node.suspected
        return (spec.standby == name and soon) or own.unit_of(spec.home, agent) in own.proof

    def look(self) -> None:
        """Something was learned: starts and stops processes, begins and ends recoveries."""
        if not self.node.running:
            return
        seats = self.agents.seats
        wanted = [agent for agent in self.fleet.agents if self.belongs(agent)]
        for agent in [agent for agent in seats if agent not in wanted]:
            self.agents.kill(agent)
            self._forget(agent)
        missing = [agent for agent in wanted if agent not in seats]
        if missing:
            self._start(missing)
        for agent in tuple(seats):
            self._consider(agent)

    def _start(self, missing: list[str]) -> None:
        agents = self.fleet.agents
        candidates = [agents[agent].candidate() for agent in missing]
        others = frozenset(agents) - frozenset(missing)
        order = self.node.variant.order(place(candidates, Room(), others).order)
        self.node.checkers.started(self.node.name, order, self.fleet)
        for place_in_line, agent in enumerate(order):
            self.agents.fork(agent, agents[agent].home, START_NS * (1 + place_in_line))

    def came_up(self, agent: str) -> None:
        """A process is ready."""
        self._consider(agent)

    def ended(self, agent: str) -> None:
        """The kernel says that a process is gone."""
        self.recovered.pop(agent, None)
        self._forget(agent)
        self.tell_quiesced()
        self.look()

    # Recoveries.

    def serving(self, agent: str) -> int | None:
        """The epoch at which this host serves an agent now, by its unit."""
        own = self.node.own
        home = self.fleet.homes[agent]
        if own is None:
            return None
        holding = own.holdings.get(own.unit_of(home, agent))
        if holding is None or holding.stance is not Stance.SERVING:
            return None
        return own.acting_epoch(home, agent, self.node.local(), self.node.policy)

    def announced(self, agent: str) -> bool:
        """Whether this host's record of an agent says that it serves."""
        seat = self.agents.seats.get(agent)
        return seat is not None and self.recovered.get(agent) == (seat.incarnation, seat.epoch)

    def _forget(self, agent: str) -> None:
        under_way = self._recovering.pop(agent, None)
        if under_way is not None:
            self.node.world.cancel(under_way.timer)

    def _consider(self, agent: str) -> None:
        """Level-triggered: begins the recovery of an agent that is up, served here and not yet promoted."""
        seat = self.agents.seats.get(agent)
        under_way = self._recovering.get(agent)
        epoch = self.serving(agent) if seat is not None and seat.up else None
        if seat is None or epoch is None:
            if under_way is not None:
                self._forget(agent)
            return
        if self.recovered.get(agent) == (seat.incarnation, epoch):
            return
        if under_way is not None:
            if (under_way.incarnation, under_way.epoch) == (seat.incarnation, epoch):
                return
            self._forget(agent)
        home = seat.home
        own = self.node.own
        assert own is not None
        since = self._since.get(own.unit_of(home, agent), self._since.get(Unit(home), 0))
        self._recover(agent, seat.incarnation, epoch, since)

    def _recover(self, agent: str, incarnation: int, epoch: int, since: int) -> None:
        state = recover.begin(agent, epoch, since, self.node.local(), self.node.setting.recovery)
        one = self._recovering[agent] = Recovering(incarnation, epoch, state)
        self._read(agent, one)
        if self._dependencies(agent):
            self.report(agent, incarnation, epoch, Report.READY)
        else:
            self._arm(agent)

    def _dependencies(self, agent: str) -> bool:
        return all(
            self._acts(name) or self.node.sees_served(name) for name in self.fleet.agents[agent].depends_on
        )

    def _acts(self, agent: str) -> bool:
        """Whether a process here has said that it serves now, validated or not."""
        seat = self.agents.seats.get(agent)
        return seat is not None and self._acting.get(agent) == (seat.incarnation, self.serving(agent))

    def recheck(self) -> None:
        """An agent serves again somewhere: those that wait for it may go on."""
        for agent, one in tuple(self._recovering.items()):
            if one.state.stage is Stage.WAITING and self._dependencies(agent):
                self.report(agent, one.incarnation, one.epoch, Report.READY)

    def report(self, agent: str, incarnation: int, epoch: int, report: Report | None) -> None:
        """What came of a step of a recovery; None: its time is up."""
        one = self._recovering.get(agent)
        if one is None or (one.incarnation, one.epoch) != (incarnation, epoch):
            return
        policy = self.node.setting.recovery
        one.state, dos = recover.recovery_step(one.state, report, self.node.local(), policy)
        self._arm(agent)
        for do in dos:
            if do is recover.Do.PROMOTE:
                self._promote(agent, one)
            elif do is recover.Do.CHECK:
                self.node.after(CHECK_NS, self.node.told, self._check, agent, one)
            elif do is recover.Do.ANNOUNCE:
                self._announce(agent, incarnation, epoch)
            else:
                self.node.checkers.note("not recovered", self.node.name, agent, epoch)
                since = one.state.since_revision
                if not self.node.variant.tries_again:
                    continue
                self.node.after(SECOND_TRY_NS, self._again, agent, one, since)

    def _check(self, agent: str, one: Recovering) -> None:
        checked = self.agents.standing(agent)
        if checked is not None and self._recovering.get(agent) is one and one.state.stage is Stage.CHECKING:
            self.report(agent, one.incarnation, one.epoch, self.node.variant.judge(one.state, checked))

    def _read(self, agent: str, one: Recovering) -> None:
        """After the claim, and for this process: nobody has let it write yet."""
        self._reads += 1
        number, one.read, one.content = self._reads, self._reads, None
        store = self.node.cluster.store

        def answered(answer: Answer) -> None:
            self.node.told(self._have, agent, one, number, answer)

        self.node.state_request(lambda: store.load(agent), answered, writes=False)

    def _have(self, agent: str, one: Recovering, number: int, answer: Answer) -> None:
        if self._recovering.get(agent) is not one or one.read != number:
            return
        one.content = answer
        if not self.node.variant.reads_state_anew:
            one.content = self._kept.setdefault(agent, answer)
        if one.state.stage is Stage.PROMOTING:
            self._tell(agent, one)

    def _promote(self, agent: str, one: Recovering) -> None:
        if one.state.attempts > 1:
            self._read(agent, one)
        elif one.content is not None:
            self._tell(agent, one)

    def _tell(self, agent: str, one: Recovering) -> None:
        attempt, content = one.state.attempts, one.content
        if content is None or content.kind != ACKED:
            self.report(agent, one.incarnation, one.epoch, Report.FAILED)
            return
        self.agents.promote(agent, one.epoch, content, lambda: self._promoted(agent, one, attempt))

    def _promoted(self, agent: str, one: Recovering, attempt: int) -> None:
        current = self._recovering.get(agent) is one and one.state.attempts == attempt
        if current and one.state.stage is Stage.PROMOTING and self.node.running:
            # By way of hostd's queue: it may be stopped.
            self.node.told(self._serves, agent, one)

    def _serves(self, agent: str, one: Recovering) -> None:
        """It says that it serves. Those that need it may go on; it is validated meanwhile."""
        self.report(agent, one.incarnation, one.epoch, Report.PROMOTED)
        self._acting[agent] = (one.incarnation, one.epoch)
        self.recheck()

    def _again(self, agent: str, one: Recovering, since: int) -> None:
        if self._recovering.get(agent) is one:
            self._forget(agent)
            self._recover(agent, one.incarnation, one.epoch, since)

    def _announce(self, agent: str, incarnation: int, epoch: int) -> None:
        self._forget(agent)
        self.recovered[agent] = (incarnation, epoch)
        node = self.node
        node.checkers.announced(node, agent, epoch)
        for other in node.checkers.nodes.values():
            if other is node:
                self.recheck()
            elif node.cluster.network.reaches(node.name, other.name):
                other.after(TOLD_NS, other.told, other.household.recheck)

    def _arm(self, agent: str) -> None:
        one = self._recovering.get(agent)
        if one is None:
            return
        self.node.world.cancel(one.timer)
        one.timer = None
        due_ns = one.state.deadline_ns
        if due_ns is not None:
            wait_ns = self.node.true_ns(due_ns) - self.node.world.now
            about = (agent, one.incarnation, one.epoch, None)
            one.timer = self.node.after(wait_ns, self.node.told, self.report, *about)

    @property
    def busy(self) -> bool:
        """Whether a recovery or a handover is under way."""
        return bool(self._recovering or self._quiescing)

    # Going home, and away.

    def keep_house(self) -> None:
        """Units away from home go back when it has been stable for long enough, and at once where nobody else
        can run them."""
        node, own = self.node, self.node.own
        assert own is not None
        units = [unit for unit in own.holdings if unit.home != node.name]
        units += [u for u, state in self.away.items() if state.phase is not Away.HOME and u not in units]
        if not units:
            return
        now_ns = node.local()
        for spec in self.fleet.agents.values():
            homesick = spec.home != node.name and spec.standby is None and self.serving(spec.name)
            if homesick and node.alive(spec.home):
                node.ask(Unit(spec.home, spec.name), spec.home)
        for unit in units:
            holding = own.holdings.get(unit)
            state, ask = failback_step(
                self.away.get(unit, FailBack()),
                held=holding is not None and holding.stance in MAY_ACT,
                releasing=holding is not None and holding.stance is not Stance.SERVING,
                alive=node.alive(unit.home),
                now_ns=now_ns,
                policy=node.setting.failback,
            )
            self.away[unit] = state
            if ask:
                node.checkers.note("failback", node.name, str(unit))
                node.ask(unit, unit.home)

    def hand_away(self, agent: str) -> None:
        """It crashes here again and again: to its standby, from its home only."""
        spec = self.fleet.agents[agent]
        if spec.home == self.node.name and spec.standby is not None and self.node.alive(spec.standby):
            self.node.checkers.count("hit crash-loop")
            self.node.ask(Unit(spec.home, agent), spec.standby)

    def drain(self) -> None:
        """An operator empties this host: each unit to another one."""
        node, own = self.node, self.node.own
        if own is None:
            return
        others = [peer for peer in self.fleet.workers if peer != node.name and node.alive(peer)]
        for unit, holding in own.holdings.items():
            if holding.stance is Stance.SERVING and others:
                node.checkers.count("hit drain")
                node.ask(unit, others[0])

    def dues_ns(self) -> list[int]:
        """When units may go home, on this host's clock."""
        dues = (state.due_ns(self.node.setting.failback) for state in self.away.values())
        return [due for due in dues if due is not None]
