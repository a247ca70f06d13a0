"""What is left of a campaign: planned trials once, another one for each that was cut, none twice."""

from __future__ import annotations

from collections import Counter

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from tests.verification import stories
from verification import night_trials
from verification.history import History
from verification.kinds import wanted as needs
from verification.plan import FaultTrial, SwitchTrial


def trial(fault: str, number: int, reserve: bool = False) -> FaultTrial:
    return FaultTrial(id=f"{fault}-{number}", fault=fault, agent="a", home="mainpc", reserve=reserve)


@st.composite
def plans(draw):
    kinds = {"crash": draw(st.integers(1, 6)), "hang": draw(st.integers(0, 6))}
    spare = draw(st.integers(0, 3))
    return [
        trial(kind, n, n >= count) for kind, count in kinds.items() for n in range(count + spare) if count
    ]


@given(plans(), st.randoms(), st.integers(1, 4))
def test_a_night_that_is_cut_again_and_again_ends_with_every_kind_complete(trials, chance, each):
    planned = Counter(one.fault for one in trials if not one.reserve)
    done: dict[str, bool] = {}
    for _ in range(200):
        left = night_trials.faults_left(trials, done)
        if not left:
            break
        assert not any(one.reserve for one in left)
        assert len({one.id for one in left}) == len(left)
        assert not {one.id for one in left} & set(done), "a trial that has begun is not run again"
        for one in left[:each]:
            done[one.id] = chance.random() < 0.7
    else:
        raise AssertionError("it never came to its end")
    ended = Counter(name.partition("-")[0] for name, whole in done.items() if whole)
    assert ended == planned


def test_the_reserve_comes_first_then_the_same_again_under_a_new_name():
    trials = [trial("crash", 0), trial("crash", 1), trial("crash", 2, reserve=True)]
    done = {"crash-0": True, "crash-1": False}
    assert [one.id for one in night_trials.faults_left(trials, done)] == ["crash-2"]
    done["crash-2"] = False
    assert [one.id for one in night_trials.faults_left(trials, done)] == ["crash-0~2"]
    done["crash-0~2"] = True
    assert night_trials.faults_left(trials, done) == ()


def test_more_are_taken_where_a_next_stage_wants_them():
    trials = [trial("crash", 0), trial("crash", 1, reserve=True), trial("hang", 0)]
    done = {"crash-0": True, "hang-0": True}
    left = night_trials.faults_left(trials, done, {"crash": 2})
    assert [(one.id, one.fault) for one in left] == [("crash-1", "crash"), ("crash-0~2", "crash")]


def test_a_cut_switch_over_is_made_again_under_a_new_name():
    plan = stories.plan()
    plan = msgspec.structs.replace(
        plan, switches=(SwitchTrial(id="s-0", home="a"), SwitchTrial(id="s-1", home="b"))
    )
    assert [one.id for one in night_trials.switches_left(plan, {"s-0": False})] == ["s-0~2", "s-1"]
    assert [one.id for one in night_trials.switches_left(plan, {"s-0": False, "s-0~2": False})] == [
        "s-0~3",
        "s-1",
    ]
    assert [one.id for one in night_trials.switches_left(plan, {"s-0": False, "s-0~2": True})] == ["s-1"]


def test_more_are_wanted_until_as_many_count_as_were_planned():
    plan = stories.plan()
    kinds = ("crash", "hang", "errors", "slow")
    wanted = night_trials.more_wanted(plan, History.of_records([]), kinds)
    needed = {}
    for kind, n in needs({p.id: plan.rule(p.id) for p in plan.criteria}).items():
        if kind in kinds:
            needed[kind] = n
    assert wanted == needed
    assert any(needed.values())
