"""Checkers: from a history to observations, one function per criterion.

A checker is pure, knows nothing of the code that it judges and nothing of how the history came about. Those
of a run stand in `CHECKERS`; a criterion without one is not measured.
"""

from __future__ import annotations

from collections.abc import Callable

from verification.checkers import discovery, failover, monitoring, outages, registration
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
}
