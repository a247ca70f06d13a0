"""Ownership records: epochs rise for each agent, whatever is assigned to whom."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control.domains import Assignment, DomainRecord, Unit, unwritten

AGENTS = ("memory", "speech", "vision")


def test_an_absent_record_means_the_home_host_at_no_epoch() -> None:
    known = unwritten("alpha")
    assert known.revision == 0
    assert known.record.assignment("memory") == ("alpha", 0)


def test_a_single_agent_moves_and_the_rest_stays() -> None:
    record = DomainRecord("alpha", "alpha", 4).assigned((Unit("alpha", "memory"),), "beta")
    assert record.assignment("memory") == ("beta", 5)
    assert record.assignment("speech") == ("alpha", 4)
    assert record.held_by("beta") == (Unit("alpha", "memory"),)
    assert record.unit_of("memory") == Unit("alpha", "memory")
    assert record.unit_of("speech") == Unit("alpha")


def test_taken_together_an_exception_is_folded_into_its_domain() -> None:
    record = DomainRecord("alpha", "alpha", 4, {"memory": Assignment("alpha", 7)})
    taken = record.assigned(record.held_by("alpha"), "beta")
    assert taken == DomainRecord("alpha", "beta", 8)


def test_an_exception_elsewhere_stays_when_the_domain_moves() -> None:
    record = DomainRecord("alpha", "alpha", 4, {"memory": Assignment("gamma", 7)})
    taken = record.assigned(record.held_by("alpha"), "beta")
    assert taken.assignment("memory") == ("gamma", 7)
    assert taken.assignment() == ("beta", 8)


def test_a_unit_of_another_domain_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="beta/memory"):
        DomainRecord("alpha", "alpha", 4).assigned((Unit("beta", "memory"),), "beta")


@given(
    st.lists(
        st.tuples(st.sets(st.sampled_from(("", *AGENTS)), min_size=1), st.sampled_from(("alpha", "beta"))),
        max_size=12,
    )
)
def test_epochs_of_an_agent_rise_with_every_change_of_its_holder(
    steps: list[tuple[set[str], str]],
) -> None:
    record = unwritten("alpha").record
    for moved, holder in steps:
        after = record.assigned((Unit("alpha", agent) for agent in moved), holder)
        for agent in AGENTS:
            was, now = record.assignment(agent), after.assignment(agent)
            assert now.epoch >= was.epoch
            assert now.holder == was.holder or now.epoch > was.epoch
            own = agent in moved or ("" in moved and agent not in record.exceptions)
            assert now == ((holder, after.top_epoch) if own else was)
        record = after
