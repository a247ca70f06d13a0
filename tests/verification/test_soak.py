"""What a soak may say: weeks by a simulated clock, with restarts, gaps, clocks that go back, cut files."""

from __future__ import annotations

import itertools

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.soak_lines import Life, encode
from reports.model import Verdict
from tests.verification.soak_story import (
    EPOCH_S,
    HOSTS,
    WEEK_S,
    down,
    judged,
    life,
    moved,
    plan,
    well,
)
from verification import soak_history
from verification.soak import CRITERIA, Judged
from verification.soak_history import Sampled, Started

PASS, FAIL, OPEN = Verdict.PASS, Verdict.FAIL, Verdict.INCONCLUSIVE
WEEK = (0.0, WEEK_S + 60.0)


def verdicts(found: Judged) -> tuple[Verdict, ...]:
    told = {one.id: one.verdict for one in found.verdicts.criteria}
    return tuple(told[name] for name in CRITERIA)


def reason(found: Judged, name: str = "RL-1") -> str:
    return next(one.reason or "" for one in found.verdicts.criteria if one.id == name)


def both(span=WEEK, story=well, **changes):
    return [life(host, span, story, **changes) for host in HOSTS]


def test_a_whole_week_without_a_fault_passes():
    mainpc, pc2 = both()
    found = judged(moved(mainpc), pc2)
    assert verdicts(found) == (PASS, PASS, PASS)
    assert found.decided
    assert found.watched.known_s == pytest.approx(WEEK_S)
    assert reason(found) == "0.0 s of 604.8 s used"
    assert [one.id for one in found.verdicts.criteria] == [one.id for one in plan().catalogue.criteria]
    quiet = judged(mainpc, pc2)
    assert verdicts(quiet) == (PASS, PASS, OPEN)  # nothing was handed over
    assert "nothing was rolled out" in reason(quiet, "RL-7")


def test_before_the_time_has_passed_nothing_passes():
    found = judged(*both((0, 3 * 86_400.0), down((1000, 1012))))
    assert verdicts(found) == (OPEN, OPEN, FAIL)
    assert reason(found).startswith("day 3.0 of 7: 16.0 s of 604.8 s used; 4.0 more days")
    assert not found.decided
    assert verdicts(judged(*both((0, WEEK_S - 10.0)))) == (OPEN, OPEN, OPEN)
    assert verdicts(judged()) == (Verdict.NOT_MEASURED,) * 3


def test_the_budget_can_be_broken_on_the_first_day_and_stays_broken():
    story = down((5000, 5610))
    assert verdicts(judged(*both((0, 5500.0), story))) == (OPEN, OPEN, FAIL)
    first = judged(*both((0, 6000.0), story))
    assert verdicts(first)[1] is FAIL
    assert verdicts(judged(*both(WEEK, story)))[1] is FAIL
    assert first.watched.episodes[0].cause == "nobody served memory"
    assert first.watched.episodes[0].seen_by == HOSTS


def test_what_comes_after_the_seven_days_is_another_soak():
    found = judged(*both((0, WEEK_S + 4000.0), down((WEEK_S + 100, WEEK_S + 3000))))
    assert verdicts(found)[1] is PASS
    assert found.watched.episodes == ()


def test_both_hosts_restart_one_after_the_other():
    lives = [
        life("mainpc", (0, 100_000)),
        life("mainpc", (100_300, WEEK[1])),
        life("pc2", (0, 200_000)),
        life("pc2", (200_020, WEEK[1])),
    ]
    found = judged(*lives)
    assert found.watched.gaps == ()
    assert verdicts(found)[1] is PASS
    assert [one.starts for one in found.hosts] == [2, 2]


