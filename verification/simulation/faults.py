"""What goes wrong, as data: a fault is drawn once, and the same fault does the same again."""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING

from verification.simulation.network import Noise
from verification.simulation.world import MS, S

if TYPE_CHECKING:
    from verification.simulation.history import History
    from verification.simulation.node import Node


class Kind(StrEnum):
    """The kinds. `host` is what is hit, `other` the other end of a link."""

    HOST_CRASH = "host-crash"
    HOSTD_CRASH = "hostd-crash"
    HOST_FREEZE = "host-freeze"
    SUSPEND = "suspend"  # a freeze in which CLOCK_MONOTONIC stands still
    HOSTD_FREEZE = "hostd-freeze"
    HOSTD_PAUSE = "hostd-pause"  # between a decision and what it asked for
    AGENT_PAUSE = "agent-pause"  # between the check of the deadline and the write
    AGENT_CRASH = "agent-crash"
    AGENT_HANG = "agent-hang"  # does not answer, and afterwards does what it was told meanwhile
    ISOLATE = "isolate"
    CUT_BOTH = "cut-both"
    CUT_ONE_WAY = "cut-one-way"
    MEMBER_CRASH = "member-crash"
    LEADER_CRASH = "leader-crash"
    LEADER_MOVE = "leader-move"
    DISK_STALL = "disk-stall"
    NOISE = "noise"
    REQUESTS_HELD = "requests-held"
    WATCH_LAG = "watch-lag"
    CLOCK_STEP = "clock-step"
    CLOCK_RATE = "clock-rate"
    CRASH_LOOP = "crash-loop"
    SWITCH_OVER = "switch-over"
    DRAIN = "drain"
    BOTH_CRASH = "both-crash"


WEIGHTS: dict[Kind, int] = {
    Kind.HOST_CRASH: 6,
    Kind.HOSTD_CRASH: 4,
    Kind.HOST_FREEZE: 6,
    Kind.SUSPEND: 2,
    Kind.HOSTD_FREEZE: 4,
    Kind.HOSTD_PAUSE: 3,
    Kind.AGENT_PAUSE: 4,
    Kind.AGENT_CRASH: 3,
    Kind.AGENT_HANG: 3,
    Kind.ISOLATE: 7,
    Kind.CUT_BOTH: 4,
    Kind.CUT_ONE_WAY: 6,
    Kind.MEMBER_CRASH: 2,
    Kind.LEADER_CRASH: 3,
    Kind.LEADER_MOVE: 4,
    Kind.DISK_STALL: 4,
    Kind.NOISE: 7,
    Kind.REQUESTS_HELD: 5,
    Kind.WATCH_LAG: 3,
    Kind.CLOCK_STEP: 3,
    Kind.CLOCK_RATE: 3,
    Kind.CRASH_LOOP: 3,
    Kind.SWITCH_OVER: 5,
    Kind.DRAIN: 2,
    Kind.BOTH_CRASH: 1,
}

PPM_BOUND = 40_000
"""The fastest and the slowest clock differ by 1.04 / 0.96 = (L + margin) / L: the assumed bound."""


AT_ONCE = frozenset(
    {Kind.ISOLATE, Kind.CUT_BOTH, Kind.CUT_ONE_WAY, Kind.NOISE, Kind.MEMBER_CRASH}
    | {Kind.CLOCK_STEP, Kind.CLOCK_RATE}
)
"""Kinds that cannot miss; what they then do to messages is counted where it happens."""
HANG_SEEN_NS = 500 * MS


@dataclass(frozen=True, slots=True, order=True)
class Fault:
    """`amount` is what the kind needs besides: a jitter in ms, a clock's ppm, a step in ms, which agent."""

    at_ms: int
    kind: Kind
    host: str
    other: str
    for_ms: int
    amount: int = 0


