"""What must hold at every instant of a simulated history, and what is counted in it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from services.control.domains import Assignment, DomainRecord, Transaction
from verification.simulation.registers import NEVER, Op, fault_of
from verification.simulation.world import World

if TYPE_CHECKING:
    from verification.simulation.etcd_model import StateWrite, Store
    from verification.simulation.fleet import Fleet
    from verification.simulation.node import Node


@dataclass(frozen=True, slots=True)
class Violation:
    """A broken promise. `check` is its name, `at_ns` when in simulated time."""

    check: str
    at_ns: int
    detail: str


class Broken(Exception):
    """Ends a history."""

    def __init__(self, violation: Violation) -> None:
        super().__init__(f"{violation.check}: {violation.detail}")
        self.violation = violation


class Checkers:
    """Knows every host at once, which no host does."""

    def __init__(
        self, world: World, store: Store, homes: dict[str, str], counts: Counter[str], *, keep_log: bool
    ) -> None:
        self.world = world
        self.store = store
        self.homes = homes
        self.counts = counts
        self.log: list[tuple[object, ...]] | None = [] if keep_log else None
        self.nodes: dict[str, Node] = {}
        self.ops: dict[str, list[Op]] = {agent: [] for agent in homes}
        self.refused_values: set[int] = set()
        self._lives: dict[str, int] = {}
        self._before: dict[str, DomainRecord] = {}
        self._served: dict[tuple[str, int], tuple[str, int]] = {}
        store.on_domains = self.domains_written
        store.on_write = self.state_written

    def broken(self, check: str, detail: str) -> None:
        raise Broken(Violation(check, self.world.now, detail))

    def count(self, what: str) -> None:
        self.counts[what] += 1

    def note(self, what: str, *about: object) -> None:
        """A decision: counted, and kept where histories are compared."""
        self.counts[what] += 1
        if self.log is not None:
            self.log.append((self.world.now, what, *about))

    # Lives of hostd.

    def lived(self, host: str) -> None:
        self._lives[host] = self._lives.get(host, 0) + 1

    def life(self, host: str) -> int:
        return self._lives.get(host, 0)

    def gone(self, host: str) -> None:
        self.note("gone", host)

    # Who may act.

    def published(self, node: Node, life: int) -> None:
        page = node.agents.page
        for agent, home in self.homes.items():
            epoch = page.epoch(home, agent)
            if epoch is None:
                continue
            who = self._served.setdefault((agent, epoch), (node.name, life))
            if who != (node.name, life):
                self.broken("epoch-of-one-life", f"{agent} at epoch {epoch}: {who} and {(node.name, life)}")
            for other in self.nodes.values():
                if other is not node and other.agents.page.epoch(home, agent) is not None:
                    self._overlap(agent, home)

    def clocks_moved(self) -> None:
        """After a step, an instant may have become one before a deadline again."""
        for agent, home in self.homes.items():
            self._overlap(agent, home)

    def acted(self, host: str, agent: str) -> None:
        """A side effect is about to happen."""
        self.counts["effects"] += 1
        for other in self.nodes.values():
            if other.name != host and other.agents.page.serving:
                self._overlap(agent, self.homes[agent])

    def _overlap(self, agent: str, home: str) -> None:
        acting = [
            (node.name, epoch)
            for node in self.nodes.values()
            if node.up and (epoch := node.agents.acting_epoch(home, agent)) is not None
        ]
        if len(acting) > 1:
            self.broken("one-owner", f"{agent} may be served by {acting}")

    # What hostd says and does.

    def announced(self, node: Node, agent: str, epoch: int) -> None:
        """A recovery was validated: what was acknowledged to earlier owners must have been loaded."""
        self.note("promoted", node.name, agent, epoch)
        seat = node.agents.seats[agent]
        cell = self.store.cells.get(agent)
        if cell is not None and cell.epoch < epoch and cell.revision > seat.loaded_revision:
            detail = f"{node.name} announced {agent} with the state of revision {seat.loaded_revision}"
            self.broken("validated-means-loaded", f"{detail}, not of {cell.revision}")

    def started(self, host: str, order: tuple[str, ...], fleet: Fleet) -> None:
        """Dependencies come first, and nobody waits for a less urgent one that it does not need."""
        self.counts["starts"] += 1
        urgency = {agent: _urgency(agent, order, fleet) for agent in order}
        for place, agent in enumerate(order):
            for later in order[place + 1 :]:
                if later in fleet.agents[agent].depends_on or urgency[later] < urgency[agent]:
                    self.broken("start-order", f"{host} starts {agent} before {later}")

    # The store.

    def domains_written(self, host: str, revision: int, txn: Transaction) -> None:
        self.counts["assignments"] += 1
        for home, record in txn.puts.items():
            before = self._before.get(home) or DomainRecord(home, home, 0)
            for agent, of in self.homes.items():
                if of != home:
                    continue
                was, now = before.assignment(agent), record.assignment(agent)
                if now.epoch < was.epoch or (now.holder != was.holder and now.epoch == was.epoch):
                    self.broken("epochs-rise", f"{agent}: {_told(was)} then {_told(now)}, written by {host}")
                if now.holder not in (host, was.holder) and was.holder != host:
                    self.counts["named by a third host"] += 1
                if now.holder != was.holder:
                    self.note("moved", agent, now.holder, now.epoch)
            self._before[home] = record

    def state_written(self, write: StateWrite) -> None:
        self.counts["writes"] += 1
        known = self.store.domains.get(write.home)
        to = Assignment("", -1) if known is None else known.record.assignment(write.agent)
        if to != (write.host, write.epoch):
            told = f"{write.host} at epoch {write.epoch} wrote {write.agent}, which is {_told(to)}"
            self.broken("old-epoch-write", told)

    # The registers.

    def finished(self, agent: str, value: int | None, started_ns: int, outcome: str, read: int) -> None:
        """A client's operation has ended, as far as the client knows."""
        if outcome == "fail":
            if value is not None:
                self.refused_values.add(value)
            self.counts["failed ops"] += 1
        elif value is None and outcome == "ok":
            self.ops[agent].append(Op(False, read, started_ns, self.world.now))
            self.counts["ok ops"] += 1
        elif value is not None:
            ended_ns = self.world.now if outcome == "ok" else NEVER
            self.ops[agent].append(Op(True, value, started_ns, ended_ns))
            self.counts["ok ops" if outcome == "ok" else "unknown ops"] += 1

    def judge_registers(self) -> None:
        """At rest: every acknowledged write is in every later read, the store's last word included."""
        for agent, ops in self.ops.items():
            cell = self.store.cells.get(agent)
            last = Op(False, 0 if cell is None else cell.value, self.world.now, self.world.now + 1)
            ghosts = {op.value for op in (*ops, last) if not op.writes} & self.refused_values
            if ghosts:
                self.broken(
                    "definite-is-definite", f"{agent}: {sorted(ghosts)} failed for sure, and was read"
                )
            fault = fault_of((*ops, last))
            if fault is not None:
                self.broken("linearizable", f"{agent}: {fault}")


def _urgency(agent: str, among: tuple[str, ...], fleet: Fleet) -> int:
    """That of the most urgent agent which needs it, itself included."""
    needing = (other for other in among if agent in fleet.agents[other].depends_on)
    own = ("critical", "standard", "utility").index(fleet.agents[agent].criticality)
    return min([own, *(_urgency(other, among, fleet) for other in needing)])


def _told(to: Assignment) -> str:
    return f"{to.holder}@{to.epoch}"