def test_when_both_hosts_are_gone_nobody_knows():
    def lives(gap_s: float, upto: float) -> list:
        spans = [(0.0, 100_000.0), (100_000.0 + gap_s, upto)]
        return [life(host, span) for host in HOSTS for span in spans]

    # The time is longer by the gap, and the gap has to fit into the budget.
    assert verdicts(judged(*lives(300, WEEK[1])))[1] is OPEN
    short = judged(*lives(300, WEEK[1] + 300))
    assert verdicts(short) == (PASS, PASS, OPEN)
    assert short.budget.unwatched_s == pytest.approx(304, abs=0.01)
    assert "could hide an outage" in reason(short, "RL-7")
    long = judged(*lives(700, WEEK[1] + 700))
    assert verdicts(long) == (OPEN, OPEN, OPEN)
    assert "could have broken it" in reason(long)
    assert long.decided


def test_the_machine_restarts_and_has_another_boot():
    first = [life(host, (0, 90_000), boot="boot-1") for host in HOSTS]
    second = [life(host, (90_100, WEEK[1] + 200), boot="boot-2", booted_s=90_050) for host in HOSTS]
    found = judged(*first, *second)
    assert verdicts(found)[:2] == (PASS, PASS)
    assert [round(gap.length_s) for gap in found.watched.gaps] == [104]


# -------------------------------------------------------------------------------------------------- clocks


@pytest.mark.parametrize("back_s", [2, WEEK_S])
def test_a_clock_that_goes_back_never_gives_a_pass(back_s):
    def wall_off(at: float) -> float:
        return -back_s if at > 300 else 0.0

    found = judged(*both(WEEK, wall_off=wall_off))
    assert verdicts(found) == (OPEN, OPEN, OPEN)
    assert "went back" in reason(found)
    # Broken stays broken.
    assert verdicts(judged(*both((0, 900), down((50, 700)), wall_off=wall_off)))[1] is FAIL


def test_a_clock_that_goes_back_over_a_restart_never_gives_a_pass():
    first = [life(host, (0, 90_000), boot="boot-1") for host in HOSTS]
    second = [
        life(host, (90_100, WEEK[1]), boot="boot-2", booted_s=90_050, wall_off=lambda at: -3600.0)
        for host in HOSTS
    ]
    found = judged(*first, *second)
    assert PASS not in verdicts(found)
    assert "over a restart" in " ".join(one.what for one in found.verdicts.deviations)


def test_a_clock_that_is_set_forward_makes_no_time_pass():
    found = judged(*both((0, 3600.0), wall_off=lambda at: 8 * 86_400.0 if at > 1800 else 0.0))
    assert verdicts(found) == (OPEN, OPEN, OPEN)
    assert found.watched.known_s < 3601
    # Over a restart it makes a long gap of a short one, and no time that was watched.
    lives = [
        *(life(host, (0, 1800)) for host in HOSTS),
        *(
            life(host, (1900, 3600), boot="b2", booted_s=1850, wall_off=lambda at: 8 * 86_400.0)
            for host in HOSTS
        ),
    ]
    found = judged(*lives)
    assert verdicts(found) == (OPEN, OPEN, OPEN)
    assert found.watched.known_s < 3601


def test_a_clock_that_is_kept_right_is_no_step():
    found = judged(*both(WEEK, wall_off=lambda at: -at * 50e-6))
    assert verdicts(found)[:2] == (PASS, PASS)


# --------------------------------------------------------------------------------------------------- views


def test_one_host_that_sees_an_outage_is_enough():
    found = judged(life("mainpc", WEEK), life("pc2", WEEK, down((1000, 1100))))
    assert [one.seen_by for one in found.watched.episodes] == [("pc2",)]
    assert found.budget.used_s == pytest.approx(104)


def test_a_host_that_has_just_started_does_not_know_better_than_another():
    found = judged(life("mainpc", (0, 900)), life("pc2", (400, 900), blind_s=20))
    assert found.watched.episodes == ()
    # Where nobody else watches, that nothing can be seen is an outage.
    found = judged(life("mainpc", (0, 400)), life("pc2", (410, 900), blind_s=20))
    (episode,) = found.watched.episodes
    assert episode.length_s == pytest.approx(20, abs=4.1)
    assert "pc2 started" in episode.cause
    # And one that does not get to see them all within half a minute is believed.
    found = judged(life("mainpc", (0, 900)), life("pc2", (400, 900), blind_s=100))
    assert found.budget.used_s == pytest.approx(70, abs=10)


