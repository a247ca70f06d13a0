"""Kinds of trial: which criterion is about which faults, and how many trials of each kind make its sample."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

from verification.catalogue import ProfilePlan

AGENT_FAULTS = ("crash", "hang", "errors", "slow")
HOST_FAULTS = ("host-kill", "host-freeze", "host-cut")
"""Losses of a whole host: all its processes killed, all stopped, all its packets lost."""
LEADER_FAULTS = ("leader-kill", "leader-freeze", "leader-cut")
"""The same while the lost host's member of etcd leads."""
LOSSES = (*HOST_FAULTS, *LEADER_FAULTS)
SIGNALS = {"crash": "KILL", "hang": "STOP", "errors": "call", "slow": "call"}
SAFETY_FAULTS = (
    "host-cut-out",
    "host-cut-in",
    "link-cut",
    "witness-cut",
    "witness-kill",
    "witness-link-cut",
    "hostd-freeze",
    "gateway-kill",
    "both-restart",
)
"""What else happens between hosts: judged by safety and by service returning, not by a time limit."""
BETWEEN_HOSTS = (*LOSSES, *SAFETY_FAULTS)
_CRASHES, _HANGS, _SERVICES = ("crash",), ("hang",), ("errors", "slow")
KINDS: dict[str, tuple[str, ...]] = {
    "SD-6": (*_CRASHES, *_HANGS),
    "RL-3": _CRASHES,
    "RL-3.detect": _CRASHES,
    "RL-3.failover": _CRASHES,
    "RL-3.validate": _CRASHES,
    "RL-3.hang": _HANGS,
    "RL-4": _SERVICES,
    "RL-4.detect": _SERVICES,
    "RL-4.failover": _SERVICES,
    "RL-4.reroute": _SERVICES,
    "RL-5": HOST_FAULTS,
    "RL-5.detect": HOST_FAULTS,
    "RL-5.failover": HOST_FAULTS,
    "RL-5.state": HOST_FAULTS,
    "RL-5.leader": LEADER_FAULTS,
    "RL-8.returns": SAFETY_FAULTS,
}
"""The kinds of trial that a criterion is about."""
WEIGHTS: dict[tuple[str, ...], tuple[int, ...]] = {HOST_FAULTS: (1, 2, 2), LEADER_FAULTS: (1, 2, 2)}
"""Shares of kinds that are not blocks; alike unless named here. A killed host takes long to be back."""
_WORDS = {
    "crash": "SIGKILL of an agent's process",
    "hang": "SIGSTOP of an agent's process",
    "errors": "every call of an agent fails",
    "slow": "no call of an agent ends in time",
    "host-kill": "SIGKILL of every process of a host",
    "host-freeze": "every process of a host stopped",
    "host-cut": "every packet of a host lost",
    "leader-kill": "SIGKILL of every process of the host that leads etcd",
    "leader-freeze": "every process of the host that leads etcd stopped",
    "leader-cut": "every packet of the host that leads etcd lost",
}


def fault_text(criterion_id: str) -> str | None:
    """The faults that a criterion is about, in words; None where there is none."""
    kinds = KINDS.get(criterion_id)
    return None if kinds is None else "; ".join(_WORDS.get(kind, kind) for kind in kinds)


def trials_of(criterion_id: str, plan: ProfilePlan, n: int | None) -> dict[str, int]:
    """How many trials of each kind make `n` for a criterion: of each kind, where kinds are blocks."""
    kinds = KINDS.get(criterion_id, ())
    if not kinds or not n:
        return {}
    if "fault" in plan.blocks:
        return dict.fromkeys(kinds, n)
    weights = WEIGHTS.get(kinds, (1,) * len(kinds))
    steps = [0, *itertools.accumulate(weights)]
    marks = [round(n * step / steps[-1]) for step in steps]
    return {kind: marks[at + 1] - marks[at] for at, kind in enumerate(kinds)}


def wanted(planned: Mapping[str, ProfilePlan], *, at_most: bool = False) -> dict[str, int]:
    """How many trials of each kind the whole plan needs, to begin with or in its last stage."""
    wanted: dict[str, int] = {}
    for name, plan in planned.items():
        for kind, n in trials_of(name, plan, plan.most if at_most else plan.n).items():
            wanted[kind] = max(wanted.get(kind, 0), n)
    return wanted
