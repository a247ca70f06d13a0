"""One seed, one history: builds the world, lets the faults happen, and says what came of it."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from services.control.failback import FailBackPolicy
from services.control.holdings import OwnershipPolicy
from services.control.recovery import RecoveryPolicy
from verification.simulation import coverage, quiet
from verification.simulation.checkers import Broken, Checkers, Violation
from verification.simulation.clients import Clients, everybody_served
from verification.simulation.etcd_model import Cluster
from verification.simulation.faults import PPM_BOUND, Fault, draw, inject
from verification.simulation.fleet import FLEETS, Fleet
from verification.simulation.liveness import SAMPLE_NS, Liveness
from verification.simulation.network import Network
from verification.simulation.node import Node, Setting
from verification.simulation.variant import Variant
from verification.simulation.world import MS, Clock, S, World

THIRD_WORKER = 0.25
"""How many of the histories have three workers."""
WEEK_S = 604_800
SETTLE_NS = 20 * S
"""Liveness: so long after the last fault has healed everybody is served again and nothing is under way."""
LEAD_NS = 400 * MS
STEADY_NS = 450 * MS
"""Rest has lasted for two beats at least before time is skipped: each host renewed over calm links."""
EVENTS_AT_ONCE = 2_000_000


@dataclass(frozen=True, slots=True)
class Parameters:
    """All that a history depends on. `faults` None: drawn from the seed."""

    seed: int
    seconds: int = WEEK_S
    fault_count: int = 52
    skip: bool = True
    faults: tuple[Fault, ...] | None = None
    ppm: tuple[int, ...] | None = None
    workers: int | None = None
    """2 or 3; None: drawn from the seed."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What follows from the parameters before anything has happened."""

    fleet: Fleet
    ppm: tuple[int, ...]
    faults: tuple[Fault, ...]


@dataclass(slots=True)
class Outcome:
    """What came of a history."""

    parameters: Parameters
    violation: Violation | None
    counts: Counter[str]
    log: list[tuple[object, ...]]
    plan: Plan


def plan(parameters: Parameters) -> Plan:
    """Faults in clusters, some of them just when a unit may be going home, and the clocks' rates."""
    rng = random.Random(parameters.seed)
    workers = parameters.workers
    if workers is None:
        workers = 3 if rng.random() < THIRD_WORKER else 2
    fleet = FLEETS[workers]
    ppm = parameters.ppm
    if ppm is None:
        choices = (-PPM_BOUND, PPM_BOUND, rng.randint(-PPM_BOUND, PPM_BOUND))
        ppm = tuple(rng.choice(choices) for _ in fleet.workers)
    if parameters.faults is not None:
        return Plan(fleet, ppm, tuple(sorted(parameters.faults)))
    faults: list[Fault] = []
    last_ms = parameters.seconds * 1_000 - 60_000
    while len(faults) < parameters.fault_count:
        at_ms = rng.randrange(10_000, last_ms)
        for _ in range(rng.choice((1, 2, 3, 4, 6))):
            if at_ms < last_ms:
                faults += draw(rng, at_ms, fleet.workers, fleet.hosts)
            at_ms += rng.choice((0, 100, 400, 900, 1_400, 2_500, 31_000))
    return Plan(fleet, ppm, tuple(sorted(faults)))


def run(parameters: Parameters, variant: Variant | None = None, *, keep_log: bool = False) -> Outcome:
    """Runs a history to its end or to the first broken promise."""
    history = History(parameters, variant or Variant(), keep_log=keep_log)
    coverage.watch()
    violation = None
    try:
        history.run()
    except Broken as broken:
        violation = broken.violation
    history.counts.update(dict(coverage.rows_seen()))
    return Outcome(parameters, violation, history.counts, history.checkers.log or [], history.plan)


