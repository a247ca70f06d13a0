"""Whole histories: the protocol holds, a seed is a history, and skipping time changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from hypothesis import find, given, settings
from hypothesis import strategies as st

from verification.simulation.faults import WEIGHTS, Fault, Kind
from verification.simulation.history import HOSTS, WEEK_S, Parameters, plan, run
from verification.simulation.mutants import MUTANTS, MarginRemoved, NoSelfFence
from verification.simulation.regressions import Regression, load
from verification.simulation.runner import hunt, replay_command, simulate
from verification.simulation.shrinking import EFFORT, breaks, schedules, shrunk

WEEKS = 12


def test_weeks_of_faults_break_nothing_and_are_not_idle() -> None:
    total = simulate(range(WEEKS))
    assert [outcome.violation for outcome in total.violations] == []
    assert total.weeks == WEEKS
    assert total.faults >= 50 * WEEKS
    for what in (
        "moved",
        "fence",
        "failback",
        "elections",
        "ambiguous",
        "refused",
        "late",
        "effects",
        "writes",
    ):
        assert total.counts[what] > 0, f"nothing of this happened: {what}"
    kinds = {kind for kind in Kind if total.counts[f"fault {kind}"]}
    assert kinds == set(Kind), "a kind of fault never happened"
    assert total.counts["ok ops"] > 5 * total.counts["failed ops"]


def test_every_week_has_at_least_fifty_faults() -> None:
    for seed in range(200):
        faults, _ = plan(Parameters(seed))
        assert len(faults) >= 50
        assert all(0 < fault.at_ms < WEEK_S * 1_000 and fault.host in HOSTS for fault in faults)
    assert set(WEIGHTS) == set(Kind)


def test_the_same_seed_is_the_same_history() -> None:
    one, two = (run(Parameters(5), keep_log=True) for _ in range(2))
    assert one.log == two.log
    assert one.counts == two.counts
    assert run(Parameters(6), keep_log=True).log != one.log


@pytest.mark.parametrize("seed", range(4))
def test_skipping_quiet_time_changes_no_decision(seed: int) -> None:
    parameters = Parameters(seed, seconds=300, fault_count=8)
    skipped = run(parameters, keep_log=True)
    plain = run(Parameters(seed, seconds=300, fault_count=8, skip=False), keep_log=True)
    assert skipped.counts["skipped s"] > 60, "nothing was skipped"
    assert plain.counts["skipped s"] == 0
    assert skipped.log == plain.log
    assert len(skipped.log) > 10


@settings(max_examples=40, deadline=None)
@given(schedules(5), st.integers(0, 1_000), st.sampled_from(((0, 0), (-40_000, 40_000), (40_000, -40_000))))
def test_no_drawn_schedule_breaks_the_protocol(
    faults: tuple[Fault, ...], seed: int, ppm: tuple[int, int]
) -> None:
    assert run(Parameters(seed, 70, faults=faults, ppm=ppm)).violation is None


# Planted bugs.

QUICK = {
    "margin-removed",
    "silence-is-success",
    "refusal-is-success",
    "any-peer-revision",
    "wall-clock",
    "monotonic-clock",
    "epoch-not-raised",
    "no-self-fence",
    "acts-after-handover",
    "acts-on-doubt",
    "reading-is-proof",
    "serves-before-acknowledgement",
    "old-epoch-kept",
    "state-not-ordered",
    "state-not-loaded",
}


@pytest.mark.parametrize("name", sorted(QUICK))
def test_a_planted_bug_is_caught(name: str) -> None:
    (variant,) = [v for v in MUTANTS if v.name == name]
    found = hunt(variant, range(25))
    assert found.caught, f"{name} escaped {found.seeds} weeks"


@pytest.mark.slow
@pytest.mark.parametrize("variant", [v for v in MUTANTS if v.name not in QUICK], ids=lambda v: v.name)
def test_a_rarer_bug_is_caught(variant: type) -> None:
    assert hunt(variant, range(200)).caught


def test_there_is_a_name_for_each_and_enough_of_them() -> None:
    names = [variant.name for variant in MUTANTS]
    assert len(set(names)) == len(names) >= 10
    assert set(names) >= QUICK


# Failing histories.


@pytest.mark.parametrize("entry", load(), ids=lambda entry: entry.mutant)
def test_a_history_that_found_a_bug_passes_now_and_still_finds_it(entry: Regression) -> None:
    assert not breaks(entry.parameters(), "faithful")
    assert breaks(entry.parameters(), entry.mutant, entry.check)


def test_a_failing_history_shrinks_to_the_faults_that_matter() -> None:
    found = hunt(NoSelfFence, range(25))
    assert found.outcome is not None
    small = shrunk(found.outcome, NoSelfFence.name)
    assert small is not None
    assert small.faults is not None
    assert len(small.faults) <= 2
    assert breaks(small, NoSelfFence.name)


def test_a_drawn_schedule_shrinks_as_well() -> None:
    one = find(
        schedules(6),
        lambda faults: breaks(Parameters(0, 70, faults=faults, ppm=(40_000, -40_000)), NoSelfFence.name),
        settings=EFFORT,
    )
    assert len(one) == 1


def test_a_failure_is_replayed_by_the_command_that_is_printed() -> None:
    found = hunt(MarginRemoved, range(25))
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
