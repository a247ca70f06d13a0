"""The processes of agents on one simulated host: promoted by hostd, they check the shared deadline."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from services.control.domains import Unit
from services.control.recovery import Checked
from verification.simulation.etcd_model import ACKED, FAILED, Answer, Cell, Standing, StateWrite
from verification.simulation.world import MS, Event

if TYPE_CHECKING:
    from verification.simulation.node import Node

START_NS = 10 * MS
STATE_TIMEOUT_NS = 400 * MS
RETRY_NS = 50 * MS


@dataclass(slots=True)
class Page:
    """The memory that hostd shares with its agents: until when they may act, for what, at which epochs."""

    deadline_ns: int = 0
    serving: Mapping[Unit, int] = field(default_factory=dict)
    withheld: frozenset[Unit] = frozenset()

    def epoch(self, home: str, agent: str) -> int | None:
        """What the page says about an agent, the deadline aside."""
        own, whole = _units(home, agent)
        epoch = self.serving.get(own)
        if epoch is not None:
            return epoch
        return None if own in self.withheld else self.serving.get(whole)


@cache
def _units(home: str, agent: str) -> tuple[Unit, Unit]:
    return Unit(home, agent), Unit(home)


@dataclass(slots=True)
class Seat:
    """The process of an agent. `epoch`: the one that it was promoted to, 0 while it stands by."""

    agent: str
    home: str
    incarnation: int
    up: bool = False
    epoch: int = 0
    loaded: bool = False
    admits: bool = True
    value: int = 0
    revision: int = 0  # that wrote the value
    loaded_revision: int = -1  # of the store, when the state was loaded last; below 0: never
    busy: int | None = None  # number of the state request in flight
    timeout: Event | None = None
    paused_until_ns: int = 0
    orders: int = 0  # to promote or to demote: the last one counts
    hung: int = 0
    late: list[Callable[[], None]] = field(default_factory=list)  # what it hears when it goes on

    @property
    def at_rest(self) -> bool:
        """Nothing is under way in it."""
        going_on = self.busy is not None or self.hung or self.loaded != (self.epoch > 0)
        return self.up and self.admits and not going_on


@dataclass(slots=True)
class Call:
    """A client's operation. `value` None: a read. `done` hears `ok`, `fail` or `info`, and what was read."""

    agent: str
    home: str
    value: int | None
    done: Callable[[str, int, str], None]