def test_the_loss_of_a_host_is_named_as_a_cause():
    lines = life("mainpc", (0, 900), lambda at: ("a", "b", "c", "d") if 402 <= at < 407 else ())
    found = judged(lines, life("pc2", (0, 401)), life("pc2", (500, 900)))
    (episode,) = found.watched.episodes
    assert episode.cause == "pc2 was lost; nobody served a, b, c and 1 more"


def test_an_agent_that_does_not_answer_was_down_since_its_last_good_answer():
    from loadtests.soak_lines import Look, Stretches

    record = Stretches("b", "l", 0)
    lines: list = [Life(soak="s", host="mainpc", boot="b", life="l", at_ns=0, wall_ns=0, agents=1)]
    for second in range(1, 60):
        at_ns = second * 10**9
        if second in {5, 15}:
            record.called("memory", at_ns, None)
        if second == 25:
            record.called("memory", at_ns, "memory: deadline: no answer in time")
        if second == 27:
            record.called("memory", at_ns, None)
        seen = record.look(Look((), {"mainpc": 1}, 1), at_ns, at_ns, 0.0)
        lines += [] if seen is None else [seen]
    lines.append(record.end())
    found = judged(lines)
    (episode,) = found.watched.episodes
    assert (episode.start_s, episode.length_s) == (15, 12)
    assert episode.cause == "no answer from memory; memory: deadline: no answer in time"
    assert found.hosts[0].calls_failed == 1


def test_prometheus_counts_when_it_misses_somebody_for_long():
    def sampled(length_s: float) -> list[Sampled]:
        begin_s = EPOCH_S + 1000.0
        return [
            Sampled(from_s=EPOCH_S, to_s=begin_s - 5, down=0),
            Sampled(from_s=begin_s, to_s=begin_s + 5, down=2),
            Sampled(from_s=begin_s + 10, to_s=begin_s + length_s, down=1),
            Sampled(from_s=begin_s + length_s + 5, to_s=begin_s + 3000, down=0),
        ]

    assert judged(*both((0, 3600)), prometheus=sampled(20)).watched.episodes == ()
    (episode,) = judged(*both((0, 3600)), prometheus=sampled(120)).watched.episodes
    assert episode.length_s == pytest.approx(120)
    assert episode.seen_by == ("prometheus on mainpc",)
    # It fills no gap: where no host looked it says nothing.
    lives = [life(host, span) for host in HOSTS for span in ((0, 900), (1500, 3600))]
    assert judged(*lives, prometheus=sampled(120)).watched.episodes == ()


def test_a_single_failed_look_up_is_told():
    found = judged(life("mainpc", WEEK, failed=1), life("pc2", WEEK))
    assert verdicts(found)[0] is FAIL
    assert reason(found, "SD-3").startswith("1 of 1,5")


def test_the_cost_is_told():
    found = judged(*both((0, 3600)))
    assert [one.cpu_share for one in found.hosts] == [pytest.approx(0.002)] * 2


def test_a_plan_for_less_than_a_week_passes_nothing():
    found = judged(*both((0, 7200)), made=plan(period_s=3600.0))
    assert verdicts(found) == (OPEN, OPEN, OPEN)


# --------------------------------------------------------------------------------------------------- files


def written(folder, *lives) -> soak_history.SoakHistory:
    (folder / "soak").mkdir(exist_ok=True)
    for lines in lives:
        with open(folder / "soak" / f"{lines[0].host}.jsonl", "ab") as file:
            file.writelines(encode(line) for line in lines)
    return soak_history.read(folder, "s", HOSTS)


def test_a_doubled_file_counts_once(tmp_path):
    lines = life("mainpc", (0, 900), failed=1)
    once = written(tmp_path, lines)
    assert written(tmp_path, lines) == once
    assert not once.doubts