class History:
    """The parts of one world, and the hands that the faults have in it."""

    def __init__(self, parameters: Parameters, variant: Variant, *, keep_log: bool) -> None:
        self.parameters = parameters
        self.plan = plan(parameters)
        self.faults = self.plan.faults
        self.fleet = fleet = self.plan.fleet
        self.hosts = fleet.hosts
        self.homes = fleet.homes
        self.counts: Counter[str] = Counter()
        self.world = World(parameters.seed)
        self.network = Network(self.world.random, self.counts)
        self.cluster = Cluster(self.world, self.network, fleet.members, "witness", self.counts)
        self.checkers = Checkers(self.world, self.cluster.store, fleet.homes, self.counts, keep_log=keep_log)
        setting = Setting(fleet, OwnershipPolicy(), FailBackPolicy(), RecoveryPolicy())
        self.nodes: dict[str, Node] = {}
        for index, name in enumerate(fleet.workers):
            clock = Clock(self.plan.ppm[index], (index + 1) * 1_000 * S)
            self.nodes[name] = Node(name, self.world, self.cluster, clock, self.checkers, setting, variant)
        self.checkers.nodes = self.nodes
        self.clients = Clients(self.world, self.network, self.checkers, self.nodes)
        self._liveness = Liveness(self.cluster, self.checkers, self.nodes, fleet)
        self._pending = len(self.faults)
        self._healed_ns = 0

    def run(self) -> None:
        """Faults while something is going on, skipped or plain time while nothing is."""
        end_ns = self.parameters.seconds * S
        for fault in self.faults:
            self.world.later_idle(fault.at_ms * MS, self._inject, fault)
        for index, node in enumerate(self.nodes.values()):
            self.world.at(index * 7 * MS, node.boot)
        self.clients.start()
        while True:
            self._until_rest(end_ns)
            due_ns = self._next_ns()
            if due_ns >= end_ns:
                break
            until_ns = max(self.world.now, due_ns - LEAD_NS)
            self._liveness.look()
            if self.parameters.skip:
                self.counts["skipped s"] += quiet.skip(self.world, self.cluster, self.nodes, until_ns) // S
            self._run_to(until_ns)
            self.clients.start()
            self._run_to(due_ns)
        self.checkers.judge_registers()
        self.counts["events"] = self.world.handled
        self.counts["elections"] = self.cluster.elections
        self.counts["late"] = self.cluster.late

    def _run_to(self, until_ns: int) -> None:
        world = self.world
        limit = world.handled + EVENTS_AT_ONCE + (0 if self.parameters.skip else 1 << 40)
        sample_ns = world.now - world.now % SAMPLE_NS + SAMPLE_NS
        while world.run_to(min(sample_ns, until_ns), limit):
            if world.handled > limit:
                self.checkers.broken("progress", "the hosts are busy without end")
            if sample_ns >= until_ns:
                break
            world.now = sample_ns
            self._liveness.look()
            sample_ns += SAMPLE_NS
        world.now = max(world.now, until_ns)

    def _until_rest(self, end_ns: int) -> None:
        """Runs on until everybody is served and nothing is under way; in bounds, or liveness is broken."""
        self._healed_ns = max(self._healed_ns, self.world.now)
        while True:
            self._run_to(self.world.now + 150 * MS)
            if self.world.now - self._healed_ns > SETTLE_NS:
                self.checkers.broken("serves-again", f"not at rest {SETTLE_NS // S} s after the last fault")
            if self._next_ns() - self.world.now < 2 * LEAD_NS or not self._calm():
                continue
            self.clients.stop()
            calm_ns = self.world.now
            for _ in range(40):
                self._run_to(self.world.now + 51 * MS)
                if not self._calm():
                    calm_ns = self.world.now
                elif self.world.live == 0 and self.world.now - calm_ns > STEADY_NS:
                    return
            self.clients.start()

    def _calm(self) -> bool:
        return (
            self.network.whole
            and self.cluster.quiet
            and all(node.at_rest() for node in self.nodes.values())
            and everybody_served(self.nodes, self.homes)
        )

    def _next_ns(self) -> int:
        """When the next fault is due, or a unit goes home."""
        place = len(self.faults) - self._pending
        due_ns = [self.faults[place].at_ms * MS] if place < len(self.faults) else []
        due_ns += [node.failback_true_ns() for node in self.nodes.values()]
        return min(due_ns)

    # What the faults do.

    def _inject(self, fault: Fault) -> None:
        self._pending -= 1
        self._healed_ns = max(self._healed_ns, self.world.now)
        inject(self, fault)

    def healed(self, call: Callable[..., object], *args: object) -> None:
        self._healed_ns = max(self._healed_ns, self.world.now)
        call(*args)
        self.cluster.reassess()

    def nothing(self) -> None:
        """Something that only needs its time."""

    def boot(self, host: str) -> None:
        self.cluster.machines_down.discard(host)
        self.member_starts(host, frozen=False)
        node = self.nodes[host]
        node.clock.reboot(self.world.now, self.world.random.randint(1, 60) * S)
        node.boot()

    def thaw(self, host: str, life: int, suspended_ns: int) -> None:
        self.member_starts(host, frozen=True)
        node = self.nodes[host]
        if node.lives == life:
            node.clock.suspended_ns += suspended_ns
            self.checkers.clocks_moved()
            node.thaw()

    def member_stops(self, host: str, *, frozen: bool) -> None:
        if host not in self.fleet.members:
            return
        if frozen:
            self.cluster.frozen.add(host)
        else:
            self.cluster.down[host] = self.cluster.down.get(host, 0) + 1
        self.cluster.reassess()

    def member_starts(self, host: str, frozen: bool) -> None:
        if host not in self.fleet.members:
            return
        if frozen:
            self.cluster.frozen.discard(host)
        elif self.cluster.down.get(host, 0) > 1:
            self.cluster.down[host] -= 1
        else:
            self.cluster.down.pop(host, None)
        self.cluster.reassess()
