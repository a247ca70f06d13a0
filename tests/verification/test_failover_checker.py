"""Known failovers are told right, to the millisecond; what proves nothing is void."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from loadtests.record import Kind
from tests.verification.stories import HOSTS, Fault, pair, plan
from verification.checkers import failover
from verification.history import History

PLAN = plan()


def outcome(fault: Fault):
    return only(fault.records())


def only(records):
    (found,) = failover.outcomes(PLAN, History.of_records(sorted(records, key=lambda r: r.time_ns)))
    return found


def test_a_clean_crash():
    found = outcome(Fault())
    assert found.void is None
    assert found.took_effect_ms == 1.0
    assert found.left_ms == 25.0
    assert found.served_ms == 60.0
    # Served at 60; the third good call on the later host ends at 80, the daemon's word comes at 80.
    assert found.validated_ms == 80.0
    assert found.validation_ms == 20.0
    assert found.total_ms == 80.0
    assert dict(found.left_by_host) == {"mainpc": 20.0, "pc2": 25.0}


@given(
    left=st.tuples(st.integers(2, 9000), st.integers(2, 9000)),
    served=st.tuples(st.integers(2, 9000), st.integers(2, 9000)),
    validated=st.integers(2, 9000),
)
def test_any_failover_is_told_as_it_was(left, served, validated):
    found = outcome(Fault(left_ms=left, served_ms=served, validated_ms=validated))
    assert found.left_ms == max(left)
    assert found.served_ms == max(served)
    sound = max(max(served) + 20, validated)
    assert found.validated_ms == sound
    assert found.validation_ms == max(0, sound - max(served))
    assert found.total_ms == max(*left, sound)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"gone_ms": None}, "no proof"),
        ({"gone_ms": None, "fault": "hang"}, "no proof"),
        ({"signal_sent": False}, "the signal was not sent"),
        ({"finished": False}, "not brought to its end"),
        ({"calls_before": 2}, "calls did not succeed"),
        ({"calls_before": 0}, "calls did not succeed"),
    ],
)
def test_a_trial_that_proves_nothing_is_void(changes, reason):
    assert reason in outcome(replace(Fault(), **changes)).void


def test_a_trial_that_nobody_watched_on_one_host_is_void():
    records = [r for r in Fault().records() if not (r.f == "watch" and r.host == "pc2")]
    assert only(records).void == "before the fault, on pc2: nobody watched the answers"


def test_proof_of_another_trial_does_not_count():
    late = Fault(number=1).records()
    proof_of_first = [r for r in Fault(number=0).records() if r.f == "exited"]
    records = [r for r in late if r.f != "exited"] + proof_of_first
    assert "no proof" in only(records).void


def test_what_never_came_is_none():
    never = outcome(Fault(left_ms=(20.0, None), served_ms=(50.0, None), validated_ms=None))
    assert never.void is None
    assert (never.left_ms, never.served_ms, never.validated_ms, never.total_ms) == (None, None, None, None)


def test_an_instance_that_comes_back_into_the_answers_has_not_left():
    fault = Fault()
    again = Fault(left_ms=(20.0, 25.0))._watch("pc2", 100_000.0, 1, 2, None)
    back = [
        replace_time(one, 100_040.0 + i) for i, one in enumerate(again)
    ]  # an answer with the old one, after it had left
    assert only(fault.records() + back).left_ms is None


def replace_time(record, ms):
    import msgspec

    from tests.verification.stories import MS, START_NS

    return msgspec.structs.replace(record, time_ns=START_NS + round(ms * MS))


def test_a_call_that_began_before_the_process_was_gone_does_not_count():
    # The signal was sent at 0, the process died at 30; a call that began at 10 was answered by the old one.
    fault = Fault(gone_ms=30.0, served_ms=(50.0, 60.0))
    early = pair("call-pc2-early", "call", "agent-0", 100_010.0, 100_012.0, host="pc2")
    assert only(fault.records() + early).served_ms == 60.0


def test_a_bad_call_after_the_first_answer_starts_the_count_again():
    fault = Fault(validated_ms=61.0)
    bad = pair("call-pc2-bad", "call", "agent-0", 100_065.0, 100_066.0, kind=Kind.FAIL, host="pc2")
    found = only(fault.records() + bad)
    # pc2: good at 60, bad at 66, good at 70, 80, 90.
    assert found.served_ms == 60.0
    assert found.validated_ms == 90.0


def test_the_daemons_word_about_the_old_incarnation_does_not_count():
    fault = Fault(validated_ms=None)
    from loadtests.protocol import Event

    stale = Event(seq=1, time_ns=0, event="validated", agent="agent-0", incarnation=1)
    records = fault.records() + pair(
        "event-mainpc", "event", None, 100_010.0, 100_011.0, ended=[stale], host="mainpc"
    )
    assert only(records).validated_ms is None


def test_calls_that_overlap_are_told_as_by_definition():
    """Slow calls end after quick ones that began later; each figure is held against its definition."""
    chance, begin_ms, seen = random.Random(7), 100_000.0, Counter()
    for _ in range(200):
        records = Fault(served_ms=(None, None)).records()
        begun: dict[str, list[tuple[float, float, Kind]]] = {host: [] for host in HOSTS}
        for host, calls in begun.items():
            for number in range(chance.randrange(0, 40)):
                begin = begin_ms + chance.uniform(-50, 300)
                end = begin + chance.choice((0.5, 1.0, 80.0))
                kind = chance.choice((Kind.OK, Kind.OK, Kind.OK, Kind.FAIL))
                calls.append((begin, end, kind))
                records += pair(f"{host}-{number}", "call", "agent-0", begin, end, kind=kind, host=host)
        found = only(records)
        ready = all(_ready(calls, begin_ms) for calls in begun.values())
        seen[ready] += 1
        assert (found.void is None) == ready
        if ready:
            served = {host: _served(calls, begin_ms + 1.0) for host, calls in begun.items()}
            told = {host: at and begin_ms + at for host, at in found.served_by_host}
            assert told == pytest.approx(served, abs=1e-3)
    assert min(seen[True], seen[False]) > 10


def _ready(calls: list[tuple[float, float, Kind]], begin_ms: float) -> bool:
    """The last three before the fault were good; those of `Fault` itself were."""
    before = sorted((end, kind) for _, end, kind in calls if end < begin_ms)
    return all(kind is Kind.OK for _, kind in before[-failover.GOOD_CALLS :])


def _served(calls: list[tuple[float, float, Kind]], gone_ms: float) -> float | None:
    return min((end for begin, end, kind in calls if begin >= gone_ms and kind is Kind.OK), default=None)