def test_a_cut_last_line_is_left_out_and_told(tmp_path):
    whole = written(tmp_path, life("mainpc", (0, 900)))
    path = tmp_path / "soak" / "mainpc.jsonl"
    path.write_bytes(path.read_bytes()[:-20])
    cut = soak_history.read(tmp_path, "s", HOSTS)
    assert len(cut.stretches) == len(whole.stretches) - 1
    assert "cut short" in cut.notes[0][1]
    assert not cut.doubts


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        ("lost", "missing in the middle"),
        ("headless", "first line of a life"),
        ("twice", "two lines"),
        ("foreign", "lines of"),
        ("stretched", "nobody looked"),
        ("backwards", "begins before"),
    ],
)
def test_lines_that_cannot_be_let_nothing_pass(damage, told):
    found = judged(damaged(life("mainpc", WEEK), damage), life("pc2", WEEK))
    assert PASS not in verdicts(found)
    assert told in " ".join(one.what for one in found.verdicts.deviations)


def damaged(lines, how):
    """A second life that is in order keeps the file's name known where its first line is lost."""
    first, one, last = lines[0], lines[30], lines[-1]
    replace = msgspec.structs.replace
    match how:
        case "lost":
            return [*lines[:20], *lines[21:]]
        case "headless":
            return [*lines[1:], *life("mainpc", (WEEK[1] + 9, WEEK[1] + 99))]
        case "twice":
            return [*lines, replace(one, calls=7)]
        case "foreign":
            return [replace(first, soak="t"), *lines[1:]]
        case "stretched":
            return [*lines[:-1], replace(last, looks=1, end_ns=last.end_ns + 10**10)]
        case _:
            return [*lines[:30], replace(one, start_ns=one.start_ns - 40 * 10**9, looks=100), *lines[31:]]


def test_another_commit_on_the_way_is_told():
    def started(commit: str) -> Started:
        return Started(at="2026-01-01T00:00:00Z", commit=commit, dirty=False, fleet_sha256=None)

    found = judged(*both((0, 900)), starts=[started("a"), started("b")])
    assert "2 commits" in found.verdicts.deviations[0].what


# -------------------------------------------------------------------------------------------------- oracle

SECONDS = 240
spans = st.lists(st.tuples(st.integers(0, SECONDS), st.integers(1, 60)), max_size=4)


@settings(max_examples=100, deadline=None)
@given(alive=st.tuples(spans, spans), outages=spans)
def test_against_a_second_by_second_count(alive, outages):
    """Down, up and unknown seconds by a naive count: never less down, never more watched."""

    def served(at: float) -> tuple[str, ...]:
        return ("memory",) if any(a <= at < a + n for a, n in outages) else ()

    lives, looks = [], {host: set() for host in HOSTS}
    for host, lengths in zip(HOSTS, alive, strict=True):
        free = 0
        for start, length in sorted(lengths):
            begin, end = max(start, free), start + length
            if end > begin:
                lives.append(life(host, (begin, end), served, look_s=1.0))
                looks[host] |= set(range(begin, end))
                free = end + 1
    found = judged(*lives)
    seen = looks["mainpc"] | looks["pc2"]
    if not seen:
        assert found.watched is None
        return
    known = found.watched.known_s
    # Between two looks that are at most five seconds apart somebody watched; further apart nobody did.
    order = sorted(seen)
    most = sum(b - a for a, b in itertools.pairwise(order) if b - a <= 5)
    assert known <= most + 1e-6
    assert found.watched.known_s + found.budget.unwatched_s == pytest.approx(order[-1] - order[0])
    # Every second that was seen down by a host past its start lies in an outage.
    for episode in found.watched.episodes:
        assert episode.length_s >= 0
    for at in seen:
        sighted = [
            host
            for host in HOSTS
            if at in looks[host] and any(not served(t) for t in _before(looks[host], at))
        ]
        if served(at) and sighted:
            assert any(
                one.start_s - EPOCH_S <= at + 1e-3 and at - 1e-3 <= one.start_s - EPOCH_S + one.length_s
                for one in found.watched.episodes
            )
    if not any(served(at) for at in seen):
        assert found.budget.used_s == 0


def _before(looks: set[int], at: int) -> list[int]:
    """The looks of the same life up to an instant."""
    first = at
    while first - 1 in looks:
        first -= 1
    return list(range(first, at + 1))
