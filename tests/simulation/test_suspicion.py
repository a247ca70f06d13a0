"""What stands by cold is started while a host's lease runs out, and stopped if the host was only late."""

from __future__ import annotations

from services.control.holdings import OwnershipPolicy
from services.control.suspicion import SUSPICION
from verification.simulation.faults import Fault, Kind
from verification.simulation.history import History, Parameters
from verification.simulation.variant import Variant
from verification.simulation.world import MS

BEGIN_MS = 10_000
COLD, HOME, STANDBY = "vision", "pc2", "mainpc"
LEASE = OwnershipPolicy().lease
EVERY_MS = 20


def watched(kind: Kind, for_ms: int) -> tuple[list[int], list[int]]:
    """Milliseconds after the fault at which the standby's process was there, and those at which it served."""
    fault = Fault(BEGIN_MS, kind, HOME, STANDBY, for_ms, 0)
    history = History(Parameters(0, 40, faults=(fault,), ppm=(0, 0), workers=2), Variant(), keep_log=False)
    node = history.nodes[STANDBY]
    there: list[int] = []
    served: list[int] = []

    def look(after_ms: int) -> None:
        if COLD in node.agents.seats:
            there.append(after_ms)
        if node.household.announced(COLD):
            served.append(after_ms)

    for after_ms in range(-1_000, 20_000, EVERY_MS):
        history.world.at((BEGIN_MS + after_ms) * MS, look, after_ms)
    history.run()
    return there, served


def test_one_that_was_only_late_costs_a_process_for_some_seconds() -> None:
    there, served = watched(Kind.HOST_FREEZE, 900)
    assert served == []
    assert LEASE.lease_ns // 2 // MS - LEASE.renew_ns // MS <= there[0] <= 900
    kept_ms = there[-1] - 900
    assert kept_ms <= SUSPICION.kept_ns // MS + 2 * LEASE.renew_ns // MS
    assert there == list(range(there[0], there[-1] + 1, EVERY_MS)), "started once"


def test_one_that_is_lost_finds_it_up() -> None:
    there, served = watched(Kind.HOST_CRASH, 8_000)
    assert there[0] < (LEASE.lease_ns - LEASE.renew_ns) // MS <= served[0]
    assert [at for at in served if at not in there] == []
