"""Whole histories: the protocol holds, a seed is a history, and skipping time changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from verification.simulation.benign import BENIGN
from verification.simulation.coverage import UNREACHED
from verification.simulation.faults import WEIGHTS, Fault, Kind
from verification.simulation.fleet import DUO, TRIO
from verification.simulation.history import WEEK_S, Parameters, plan, run
from verification.simulation.liveness import BOUND_NS, quantile_ms
from verification.simulation.mutants import BY_NAME, MUTANTS, MarginRemoved, NoSelfFence
from verification.simulation.regressions import Regression, load
from verification.simulation.runner import Total, hunt, replay_command, simulate
from verification.simulation.shrinking import EFFORT, breaks, needed, schedules, shrunk

WEEKS = 12


@pytest.fixture(scope="module")
def total() -> Total:
    """The weeks that the suite has time for; `make sim` runs many more and holds them to the same."""
    return simulate(range(WEEKS))


def test_weeks_of_faults_break_nothing(total: Total) -> None:
    assert total.findings == ()
    assert total.weeks == WEEKS
    assert total.faults >= 50 * WEEKS
    assert total.counts["ok ops"] > 3 * total.counts["failed ops"]


def test_every_kind_of_fault_takes_effect(total: Total) -> None:
    """All rows of the tables are asked for where there are weeks enough: `make sim` fails without them."""
    assert [kind for kind, (_, effective) in total.coverage.kinds.items() if not effective] == []
    assert [effect for effect, count in total.coverage.effects.items() if not count] == []
    assert sum(count > 0 for count in total.coverage.rows.values()) > 30


def test_nobody_is_without_an_owner_for_longer_than_the_bound(total: Total) -> None:
    gaps = total.gaps_ms
    assert sum(count for _, count in gaps) > 10 * WEEKS, "nobody was ever without an owner"
    longest_ms = quantile_ms(gaps, 1.0)
    assert longest_ms is not None
    assert longest_ms <= BOUND_NS // 1_000_000


def test_there_are_histories_with_two_workers_and_with_three() -> None:
    fleets = [plan(Parameters(seed)).fleet for seed in range(40)]
    assert fleets.count(TRIO) >= 3
    assert fleets.count(DUO) >= 3


def test_a_row_is_excused_with_a_reason_or_not_at_all(total: Total) -> None:
    assert all(UNREACHED.values())
    assert not [row for row in UNREACHED if total.counts[row]], "it is reached after all"


def test_every_week_has_at_least_fifty_faults() -> None:
    for seed in range(200):
        planned = plan(Parameters(seed))
        assert len(planned.faults) >= 50
        hosts = planned.fleet.hosts
        assert all(0 < fault.at_ms < WEEK_S * 1_000 and fault.host in hosts for fault in planned.faults)
    assert set(WEIGHTS) == set(Kind)


def test_the_same_seed_is_the_same_history() -> None:
    one, two = (run(Parameters(5), keep_log=True) for _ in range(2))
    assert one.log == two.log
    assert one.counts == two.counts
    assert run(Parameters(6), keep_log=True).log != one.log


@pytest.mark.parametrize(("seed", "workers"), [(0, 2), (1, 2), (2, 3), (3, 3)])
def test_skipping_quiet_time_changes_no_decision(seed: int, workers: int) -> None:
    parameters = Parameters(seed, seconds=200, fault_count=6, workers=workers)
    skipped = run(parameters, keep_log=True)
    plain = run(replace(parameters, skip=False), keep_log=True)
    assert skipped.counts["skipped s"] > 30, "little was skipped"
    assert plain.counts["skipped s"] == 0
    assert skipped.log == plain.log
    assert len(skipped.log) > 10


def test_a_read_that_overtakes_a_late_watch_counts_as_seeing() -> None:
    """Else time is skipped as if its peer were silent, and it takes over from one that lives."""
    assert run(Parameters(202)).violation is None


@settings(max_examples=40, deadline=None)
@given(schedules(5), st.integers(0, 1_000), st.sampled_from(((0, 0), (-40_000, 40_000), (40_000, -40_000))))
def test_no_drawn_schedule_breaks_the_protocol(
    faults: tuple[Fault, ...], seed: int, ppm: tuple[int, int]
) -> None:
    assert run(Parameters(seed, 70, faults=faults, ppm=ppm, workers=2)).violation is None


# Planted bugs.

QUICK = {
    "margin-removed",
    "silence-is-success",
    "wall-clock",
    "no-self-fence",
    "starts-by-name",
    "withheld-ignored",
}
"""Found within few weeks. All of them: `threenines sim --mutants`; and each has its history, below."""


@pytest.mark.parametrize("name", sorted(QUICK))
def test_a_planted_bug_is_caught(name: str) -> None:
    found = hunt(BY_NAME[name], range(12))
    assert found.caught, f"{name} escaped {found.seeds} weeks"


def test_every_planted_bug_has_its_history() -> None:
    assert {entry.mutant for entry in load()} == {variant.name for variant in MUTANTS}


@pytest.mark.parametrize("variant", BENIGN, ids=lambda v: v.name)
def test_a_harmless_change_is_not_caught(variant: type) -> None:
    found = hunt(variant, range(2))
    assert found.outcome is None, found.outcome.violation


def test_there_is_a_name_for_each_and_enough_of_them() -> None:
    names = [variant.name for variant in MUTANTS]
    assert len(set(names)) == len(names) >= 30
    assert set(names) >= QUICK
    assert len(BY_NAME) == 1 + len(names) + len(BENIGN)


# Failing histories.


@pytest.mark.parametrize("entry", load(), ids=lambda entry: entry.mutant)
def test_a_history_that_found_a_bug_passes_now_and_still_finds_it(entry: Regression) -> None:
    assert not breaks(entry.parameters(), "faithful")
    assert breaks(entry.parameters(), entry.mutant, entry.check)


def test_a_failing_history_shrinks_to_the_faults_that_matter() -> None:
    found = hunt(NoSelfFence, range(12))
    assert found.outcome is not None
    small = shrunk(found.outcome, NoSelfFence.name)
    assert small is not None
    assert small.faults is not None
    assert len(small.faults) <= 2
    assert breaks(small, NoSelfFence.name)


def test_what_breaks_without_any_fault_shrinks_to_none() -> None:
    found = hunt(BY_NAME["starts-backwards"], range(2))
    assert found.outcome is not None
    small = shrunk(found.outcome, "starts-backwards")
    assert small is not None
    assert small.faults == ()


def test_a_drawn_schedule_shrinks_until_every_fault_matters() -> None:
    def broken(faults: tuple[Fault, ...]) -> bool:
        return breaks(Parameters(0, 70, faults=faults, ppm=(40_000, -40_000), workers=2), NoSelfFence.name)

    left = needed(find(schedules(6), broken, settings=EFFORT), broken)
    assert broken(left)
    assert not [n for n in range(len(left)) if broken(left[:n] + left[n + 1 :])]


def test_a_failure_is_replayed_by_the_command_that_is_printed() -> None:
    found = hunt(MarginRemoved, range(12))
    assert found.outcome is not None
    command = replay_command(found.outcome.parameters, MarginRemoved.name)
    assert command == f"threenines sim --seed {found.outcome.parameters.seed} --mutant margin-removed"
    ran = subprocess.run(
        [sys.executable, "-m", "threenines", *command.split()[1:], "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, ran.stderr
    assert json.loads(ran.stdout.splitlines()[-1])["violations"] == 1
    assert found.outcome.violation is not None
    assert found.outcome.violation.check in ran.stderr


def test_the_command_ends_with_the_figures_of_its_contract() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "threenines", "sim", "--seeds", "2", "--weeks", "0.1", "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    told = json.loads(ran.stdout.splitlines()[-1])
    assert told["seeds"] == 2
    assert told["weeks"] == pytest.approx(0.2, abs=0.001)
    assert told["faults"] >= 100
    assert told["violations"] == 0
    assert ran.stderr.startswith("seeds 0..1")


def test_an_unknown_bug_is_a_usage_error_of_one_line() -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "threenines", "sim", "--mutant", "nonsense"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 64
    assert ran.stderr.count("\n") == 1
    assert "nonsense" in ran.stderr
