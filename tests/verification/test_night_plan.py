"""What a night does first, and what comes next: by what is known, then by new rows for the minute."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chaos.scenario import load_scenario, shipped
from infra.substrates.base import Capability
from reports.model import Report, ScenarioResult, Verdict, row_of
from reports.render import render
from tests.reports.synthetic import write_run
from verification.night_plan import Kind, Known, Piece, Word, admitted, judged_by, next_turn, ordered, words

NOW = datetime(2026, 11, 23, tzinfo=UTC)
ROWS = st.sampled_from(["SD-1", "SD-2", "RL-3", "RL-3.detect", "RL-5", "RK-3"])
PIECES = st.lists(
    st.builds(
        Piece,
        name=st.text("abcdef", min_size=1, max_size=4),
        kind=st.sampled_from(Kind),
        tells=st.lists(ROWS, min_size=1, max_size=4, unique=True).map(tuple),
        about_s=st.floats(1, 500),
        known=st.sampled_from(Known),
        age_days=st.none() | st.floats(0, 90),
    ),
    max_size=12,
    unique_by=lambda piece: piece.name,
)


def piece(name: str, *tells: str, about_s: float = 60.0, known: Known = Known.NEVER) -> Piece:
    return Piece(name=name, kind=Kind.SCENARIO, tells=tells, about_s=about_s, known=known)


@given(PIECES, st.randoms())
def test_the_order_holds_all_of_them_and_hangs_on_nothing_else(pieces, chance):
    mixed = list(pieces)
    chance.shuffle(mixed)
    found = ordered(mixed)
    assert found == ordered(pieces)
    assert sorted(one.name for one in found) == sorted(one.name for one in pieces)
    kinds = [one.kind is Kind.SCENARIO for one in found]
    assert kinds == sorted(kinds), "campaigns first"
    for kind in Kind:
        mine = [one for one in found if one.kind is kind]
        urgency = [list(Known).index(one.known) for one in mine]
        assert urgency == sorted(urgency)
        ages = [one.age_days or 0.0 for one in mine if one.known is Known.FRESH]
        assert ages == sorted(ages, reverse=True)


@given(PIECES)
def test_each_next_one_tells_most_new_rows_for_the_minute(pieces):
    found = ordered(pieces)
    for at, one in enumerate(found):
        if one.known is Known.FRESH:
            continue
        seen = {row_of(name) for before in found[:at] for name in before.tells}
        rivals = [other for other in found[at:] if (other.kind, other.known) == (one.kind, one.known)]
        gains = [len({row_of(name) for name in other.tells} - seen) / other.about_s for other in rivals]
        assert gains[0] == max(gains)


def test_a_campaign_begins_a_turn_with_less_than_all_of_its_time_left():
    long = Piece(name="c", kind=Kind.CAMPAIGN, tells=("RL-5",), about_s=3000.0, least_s=60.0)
    assert next_turn([long, piece("s", "RL-5", about_s=50.0)], {"c": 5}, 61.0) is long
    assert next_turn([long, piece("s", "RL-5", about_s=50.0)], {}, 59.0) == piece("s", "RL-5", about_s=50.0)


def test_what_failed_then_never_then_undecided_then_old_then_fresh():
    states = list(Known)
    pieces = [piece(state.name.lower(), "SD-1", known=state) for state in reversed(states)]
    assert [one.known for one in ordered(pieces)] == states


@given(PIECES, st.dictionaries(st.text("abcdef", max_size=4), st.integers(0, 5)), st.floats(0, 600))
def test_the_next_turn_fits_and_goes_to_who_had_fewest(pieces, turns, left_s):
    found = next_turn(pieces, turns, left_s)
    fitting = [one for one in pieces if one.needs_s <= left_s]
    if found is None:
        assert not fitting
        return
    assert found in fitting
    assert found.kind is Kind.CAMPAIGN or all(one.kind is Kind.SCENARIO for one in fitting)
    fitting = [one for one in fitting if one.kind is found.kind]
    had = turns.get(found.name, 0)
    assert had == min(turns.get(one.name, 0) for one in fitting)
    assert found == next(one for one in fitting if turns.get(one.name, 0) == had)


@given(PIECES.filter(bool), st.integers(1, 40))
def test_nobody_has_a_second_turn_before_all_of_its_kind_had_a_first(pieces, count):
    turns: Counter[str] = Counter()
    for _ in range(count):
        found = next_turn(pieces, turns, 1e9)
        assert found is not None
        turns[found.name] += 1
    mine = [one for one in pieces if one.kind is found.kind]
    assert max(turns.values()) - min(turns[one.name] for one in mine) <= 1


@pytest.mark.parametrize(
    ("verdict", "age_days", "known"),
    [
        (Verdict.FAIL, 1.0, Known.FAILED),
        (Verdict.FAIL, 99.0, Known.FAILED),
        (Verdict.INCONCLUSIVE, 1.0, Known.UNDECIDED),
        (Verdict.VOID, 1.0, Known.UNDECIDED),
        (Verdict.PASS, 31.0, Known.STALE),
        (Verdict.PASS, 30.0, Known.FRESH),
    ],
)
def test_how_well_a_word_makes_something_known(verdict, age_days, known):
    assert Word(verdict=verdict, age_days=age_days, fresh_for_days=30.0).known is known


def test_a_campaign_is_known_as_its_worst_criterion_a_scenario_by_its_own_word():
    found = {
        "SD-2": Word(verdict=Verdict.PASS, age_days=1.0),
        "RL-3": Word(verdict=Verdict.FAIL, age_days=2.0),
        "kill": Word(verdict=Verdict.PASS, age_days=3.0),
    }
    campaign = Piece(name="c", kind=Kind.CAMPAIGN, tells=("SD-2", "SD-1"), about_s=9)
    assert judged_by(campaign, found).known is Known.NEVER
    assert judged_by(msgspec.structs.replace(campaign, tells=("SD-2", "RL-3")), found).known is Known.FAILED
    scenario = piece("kill", "RL-3")
    assert judged_by(scenario, found).known is Known.FRESH
    assert judged_by(scenario, found).age_days == 3.0
    assert judged_by(piece("other", "SD-2"), found).known is Known.NEVER


@pytest.fixture
def report(tmp_path) -> Report:
    made = render(write_run(tmp_path, "2026-11-20T000000Z-nightly", kind="failing", plots=False))
    told = ScenarioResult(name="kill", title="", rows=("RL-3",), expected="", verdict=Verdict.FAIL)
    idle = msgspec.structs.replace(told, name="idle", verdict=Verdict.NOT_MEASURED)
    run = msgspec.structs.replace(
        made.run, environment="local", ended="2026-11-20T00:00:00Z", synthetic=False
    )
    return msgspec.structs.replace(made, run=run, scenarios=(told, idle))


def test_the_newest_word_of_the_same_stack_counts(report):
    older = msgspec.structs.replace(
        report,
        run=msgspec.structs.replace(report.run, ended="2026-10-01T00:00:00Z"),
        scenarios=(
            msgspec.structs.replace(report.scenarios[0], verdict=Verdict.PASS),
            msgspec.structs.replace(report.scenarios[1], verdict=Verdict.PASS),
        ),
    )
    found = words([report, older], "local", {}, NOW)
    assert (found["kill"].verdict, found["kill"].age_days) == (Verdict.FAIL, 3.0)
    assert (found["idle"].verdict, found["idle"].known) == (Verdict.PASS, Known.STALE)
    assert words([report], "staging", {}, NOW) == {}


@pytest.mark.parametrize("change", [{"synthetic": True}, {"ended": None}, {"ended": "2027-01-01T00:00:00Z"}])
def test_made_up_unfinished_and_future_reports_say_nothing(report, change):
    run = msgspec.structs.replace(report.run, **change)
    assert words([msgspec.structs.replace(report, run=run)], "local", {}, NOW) == {}


SHIPPED = tuple(load_scenario(name) for name in shipped())


@given(st.sets(st.sampled_from(Capability)).map(frozenset))
def test_each_scenario_is_planned_or_left_out_with_what_is_missing(can):
    able, left_out = admitted(SHIPPED, can, "process")
    assert sorted([one.name for one in (*able, *left_out)]) == sorted(one.name for one in SHIPPED)
    for one in left_out:
        assert one.lacks
        assert set(one.lacks).isdisjoint(can)
    more, fewer = admitted(SHIPPED, can | {Capability.CUT_LINKS}, "process")
    assert all(one in more for one in able), "who can more runs no fewer of them"
    assert {one.name for one in fewer} <= {one.name for one in left_out}


def test_what_is_left_out_says_why_and_where_it_can_be_run():
    able, (slow,) = admitted(SHIPPED, frozenset(Capability) - {Capability.SLOW_DISK}, "process")
    assert len(able) == len(SHIPPED) - 1
    assert (slow.name, slow.rows) == ("slow-disk", ("SD-3", "RL-4", "RK-2"))
    assert slow.why == (
        "needs slow-disk, which the substrate process lacks here; "
        "it takes hosts with disks of their own, which no substrate of this version makes"
    )
    _, left_out = admitted(SHIPPED, frozenset(), "process")
    lossy = next(one for one in left_out if one.name == "lossy-link")
    assert lossy.lacks == ("cut-links", "lose-packets")
    assert lossy.why == (
        "needs cut-links and lose-packets, which the substrate process lacks here; "
        "it takes hosts in network namespaces (root, and a kernel with cls_bpf)"
    )
    assert admitted(SHIPPED, frozenset(Capability), "process") == (SHIPPED, ())
