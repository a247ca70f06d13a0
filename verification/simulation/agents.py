"""The agents of one simulated host: seats that load their state, serve calls, check the shared deadline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from services.control.domains import Unit
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
        own = Unit(home, agent)
        if own in self.serving:
            return self.serving[own]
        return None if own in self.withheld else self.serving.get(Unit(home))


@dataclass(slots=True)
class Seat:
    """An agent that serves as primary on this host, or is about to."""

    agent: str
    home: str
    epoch: int
    loaded: bool = False
    admits: bool = True
    value: int = 0
    revision: int = 0
    busy: int | None = None  # number of the state request in flight
    timeout: Event | None = None
    paused_until_ns: int = 0


@dataclass(slots=True)
class Call:
    """A client's operation. `value` None: a read. `done` hears `ok`, `fail` or `info`, and what was read."""

    agent: str
    home: str
    value: int | None
    done: Callable[[str, int, str], None]


class Agents:
    """Seats are processes of their own: they outlive hostd, and end with the host."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.page = Page()
        self.seats: dict[str, Seat] = {}
        self._quiescing: set[Unit] = set()
        self._requests = 0
        self._left: dict[str, tuple[int, int]] = {}

    def end(self) -> None:
        for seat in self.seats.values():
            self.node.world.cancel(seat.timeout)
        self.seats.clear()
        self._quiescing.clear()
        self.page = Page()

    def acting_epoch(self, home: str, agent: str) -> int | None:
        """The check before each side effect."""
        epoch = self.page.epoch(home, agent)
        if self.node.variant.fences_itself and self.node.local() >= self.page.deadline_ns:
            return None
        return epoch

    # What hostd orders.

    def promote(self, agents: Mapping[str, str], epoch: int) -> None:
        for agent, home in agents.items():
            self.demote((agent,))
            self.seats[agent] = seat = Seat(agent, home, epoch)
            if agent in self._left and not self.node.variant.loads_state_on_promotion:
                seat.loaded = True
                seat.value, seat.revision = self._left[agent]
                continue
            self.node.after(START_NS, self._load, seat)

    def resume(self, agents: Mapping[str, str], epoch: int) -> None:
        missing = {}
        for agent, home in agents.items():
            seat = self.seats.get(agent)
            if seat is None or seat.epoch != epoch:
                missing[agent] = home
            else:
                seat.admits = True
        self.promote(missing, epoch)

    def quiesce(self, unit: Unit, agents: Mapping[str, str]) -> None:
        for agent in agents:
            if agent in self.seats:
                self.seats[agent].admits = False
        self._quiescing.add(unit)
        self.tell_quiesced()

    def tell_quiesced(self) -> None:
        for unit in tuple(self._quiescing):
            agents = self.node.agents_of(unit)
            busy = any(a in self.seats and self.seats[a].busy is not None for a in agents)
            if not busy:
                self._quiescing.discard(unit)
                self.node.quiesced(unit)

    def demote(self, agents: Iterable[str]) -> None:
        for agent in agents:
            seat = self.seats.pop(agent, None)
            if seat is not None:
                self.node.world.cancel(seat.timeout)
                seat.loaded = False
                self._left[agent] = (seat.value, seat.revision)

    def demote_unserved(self) -> None:
        """What the page does not name is not ours."""
        seats = self.seats.values()
        self.demote([seat.agent for seat in seats if self.page.epoch(seat.home, seat.agent) is None])

    # State.

    def _load(self, seat: Seat) -> None:
        if self.seats.get(seat.agent) is not seat or seat.loaded or seat.busy is not None:
            return
        number = self._begin(seat, self._load_failed, seat)
        store = self.node.cluster.store

        def loaded(answer: Answer) -> None:
            if not self._ended(seat, number):
                return
            cell = answer.value
            if answer.kind == ACKED and isinstance(cell, Cell):
                seat.value, seat.revision, seat.loaded = cell.value, cell.revision, True
            else:
                self.node.after(RETRY_NS, self._load, seat)
            self.tell_quiesced()

        self.node.state_request(lambda: store.load(seat.agent), loaded, writes=False)

    def _load_failed(self, seat: Seat) -> None:
        self.node.after(RETRY_NS, self._load, seat)

    def _begin(self, seat: Seat, silent: Callable[..., None], *args: object) -> int:
        self._requests += 1
        number = self._requests
        seat.busy = number

        def timed_out() -> None:
            if self._ended(seat, number):
                silent(*args)
                self.tell_quiesced()

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
        if seat is None or not seat.loaded or not seat.admits or seat.busy is not None:
            call.done("fail", 0, "unavailable")
            return
        epoch = self.acting_epoch(call.home, call.agent)
        if epoch is None or epoch != seat.epoch:
            call.done("fail", 0, "not primary")
            return
        if call.value is None:
            self.node.checkers.acted(self.node.name, call.agent, epoch)
            call.done("ok", seat.value, "")
        elif seat.paused_until_ns > self.node.world.now:
            # Checked, then stopped by the scheduler, and only afterwards sent.
            fence = self.node.write_fence(call.home, call.agent)
            number = self._begin(seat, self._unknown, seat, call)
            wait_ns = seat.paused_until_ns - self.node.world.now
            self.node.after(wait_ns, self._send, seat, call, number, fence)
        else:
            self.node.checkers.acted(self.node.name, call.agent, epoch)
            number = self._begin(seat, self._unknown, seat, call)
            self._send(seat, call, number, self.node.write_fence(call.home, call.agent))

    def _unknown(self, seat: Seat, call: Call) -> None:
        seat.loaded = False
        call.done("info", 0, "no answer of the store")
        self.node.after(RETRY_NS, self._load, seat)

    def _send(self, seat: Seat, call: Call, number: int, fence: int | None, again: bool = False) -> None:
        variant = self.node.variant
        if fence is None or call.value is None:
            if self._ended(seat, number):
                call.done("fail", 0, "fenced")
                self.tell_quiesced()
            return
        write = StateWrite(
            call.agent,
            call.home,
            self.node.name,
            seat.epoch,
            call.value,
            fence if variant.writes_compare_the_domain else None,
            seat.revision if variant.writes_compare_the_cell else None,
        )

        def answered(answer: Answer) -> None:
            if seat.busy != number:
                return
            known = answer.value.known if isinstance(answer.value, Standing) else None
            if known is not None and not again and self._moved_aside(seat, write, answer):
                self._send(seat, call, number, known.revision, again=True)
                return
            self._ended(seat, number)
            self._answered(seat, call, write, answer)
            self.tell_quiesced()

        store = self.node.cluster.store
        self.node.state_request(lambda: store.write(write), answered, writes=True)

    def _moved_aside(self, seat: Seat, write: StateWrite, answer: Answer) -> bool:
        """Refused only because another unit of the same record moved: still ours at this epoch."""
        stands = answer.value
        return (
            isinstance(stands, Standing)
            and stands.known is not None
            and stands.cell.revision == write.cell_revision
            and stands.known.record.assignment(seat.agent) == (self.node.name, seat.epoch)
        )

    def _answered(self, seat: Seat, call: Call, write: StateWrite, answer: Answer) -> None:
        if answer.kind == ACKED:
            seat.value, seat.revision = write.value, answer.revision
            call.done("ok", write.value, "")
        elif answer.kind == FAILED:
            call.done("fail", 0, "store refused the connection")
        elif isinstance(answer.value, Standing):
            cell = answer.value.cell
            seat.loaded = False
            self.node.after(RETRY_NS, self._load, seat)
            if cell.value == write.value:
                call.done("ok", write.value, "")
            elif cell.revision == write.cell_revision:
                call.done("fail", 0, "fenced")
            else:
                call.done("info", 0, "the state moved on")