class Agents:
    """They are processes of their own: they outlive hostd, and end with the machine."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.page = Page()
        self.seats: dict[str, Seat] = {}
        self._requests = 0
        self._incarnations = 0

    # Processes.

    def end(self) -> None:
        """The machine is gone."""
        for agent in tuple(self.seats):
            self.kill(agent)
        self.page = Page()

    def fork(self, agent: str, home: str, wait_ns: int) -> None:
        """A new process, up after some time."""
        self._incarnations += 1
        seat = self.seats[agent] = Seat(agent, home, self._incarnations)
        self.node.after(wait_ns, self._up, seat)

    def _up(self, seat: Seat) -> None:
        if self.seats.get(seat.agent) is seat:
            seat.up = True
            self.node.told(self.node.household.came_up, seat.agent)

    def kill(self, agent: str) -> bool:
        """At once. False: there is none."""
        seat = self.seats.pop(agent, None)
        if seat is None:
            return False
        self.node.world.cancel(seat.timeout)
        seat.loaded = seat.up = False
        seat.busy = None  # what it has sent may be performed yet, but who is dead tells nobody
        seat.late.clear()
        return True

    def hang(self, agent: str) -> Seat:
        """It does not answer until `go_on`."""
        seat = self.seats[agent]
        seat.hung += 1
        return seat

    def go_on(self, seat: Seat) -> None:
        """And then does what it was told meanwhile."""
        seat.hung -= 1
        if not seat.hung and self.seats.get(seat.agent) is seat:
            late, seat.late = seat.late, []
            for order in late:
                order()

    def acting_epoch(self, home: str, agent: str) -> int | None:
        """The check before each side effect."""
        page = self.page
        epoch = page.epoch(home, agent)
        if epoch is not None and self.node.variant.checks_the_deadline:
            return epoch if self.node.local() < page.deadline_ns else None
        return epoch

    # What hostd orders. An order to a process that hangs is done when it goes on, and not answered in time.

    def _heard(self, agent: str, order: Callable[[Seat], None]) -> None:
        seat = self.seats.get(agent)
        if seat is None or not seat.up:
            return
        if seat.hung:
            seat.late.append(lambda: order(seat))
        else:
            order(seat)

    def promote(self, agent: str, epoch: int, content: Answer, answered: Callable[[], None]) -> None:
        """Take the state, then serve at the epoch; `answered` is called then."""

        def order(seat: Seat) -> None:
            seat.orders += 1
            seat.admits = True
            if seat.epoch == epoch and seat.loaded:
                answered()
                return
            if seat.loaded_revision >= 0 and not self.node.variant.loads_state_on_promotion:
                seat.epoch, seat.loaded = epoch, True
                answered()
                return
            seat.epoch, seat.loaded = 0, False
            self._take(seat, epoch, seat.orders, content, answered)

        self._heard(agent, order)

    def standing(self, agent: str) -> Checked | None:
        """How a process says that it stands; None: no answer."""
        seat = self.seats.get(agent)
        if seat is None or not seat.up or seat.hung:
            return None
        acting = seat.epoch > 0 and seat.epoch == self.acting_epoch(seat.home, agent)
        return Checked(seat.epoch, acting, seat.loaded_revision)

    def resume(self, agent: str) -> None:
        """Admit calls again."""
        self._heard(agent, _admit)

    def quiesce(self, agent: str) -> None:
        """Admit no calls."""
        self._heard(agent, _refuse)

    def idle(self, agent: str) -> bool:
        """Whether a quiesced process would say that nothing is in flight."""
        seat = self.seats.get(agent)
        return seat is None or not seat.up or (seat.busy is None and not seat.hung)

    def demote(self, agent: str) -> None:
        """Stand by from now on."""
        self._heard(agent, self._stand_by)

    def _stand_by(self, seat: Seat) -> None:
        self.node.world.cancel(seat.timeout)
        seat.orders += 1
        seat.busy = None
        seat.epoch, seat.loaded, seat.admits = 0, False, True

    # State.

    def _take(
        self, seat: Seat, epoch: int, order: int, content: Answer, answered: Callable[[], None]
    ) -> None:
        """The state as hostd has read it, unless this process has seen a newer one."""
        if self.seats.get(seat.agent) is not seat or seat.loaded or seat.orders != order:
            return
        if seat.busy is not None:
            # What is in flight comes to its end first.
            self.node.after(RETRY_NS, self._take, seat, epoch, order, content, answered)
            return
        if content.revision < seat.loaded_revision:
            self._load(seat, epoch, order, answered)
            return
        self._hold(seat, epoch, content)
        answered()

    def _hold(self, seat: Seat, epoch: int, content: Answer) -> None:
        cell = content.value
        assert isinstance(cell, Cell)
        seat.value, seat.revision, seat.loaded_revision = cell.value, cell.revision, content.revision
        seat.loaded, seat.epoch = True, epoch

    def _load(self, seat: Seat, epoch: int, order: int, answered: Callable[[], None] | None) -> None:
        if self.seats.get(seat.agent) is not seat or seat.loaded or seat.orders != order:
            return
        if seat.busy is not None:
            # What is in flight comes to its end first.
            self.node.after(RETRY_NS, self._load, seat, epoch, order, answered)
            return
        number = self._begin(seat, self._load, seat, epoch, order, answered)
        store = self.node.cluster.store

        def loaded(answer: Answer) -> None:
            if not self._ended(seat, number) or seat.orders != order:
                return
            if answer.kind == ACKED:
                self._hold(seat, epoch, answer)
                if answered is not None:
                    answered()
            else:
                self.node.after(RETRY_NS, self._load, seat, epoch, order, answered)
            self.node.household.tell_quiesced()

        self.node.state_request(lambda: store.load(seat.agent), loaded, writes=False)

    def _reload(self, seat: Seat) -> None:
        """Its state is in doubt: load it again at the same epoch."""
        seat.loaded = False
        self.node.after(RETRY_NS, self._load, seat, seat.epoch, seat.orders, None)

    def _begin(self, seat: Seat, silent: Callable[..., None], *args: object) -> int:
        self._requests += 1
        number = self._requests
        seat.busy = number

        def timed_out() -> None:
            if self._ended(seat, number):
                silent(*args)
                self.node.household.tell_quiesced()

        seat.timeout = self.node.after(STATE_TIMEOUT_NS, timed_out)
        return number

    def _ended(self, seat: Seat, number: int) -> bool:
        """Whether this is the outcome of the request in flight: later ones of the same request are not."""
        if seat.busy != number:
            return False
        seat.busy = None
        self.node.world.cancel(seat.timeout)
        return True

    # Calls.

    def call(self, call: Call) -> None:
        seat = self.seats.get(call.agent)
        if seat is not None and seat.hung:
            seat.late.append(lambda: self.call(call))
            return
        if seat is None or not seat.up or not seat.loaded or not seat.admits or seat.busy is not None:
            call.done("fail", 0, "unavailable")
            return
        epoch = self.acting_epoch(call.home, call.agent)
        if epoch is None or epoch != seat.epoch:
            call.done("fail", 0, "not primary")
            return
        if call.value is None:
            self.node.checkers.acted(self.node.name, call.agent)
            call.done("ok", seat.value, "")
        elif seat.paused_until_ns > self.node.world.now:
            # Checked, then stopped by the scheduler, and only afterwards sent.
            fence = self.node.write_fence(call.home, call.agent)
            number = self._begin(seat, self._unknown, seat, call)
            wait_ns = seat.paused_until_ns - self.node.world.now
            self.node.checkers.count("hit agent-pause")
            self.node.after(wait_ns, self._send, seat, call, number, epoch, fence)
        else:
            self.node.checkers.acted(self.node.name, call.agent)
            number = self._begin(seat, self._unknown, seat, call)
            self._send(seat, call, number, epoch, self.node.write_fence(call.home, call.agent))

    def _unknown(self, seat: Seat, call: Call) -> None:
        if self.node.variant.reports_doubt:
            call.done("info", 0, "no answer of the store")
        else:
            call.done("ok", call.value or 0, "")
        self._reload(seat)

    def _send(
        self, seat: Seat, call: Call, number: int, epoch: int, fence: int | None, again: bool = False
    ) -> None:
        variant = self.node.variant
        if fence is None or call.value is None:
            if self._ended(seat, number):
                call.done("fail", 0, "fenced")
                self.node.household.tell_quiesced()
            return
        write = StateWrite(
            call.agent,
            call.home,
            self.node.name,
            epoch,
            call.value,
            fence if variant.writes_compare_the_domain else None,
            seat.revision if variant.writes_compare_the_cell else None,
        )

        heard = False

        def answered(answer: Answer) -> None:
            nonlocal heard
            if seat.busy != number or heard:
                return
            heard = True  # a request has one answer, however often it arrives
            known = answer.value.known if isinstance(answer.value, Standing) else None
            if known is not None and not again and self._moved_aside(seat, write, answer):
                self._send(seat, call, number, epoch, known.revision, again=True)
                return
            self._ended(seat, number)
            self._answered(seat, call, write, answer)
            self.node.household.tell_quiesced()

        store = self.node.cluster.store
        self.node.state_request(lambda: store.write(write), answered, writes=True)

    def _moved_aside(self, seat: Seat, write: StateWrite, answer: Answer) -> bool:
        """Refused only because another unit of the same record moved: still ours at this epoch."""
        stands = answer.value
        return (
            isinstance(stands, Standing)
            and stands.known is not None
            and stands.cell.revision == write.cell_revision
            and (
                stands.known.record.assignment(seat.agent) == (self.node.name, write.epoch)
                or not self.node.variant.refused_writes_look_again
            )
        )

    def _answered(self, seat: Seat, call: Call, write: StateWrite, answer: Answer) -> None:
        if answer.kind == ACKED:
            seat.value, seat.revision = write.value, answer.revision
            call.done("ok", write.value, "")
        elif answer.kind == FAILED:
            call.done("fail", 0, "store refused the connection")
        elif isinstance(answer.value, Standing):
            cell = answer.value.cell
            self._reload(seat)
            if cell.value == write.value:
                call.done("ok", write.value, "")
            elif cell.revision == write.cell_revision:
                call.done("fail", 0, "fenced")
            else:
                call.done("info", 0, "the state moved on")


def _admit(seat: Seat) -> None:
    seat.admits = True


def _refuse(seat: Seat) -> None:
    seat.admits = False
