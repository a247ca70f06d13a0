"""Checkers: from a history to observations, one function per criterion.

A checker is pure, knows nothing of the code that it judges and nothing of how the history came about. Those
of a run stand in `CHECKERS`; a criterion without one is not measured.
"""

from __future__ import annotations

from collections.abc import Callable

from verification.checkers import (
    discovery,
    failover,
    hosts,
    linearizable,
    links,
    monitoring,
    outages,
    registers,
    registration,
    switches,
)
from verification.history import History
from verification.observations import Observations
from verification.plan import RunPlan

Checker = Callable[[RunPlan, History], Observations]

CHECKERS: dict[str, Checker] = {
    "SD-1": discovery.census,
    "SD-2": discovery.warm,
    "SD-2.mean": discovery.warm,
    "SD-2.cold": discovery.cold,
    "SD-3.run": discovery.availability,
    "SD-4": registration.propagation,
    "SD-6": failover.left_the_answers,
    "OB-1.targets": monitoring.targets,
    "RL-1.projected": outages.lengths,
    "RL-3": failover.crash_in_all,
    "RL-3.detect": failover.crash_detection,
    "RL-3.failover": failover.crash_failover,
    "RL-3.validate": failover.crash_validation,
    "RL-3.hang": failover.hang_in_all,
    "RL-4": failover.service_in_all,
    "RL-4.detect": failover.service_detection,
    "RL-4.failover": failover.service_failover,
    "RL-4.reroute": failover.service_rerouting,
    "RL-5": hosts.in_all,
    "RL-5.detect": hosts.detection,
    "RL-5.failover": hosts.failover,
    "RL-5.state": hosts.state,
    "RL-5.leader": hosts.with_the_leader,
    "RL-7.switchover": switches.calls,
    "RL-8": registers.faults,
    "RL-8.owners": registers.owners,
    "RL-8.writes": registers.writes,
    "RL-8.returns": hosts.returns,
    "RL-8.linearizable": linearizable.census,
    "RK-3": links.latency,
    "RK-3.loss": hosts.lost_links,
}
