"""Clients on both workers: reads and writes of the agents' registers, as callers see them."""

from __future__ import annotations

from verification.simulation.agents import Call
from verification.simulation.checkers import Checkers
from verification.simulation.network import Network
from verification.simulation.node import Node
from verification.simulation.world import MS, Event, World

TIMEOUT_NS = 600 * MS
PAUSE_NS = (40 * MS, 140 * MS)


class Clients:
    """One client on each worker, active only while there is something to see."""

    def __init__(self, world: World, network: Network, checkers: Checkers, nodes: dict[str, Node]) -> None:
        self._world = world
        self._network = network
        self._checkers = checkers
        self._nodes = nodes
        self._values = 0
        self._ticks: dict[str, Event] = {}
        self._agents = tuple(checkers.homes.items())

    def start(self) -> None:
        for host in self._nodes:
            self._next(host)

    def stop(self) -> None:
        for event in self._ticks.values():
            self._world.cancel(event)
        self._ticks.clear()

    def _next(self, host: str) -> None:
        pause_ns = self._world.random.randint(*PAUSE_NS)
        self._ticks[host] = self._world.at(self._world.now + pause_ns, self._tick, host)

    def _tick(self, host: str) -> None:
        self._next(host)
        node = self._nodes[host]
        if not node.up or node.frozen:
            return
        draw = self._world.random.random
        agent, home = self._agents[int(draw() * len(self._agents))]
        value = None
        if draw() < 0.6:
            self._values += 1
            value = self._values
        self._call(host, agent, home, value)

    def _call(self, host: str, agent: str, home: str, value: int | None) -> None:
        world = self._world
        started_ns = world.now
        own = self._nodes[host].own
        known = None if own is None else own.domains.get(home)
        target = home if known is None else known.record.assignment(agent).holder
        ended = False

        def end(outcome: str, read: int) -> None:
            nonlocal ended
            if not ended:
                ended = True
                world.cancel(timer)
                self._checkers.finished(agent, value, started_ns, outcome, read)

        def done(outcome: str, read: int, _why: str) -> None:
            back = self._network.delay(target, host)
            if back is not None:
                world.at(world.now + back, end, outcome, read)

        timer = world.at(started_ns + TIMEOUT_NS, end, "info", 0)
        delay = self._network.delay(host, target)
        if delay is not None and target in self._nodes:
            world.at(world.now + delay, self._arrive, target, Call(agent, home, value, done))

    def _arrive(self, target: str, call: Call) -> None:
        node = self._nodes[target]
        if node.up:
            node.deliver(node.agents.call, call)


def everybody_served(nodes: dict[str, Node], homes: dict[str, str]) -> bool:
    """Whether each agent is served by one host, with its state loaded."""
    for agent, home in homes.items():
        serving = 0
        for node in nodes.values():
            seat = node.agents.seats.get(agent)
            epoch = node.agents.acting_epoch(home, agent)
            sound = seat is not None and seat.loaded and seat.admits and epoch == seat.epoch
            if sound and node.up and node.household.announced(agent):
                serving += 1
        if serving != 1:
            return False
    return True
