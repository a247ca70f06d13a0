"""Whether a fault may begin beside others: what it overlaps with, and whether it disturbs too much. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from chaos.fault import Radius
from chaos.stage import Stage
from infra.topology import Criticality

_RANK = {Criticality.UTILITY: 0, Criticality.STANDARD: 1, Criticality.CRITICAL: 2}


def overlap(ours: Iterable[str], theirs: Iterable[str]) -> frozenset[str]:
    """Those of `theirs` that a fault on `ours` touches: the same ones, and on a whole host everything.

    Targets read `<kind>/<host>[/<rest>]`; the kind `host` is the whole of it.
    """

    def touches(one: str, other: str) -> bool:
        kinds, hosts = zip(one.split("/")[:2], other.split("/")[:2], strict=True)
        return one == other or (hosts[0] == hosts[1] and "host" in kinds)

    mine = tuple(ours)
    return frozenset(other for other in theirs if any(touches(one, other) for one in mine))


def beyond_limits(stage: Stage, radius: Radius) -> str:
    """Why a blast radius is more than the stack's environment allows, "" when it is not."""
    limits, fleet = stage.environment, stage.fleet
    if len(radius.hosts) > limits.chaos_hosts:
        return f"{len(radius.hosts)} hosts would be disturbed, at most {limits.chaos_hosts} may"
    share = len(radius.agents) / len(fleet.agents)
    if share > limits.chaos_agents_share:
        return f"{share:.0%} of the agents would be disturbed, at most {limits.chaos_agents_share:.0%} may"
    most = _RANK[limits.chaos_criticality]
    over = sorted(a.name for a in fleet.agents if a.name in radius.agents and _RANK[a.criticality] > most)
    if over:
        return f"{over[0]} is {fleet.agent(over[0]).criticality}, at most {limits.chaos_criticality} may be"
    return ""
