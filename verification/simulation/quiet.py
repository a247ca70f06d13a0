"""Skips quiet time: whole beats of the steady renewal cycle, and nothing else.

At rest nothing is in flight, no link is disturbed, nothing is drawn at random, each host only renews on its
beat. After k beats the state is the same but for sequence numbers, revisions and instants: they are computed
here. A test runs the same histories with and without skipping and compares every decision.
"""

from __future__ import annotations

from dataclasses import replace

from services.control.holdings import HostSeen
from verification.simulation.etcd_model import Cluster
from verification.simulation.node import Node
from verification.simulation.world import MS, World

PIPELINE_NS = 20 * MS
"""More than a renewal takes on undisturbed links, from its sending to the last watcher."""


def skip(world: World, cluster: Cluster, nodes: dict[str, Node], until_ns: int) -> int:
    """Goes on to the last instant before `until_ns` at which nobody is between sending and hearing.

    Returns how much time was skipped, 0 where there is none to skip.
    """
    plans = {name: _beats(node, until_ns) for name, node in nodes.items()}
    for _ in range(100):
        next_ns = [_beat_true(nodes[name], beats) for name, beats in plans.items()]
        last_ns = [_beat_true(nodes[name], beats - 1) + PIPELINE_NS for name, beats in plans.items()]
        arrive_ns = max(last_ns)
        if arrive_ns < min(next_ns):
            break
        # One host would be caught in the middle of a beat: stop before the latest beat.
        late = max(plans, key=lambda name: _beat_true(nodes[name], plans[name] - 1))
        plans[late] -= 1
    else:
        return 0
    if min(plans.values()) < 1 or arrive_ns <= world.now:
        return 0
    _advance(cluster, nodes, plans)
    before_ns, world.now = world.now, arrive_ns
    for node in nodes.values():
        node.skipped()
    return arrive_ns - before_ns


def _beat_true(node: Node, beats: int) -> int:
    """When the beat after so many beats begins."""
    assert node.own is not None
    return node.clock.true(node.own.lease.next_ns + beats * node.policy.lease.renew_ns)


def _beats(node: Node, until_ns: int) -> int:
    assert node.own is not None
    left_ns = node.clock.local(until_ns - PIPELINE_NS) - node.own.lease.next_ns
    return max(0, left_ns // node.policy.lease.renew_ns)


def _advance(cluster: Cluster, nodes: dict[str, Node], plans: dict[str, int]) -> None:
    store = cluster.store
    last_true = {name: _beat_true(nodes[name], plans[name] - 1) for name in nodes}
    total = store.revision + sum(plans.values())
    revisions = {
        name: total - sum(_beats_after(nodes[other], plans[other], last_true[name]) for other in nodes)
        for name in nodes
    }
    lags = {
        (name, watcher): nodes[watcher].seen_true_ns[name] - node.sent_true_ns
        for name, node in nodes.items()
        for watcher in nodes
        if watcher != name
    }
    assert min(lags.values()) >= 0, "at rest everybody has seen everybody's last renewal"
    for name, node in nodes.items():
        own = node.own
        assert own is not None
        lease = own.lease
        seen = store.hosts[name]
        sent_ns = node.clock.local(last_true[name])
        seq = lease.seq + plans[name]
        next_ns = lease.next_ns + plans[name] * node.policy.lease.renew_ns
        lease = replace(
            lease, seq=seq, revision=revisions[name], sent_ns=sent_ns, acked_sent_ns=sent_ns, next_ns=next_ns
        )
        peers = {}
        for other in own.peers:
            seen_ns = last_true[other] + lags[other, name]
            node.seen_true_ns[other] = seen_ns
            peers[other] = replace(
                own.peers[other],
                revision=revisions[other],
                seen_ns=node.clock.local(seen_ns),
                renewed=own.peers[other].renewed or plans[other] > 0,
            )
        node.own = replace(own, lease=lease, peers=peers)
        node.sent_true_ns = last_true[name]
        store.hosts[name] = HostSeen(revisions[name], seen.boot_id, seen.epoch, seq)
    store.revision = total


def _beats_after(node: Node, beats: int, true_ns: int) -> int:
    """How many of a host's skipped beats begin after an instant."""
    after = 0
    while after < beats and _beat_true(node, beats - 1 - after) > true_ns:
        after += 1
    return after
