"""What a sequential plan wants next, from a history."""

from __future__ import annotations

from tests.verification.stories import Fault, faults, load, plan
from verification import looks
from verification.history import History

PLAN = plan()
KINDS = ("crash", "hang")


def wanted(records, **kwargs):
    return looks.wanted(PLAN, History.of_records(records + load()), KINDS, **kwargs)


def late(number: int, fault: str = "crash", agent: str = "agent-0"):
    return Fault(number=number, fault=fault, agent=agent, left_ms=(5000.0, 5000.0)).records()


def test_a_decided_kind_wants_nothing_and_an_open_one_its_next_stage():
    hangs = faults(69, fault="hang", agent="agent-1")
    assert wanted(faults(69) + hangs) == {}
    assert wanted(faults(69)) == {"hang": 69}
    assert wanted(faults(68) + hangs) == {"crash": 1}
    assert wanted(faults(68) + late(68) + hangs) == {"crash": 41}


def test_the_criterion_that_wants_most_is_served():
    # Slow to be served: one exceedance of RL-3 and RL-3.failover, none of the others.
    slow = Fault(number=68, served_ms=(4000.0, 4000.0), validated_ms=4100.0).records()
    assert wanted(faults(68) + slow + faults(69, fault="hang", agent="agent-1")) == {"crash": 41}


def test_a_checker_that_breaks_wants_nothing():
    def broken(_plan, _history):
        raise ZeroDivisionError

    from verification.checkers import CHECKERS

    assert wanted([], checkers=dict.fromkeys(CHECKERS, broken)) == {}
