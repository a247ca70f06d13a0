"""The plan is fixed by its seed, random in its order, and blocked."""

from __future__ import annotations

import hashlib
from collections import Counter

import msgspec
import pytest

from infra.topology import load_fleet
from tests.verification import stories
from verification.catalogue import load_catalogue
from verification.plan import Load, PlanError, make_plan, read_plan, touches

LOAD = Load(workload="reference", per_s=100, users=10)


def quick(seed: int):
    return make_plan(
        profile="quick",
        seed=seed,
        fleet=load_fleet("fleet.yaml"),
        catalogue=load_catalogue(),
        load=LOAD,
        created=None,
    )


def test_the_same_seed_gives_the_same_bytes_and_another_seed_another_order():
    assert quick(1).encode() == quick(1).encode()
    one, other = quick(1), quick(2)
    assert [t.agent for t in one.faults] != [t.agent for t in other.faults]
    assert [t.origin for t in one.registrations] != [t.origin for t in other.registrations]


def test_fault_trials_are_blocked_by_host_and_criticality():
    plan = quick(3)
    population = [agent for agent in plan.agents if agent.faults]
    size = Counter((agent.home, agent.criticality) for agent in population)
    for fault in ("crash", "hang"):
        trials = [trial for trial in plan.faults if trial.fault == fault and not trial.reserve]
        assert len(trials) == 69
        assert len({trial.agent for trial in trials}) == 69
        drawn = Counter((t.home, plan.member(t.agent).criticality) for t in trials)
        for stratum, members in size.items():
            assert drawn[stratum] == pytest.approx(members * 69 / len(population), abs=1.01)
        assert [t for t in plan.faults if t.fault == fault and t.reserve]


def test_a_fleet_smaller_than_the_sample_is_drawn_again():
    plan = stories.plan(agents=4)
    drawn = Counter(t.agent for t in plan.faults if t.fault == "crash" and not t.reserve)
    assert sum(drawn.values()) == 69
    assert max(drawn.values()) - min(drawn.values()) <= 1


def test_registrations_go_both_ways_in_equal_number():
    ways = Counter((t.origin, t.other) for t in quick(1).registrations)
    assert ways == {("mainpc", "pc2"): 150, ("pc2", "mainpc"): 150}


def test_agents_touch_when_one_needs_the_other():
    plan = quick(1)
    a = plan.member("identity-service") if any(m.name == "identity-service" for m in plan.agents) else None
    dependent = next(m for m in plan.agents if m.depends_on)
    assert touches(plan, dependent.name, dependent.depends_on[0])
    assert touches(plan, dependent.depends_on[0], dependent.name)
    assert touches(plan, dependent.name, dependent.name)
    alone = [m.name for m in plan.agents if not m.depends_on][:2]
    assert not touches(plan, alone[0], alone[1])
    assert a is None or not touches(plan, a.name, "clock-service")


def test_a_plan_survives_the_disk_and_its_hash_is_that_of_its_bytes(tmp_path):
    plan = quick(5)
    (tmp_path / "plan.json").write_bytes(plan.encode())
    read, sha256 = read_plan(tmp_path)
    assert read == plan
    assert sha256 == plan.sha256() == hashlib.sha256(plan.encode()).hexdigest()
    # The report's own reader understands it as well.
    from reports.model import Plan

    assert [c.id for c in msgspec.json.decode(plan.encode(), type=Plan).criteria] == [
        c.id for c in plan.criteria
    ]


def test_unknown_profiles_and_unreadable_plans_are_told(tmp_path):
    with pytest.raises(PlanError, match="use one of: quick"):
        make_plan(
            profile="nope", seed=1, fleet=stories.fleet(), catalogue=load_catalogue(), load=LOAD, created=None
        )
    with pytest.raises(PlanError, match="cannot be read"):
        read_plan(tmp_path)
    (tmp_path / "plan.json").write_text("{}")
    with pytest.raises(PlanError, match="is no plan of this version"):
        read_plan(tmp_path)