def draw(rng: random.Random, at_ms: int, workers: tuple[str, ...], hosts: tuple[str, ...]) -> list[Fault]:
    """A fault of the mix, or two that belong together."""
    one = _draw_one(rng, at_ms, workers, hosts)
    more = rng.random() < 0.5
    after_ms = rng.randrange(1 + one.for_ms // 2)
    if more and one.kind is Kind.NOISE and one.host in workers:
        # A link that fades before it breaks: the last acknowledgements come late.
        return [one, Fault(at_ms + after_ms, Kind.ISOLATE, one.host, one.other, 2_000 + after_ms)]
    if more and one.kind is Kind.SWITCH_OVER:
        # A switch-over whose requests overtake each other.
        for_ms = rng.randint(200, 900)
        kinds = [Kind.REQUESTS_HELD]
        if rng.random() < 0.5:
            kinds.append(Kind.WATCH_LAG)  # and who hears of it late
        return [one, *(Fault(at_ms, kind, host, one.other, for_ms) for host in workers for kind in kinds)]
    if more and one.kind is Kind.AGENT_PAUSE:
        return _held_up_through_a_takeover(rng, one)
    if more and one.kind is Kind.HOSTD_PAUSE:
        # Nobody is there, and the first one back is held up in its first decision: a claim that comes late.
        back_ms = one.for_ms
        return [
            Fault(at_ms, Kind.HOST_CRASH, one.host, one.other, back_ms),
            *(
                Fault(at_ms, Kind.HOST_CRASH, host, one.host, back_ms + rng.randint(1_000, 6_000))
                for host in workers
                if host != one.host
            ),
            replace(one, at_ms=at_ms + back_ms + rng.randrange(4)),
        ]
    return [one]


def _held_up_through_a_takeover(rng: random.Random, pause: Fault) -> list[Fault]:
    """Writers that check in the last moments of a lease and send when another host has the unit.

    Their daemon is held up until the lease has almost run out, which keeps earlier writes from waiting for an
    answer; then a cut, which ends when the unit is gone; and their host may hear late of what it lost.
    """
    begin_ms, host, other = pause.at_ms, pause.host, pause.other
    held_ms, paused_ms = rng.randint(850, 1_100), rng.randint(250, 400)
    cut_ms = begin_ms + held_ms - 30
    faults = [
        Fault(begin_ms, Kind.HOSTD_FREEZE, host, other, held_ms),
        Fault(cut_ms, Kind.ISOLATE, host, other, paused_ms - rng.randint(5, 100)),
        replace(pause, at_ms=cut_ms, for_ms=paused_ms),
    ]
    if rng.random() < 0.5:
        faults.append(Fault(begin_ms, Kind.WATCH_LAG, host, other, 2_000))
    return faults


def _draw_one(rng: random.Random, at_ms: int, workers: tuple[str, ...], hosts: tuple[str, ...]) -> Fault:
    kind = rng.choices(tuple(WEIGHTS), tuple(WEIGHTS.values()))[0]
    host = rng.choice(workers)
    other = rng.choice([h for h in hosts if h != host])
    for_ms = rng.choice((60, 200, 500, 1_000, 1_300, 1_500, 2_000, 3_000, 5_000)) + rng.randrange(200)
    amount = rng.randrange(1_000)
    if kind in (Kind.CUT_BOTH, Kind.CUT_ONE_WAY, Kind.NOISE, Kind.MEMBER_CRASH):
        host = rng.choice(hosts)
        other = rng.choice([h for h in hosts if h != host])
    if kind is Kind.NOISE:
        amount = rng.choice((5, 50, 120, 160, 400))
    elif kind is Kind.CLOCK_STEP:
        amount = rng.choice((-3_600_000, -5_000, -700, 700, 5_000, 3_600_000))
    elif kind is Kind.CLOCK_RATE:
        amount = rng.choice((-PPM_BOUND, 0, PPM_BOUND, rng.randint(-PPM_BOUND, PPM_BOUND)))
    return Fault(at_ms, kind, host, other, for_ms, amount)


def inject(history: History, fault: Fault) -> None:
    """Begins the fault and arranges for its end."""
    history.counts["faults"] += 1
    history.counts[f"fault {fault.kind}"] += 1
    history.checkers.note("fault", fault.kind, fault.host)
    world, node = history.world, history.nodes.get(fault.host)
    if fault.kind in AT_ONCE:
        history.counts[f"hit {fault.kind}"] += 1
    ends_ns = world.now + fault.for_ms * MS

    def until(call: object, *args: object) -> None:
        world.at(ends_ns, history.healed, call, *args)

    kind = fault.kind
    if kind in (Kind.ISOLATE, Kind.CUT_BOTH, Kind.CUT_ONE_WAY, Kind.NOISE):
        links = _links(history, fault)
        noise = Noise(0.02 if fault.amount < 100 else 0.1, fault.amount * MS, 0.2)
        for source, target in links:
            if kind is Kind.NOISE:
                history.network.disturb(source, target, noise)
                until(history.network.calm, source, target, noise)
            else:
                history.network.cut(source, target)
                until(history.network.heal, source, target)
        history.cluster.reassess()
    elif kind is Kind.HOST_CRASH and node is not None:
        _crash(history, fault.host, ends_ns, kind)
    elif kind is Kind.BOTH_CRASH:
        for host in history.nodes:
            _crash(history, host, ends_ns + (fault.amount * MS if host == fault.host else 0), kind)
    elif kind is Kind.HOSTD_CRASH and node is not None and node.running:
        history.counts[f"hit {kind}"] += 1
        node.kill()
        until(node.start)
    elif kind in (Kind.HOST_FREEZE, Kind.SUSPEND) and node is not None and node.up:
        history.counts[f"hit {kind}"] += 1
        node.freeze()
        history.member_stops(fault.host, frozen=True)
        until(history.thaw, fault.host, node.lives, fault.for_ms * MS if kind is Kind.SUSPEND else 0)
    elif kind is Kind.HOSTD_FREEZE and node is not None and node.running:
        history.counts[f"hit {kind}"] += 1
        node.freeze_hostd()
        until(node.thaw_hostd)
    elif kind is Kind.HOSTD_PAUSE and node is not None:
        node.pause_next = node.running
        until(history.nothing)
    elif kind in (Kind.AGENT_PAUSE, Kind.AGENT_CRASH, Kind.AGENT_HANG) and node is not None:
        _agent(history, fault, node, ends_ns)
    elif kind is Kind.MEMBER_CRASH:
        history.member_stops(fault.host, frozen=False)
        until(history.member_starts, fault.host, False)
    elif kind is Kind.LEADER_CRASH and history.cluster.leader is not None:
        leader = history.cluster.leader
        history.counts[f"hit {kind}"] += 1
        history.member_stops(leader, frozen=False)
        until(history.member_starts, leader, False)
    elif kind is Kind.LEADER_MOVE:
        history.counts[f"hit {kind}"] += history.cluster.move_leader()
    elif kind is Kind.DISK_STALL and history.cluster.leader is not None:
        history.cluster.stalled_ns[history.cluster.leader] = min(ends_ns, world.now + 2 * S)
        until(history.nothing)
    elif kind is Kind.REQUESTS_HELD:
        history.cluster.held_ns[fault.host] = ends_ns
        until(history.nothing)
    elif kind is Kind.WATCH_LAG:
        history.cluster.watch_lag_ns[fault.host] = fault.for_ms * MS // 2
        until(history.cluster.watch_lag_ns.pop, fault.host, None)
    elif kind is Kind.CLOCK_STEP and node is not None:
        node.clock.wall_offset_ns += fault.amount * MS
        history.checkers.clocks_moved()
    elif kind is Kind.CLOCK_RATE and node is not None:
        node.clock.set_rate(world.now, fault.amount)
        node.clock_changed()
    elif kind in (Kind.CRASH_LOOP, Kind.SWITCH_OVER, Kind.DRAIN):
        _asked(history, fault)
        world.at(world.now + 500 * MS, history.nothing)


def _links(history: History, fault: Fault) -> list[tuple[str, str]]:
    if fault.kind is Kind.CUT_ONE_WAY:
        return [(fault.host, fault.other)]
    if fault.kind is Kind.CUT_BOTH:
        return [(fault.host, fault.other), (fault.other, fault.host)]
    others = [host for host in history.hosts if host != fault.host]
    if fault.kind is Kind.NOISE and fault.for_ms % 2:
        others = [fault.other]
    return [(fault.host, other) for other in others] + [(other, fault.host) for other in others]


def _crash(history: History, host: str, ends_ns: int, kind: Kind) -> None:
    node = history.nodes[host]
    if not node.up:
        return
    history.counts[f"hit {kind}"] += 1
    node.crash()
    history.cluster.machines_down.add(host)
    history.member_stops(host, frozen=False)
    history.world.at(ends_ns, history.healed, history.boot, host)


def _agent(history: History, fault: Fault, node: Node, ends_ns: int) -> None:
    """One process of the host, or its way to the store."""
    world = history.world
    agents = tuple(node.agents.seats)
    if fault.kind is Kind.AGENT_PAUSE:
        for seat in node.agents.seats.values():
            seat.paused_until_ns = ends_ns
        world.at(ends_ns, history.healed, history.nothing)
    elif agents:
        history.counts[f"hit {fault.kind}"] += 1
        agent = agents[fault.amount % len(agents)]
        if fault.kind is Kind.AGENT_CRASH:
            node.agents.kill(agent)
            node.deliver(node.told, node.household.ended, agent)
            return
        hung = node.agents.hang(agent)
        world.at(ends_ns, history.healed, node.deliver, node.agents.go_on, hung)
        # Two pings without an answer, and then hostd ends it.
        about = (node.household.kill_if_hung, agent, hung.incarnation)
        node.after(HANG_SEEN_NS, node.told, *about)


def _asked(history: History, fault: Fault) -> None:
    """What an operator, or a crash loop, asks of whoever holds an agent."""
    agents = tuple(history.homes)
    agent = agents[fault.amount % len(agents)]
    home = history.homes[agent]
    for node in history.nodes.values():
        if node.own is None or not node.running or node.agents.page.epoch(home, agent) is None:
            continue
        if fault.kind is Kind.CRASH_LOOP:
            node.household.hand_away(agent)
        elif fault.kind is Kind.DRAIN:
            node.household.drain()
        else:
            others = [host for host in history.nodes if host != node.name]
            history.counts[f"hit {fault.kind}"] += 1
            node.ask(node.own.unit_of(home, agent), others[fault.for_ms % len(others)])
