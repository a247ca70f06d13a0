"""Liveness: how long an agent stays without an owner while nothing is in the way of having one.

Nothing is in the way of an agent while one and the same worker is *able*: its machine and its hostd run, and
it and a majority of etcd's members can talk to each other over undisturbed links, with no leader outside of
these that still leads, no stalled disk, no request or watch of it held back. From the instant at which that
begins, and from the loss of an owner while it lasts, somebody has to own the agent within `BOUND_NS`:

    start grace (5 s, only for a peer never seen to renew) + stagger for later challengers (0.3 s)
    + lease + margin (1.3 s, on a clock at most 4 % slow) + election (1.25 s)
    + three silent requests to find the leader (0.4 s each) + one beat (0.2 s)
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from typing import TYPE_CHECKING, Final

from verification.simulation.etcd_model import Cluster
from verification.simulation.world import MS

if TYPE_CHECKING:
    from verification.simulation.checkers import Checkers
    from verification.simulation.fleet import Fleet
    from verification.simulation.node import Node

SAMPLE_NS: Final = 100 * MS
BOUND_NS: Final = 9_600 * MS
KEY: Final = "ownerless ms "
"""Counts `ownerless ms 350`: so many gaps that were at most so long, in steps of `SAMPLE_NS`."""


class Liveness:
    """Looks every `SAMPLE_NS` while the history is awake."""

    def __init__(self, cluster: Cluster, checkers: Checkers, nodes: dict[str, Node], fleet: Fleet) -> None:
        self._cluster = cluster
        self._checkers = checkers
        self._nodes = nodes
        self._fleet = fleet
        self._since: dict[str, tuple[int, frozenset[str]]] = {}

    def look(self) -> None:
        """One sample."""
        able: frozenset[str] | None = None
        now_ns = self._cluster.world.now
        for agent, home in self._fleet.homes.items():
            if self._owned(agent, home):
                if agent in self._since:
                    self._ended(now_ns - self._since.pop(agent)[0])
                continue
            if able is None:
                able = frozenset(name for name, node in self._nodes.items() if self._able(node))
            since_ns, hosts = self._since.get(agent, (now_ns, able))
            hosts &= able
            if not hosts:
                self._since.pop(agent, None)
                continue
            self._since[agent] = since_ns, hosts
            if now_ns - since_ns > BOUND_NS:
                told = f"{agent}: nobody for {BOUND_NS / 1e9:g} s, though {', '.join(sorted(hosts))} could"
                self._checkers.broken("owner-again", told)

    def _ended(self, gap_ns: int) -> None:
        steps = -(-gap_ns // SAMPLE_NS)
        self._checkers.count(f"{KEY}{steps * SAMPLE_NS // MS}")

    def _owned(self, agent: str, home: str) -> bool:
        return any(
            node.up and node.agents.acting_epoch(home, agent) is not None for node in self._nodes.values()
        )

    def _able(self, node: Node) -> bool:
        cluster = self._cluster
        world_ns = cluster.world.now
        name = node.name
        if (
            not (node.up and node.running)
            or node.frozen
            or node.hostd_frozen
            or node.pause_next
            or cluster.held_ns.get(name, 0) > world_ns
            or name in cluster.watch_lag_ns
        ):
            return False
        leader = cluster.leader
        if leader is not None and cluster.stalled_ns.get(leader, 0) > world_ns:
            return False
        majority = len(cluster.members) // 2 + 1
        for size in range(len(cluster.members), majority - 1, -1):
            for members in combinations(cluster.members, size):
                led = leader is None or leader in members or not cluster.leads(leader)
                if led and all(map(cluster.alive, members)) and self._clean({name, *members}):
                    return True
        return False

    def _clean(self, hosts: set[str]) -> bool:
        network = self._cluster.network
        return all(network.undisturbed(one, other) for one in hosts for other in hosts if one != other)


def gaps_ms(counts: Mapping[str, int]) -> list[tuple[int, int]]:
    """Length in ms and how many, the shortest first."""
    return sorted((int(key.removeprefix(KEY)), count) for key, count in counts.items() if key.startswith(KEY))


def quantile_ms(gaps: list[tuple[int, int]], share: float) -> int | None:
    """The length that so large a share of the gaps does not exceed; None without any."""
    left = share * sum(count for _, count in gaps)
    for length_ms, count in gaps:
        left -= count
        if left <= 1e-9:
            return length_ms
    return gaps[-1][0] if gaps else None
