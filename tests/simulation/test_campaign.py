"""Many histories: the journal, what is resumed, what is counted, what the command says about it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.control import ownership, stances
from verification.simulation import coverage, regressions
from verification.simulation.coverage import Coverage, Tally
from verification.simulation.faults import Kind
from verification.simulation.fleet import DUO, FLEETS, TRIO, Fleet
from verification.simulation.history import WEEK_S, Parameters, run
from verification.simulation.journal import Batch, Finding, Header, Journal, JournalError, code_digest
from verification.simulation.liveness import KEY, gaps_ms, quantile_ms
from verification.simulation.mutants import BY_NAME
from verification.simulation.runner import Total, simulate

HEADER = Header(0, 4, WEEK_S, 52, "faithful", "abc")
SHORT_S = 2_000


def sim(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "threenines", "sim", *words], capture_output=True, text=True, check=False
    )


# The journal.


def test_what_was_written_is_read_again_and_a_line_cut_short_is_not(tmp_path: Path) -> None:
    path = tmp_path / "sub" / "journal.jsonl"
    one = Batch((0, 1), {"faults": 3}, 7.0, (Finding(1, "one-owner", 5, "both"),), 0.5)
    with Journal(path, HEADER) as journal:
        journal.add(one)
        journal.add(Batch((2,), {"faults": 1}, 1.0))
    path.write_bytes(path.read_bytes()[:-9])
    with Journal(path, HEADER) as journal:
        assert journal.batches == [one]
        assert journal.done == {0, 1}
        journal.add(Batch((3,), {}, 0.0))
    with Journal(path, HEADER) as journal:
        assert journal.done == {0, 1, 3}


@pytest.mark.parametrize(
    ("content", "word"),
    [(b"hello\n", "no journal"), (b'{"schema":"threenines.simulation/1"}\n', "no journal")],
)
def test_another_file_is_refused_and_left_alone(tmp_path: Path, content: bytes, word: str) -> None:
    path = tmp_path / "journal.jsonl"
    path.write_bytes(content)
    with pytest.raises(JournalError, match=word):
        Journal(path, HEADER)
    assert path.read_bytes() == content


@pytest.mark.parametrize("field", Header.__struct_fields__)
def test_a_journal_of_another_run_is_refused(tmp_path: Path, field: str) -> None:
    path = tmp_path / "journal.jsonl"
    Journal(path, HEADER).__exit__(None, None, None)
    told = {name: getattr(HEADER, name) for name in Header.__struct_fields__}
    other = Header(**{**told, field: "other" if isinstance(told[field], str) else told[field] + 1})
    with pytest.raises(JournalError, match=field):
        Journal(path, other)


def test_the_digest_is_of_the_code_that_decides() -> None:
    assert code_digest() == code_digest()
    assert len(code_digest()) == 16


def test_a_run_that_is_resumed_comes_to_the_same_as_one_in_one_go(tmp_path: Path) -> None:
    whole = simulate(range(10), seconds=SHORT_S, faults=6)
    path = tmp_path / "journal.jsonl"
    with Journal(path, HEADER) as journal:
        first = simulate(range(3), seconds=SHORT_S, faults=6, journal=journal)
    assert first.seeds == 3
    heard: list[Total] = []
    with Journal(path, HEADER) as journal:
        resumed = simulate(range(10), seconds=SHORT_S, faults=6, journal=journal, progress=heard.append)
    assert resumed.seeds == whole.seeds == 10
    assert resumed.counts == whole.counts
    assert resumed.weeks == whole.weeks
    assert heard
    assert heard[-1].seeds == 10
    with Journal(path, HEADER) as journal:
        again = simulate(range(10), seconds=SHORT_S, faults=6, journal=journal, progress=heard.append)
    assert again.counts == whole.counts
    assert len(heard) == 1, "something was run again"


def test_findings_are_told_once_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    told: list[Finding] = []
    with Journal(path, HEADER) as journal:
        first = simulate(range(2), variant="no-self-fence", journal=journal, told=told.append)
    assert told == list(first.findings)
    assert told
    with Journal(path, HEADER) as journal:
        again = simulate(range(2), variant="no-self-fence", journal=journal, told=told.append)
    assert again.findings == first.findings
    assert len(told) == len(first.findings)


# What is counted.


def test_a_tally_counts_the_rows_that_are_there() -> None:
    tally = Tally("stance", stances.TABLE)
    key = (stances.Stance.SERVING, stances.Symbol.RELEASE)
    assert tally.get(key) == stances.TABLE[key]
    assert tally.get((stances.Stance.SERVING, stances.Symbol.CLAIM)) is None
    assert tally.seen == {key: 1}
    assert tally.row(key) == "row stance: serving + switch-over asked for"


def test_the_tables_that_are_tallied_are_the_tables() -> None:
    coverage.watch()
    assert stances.TABLE == ownership.TABLE
    assert len(coverage.ROWS) == len(set(coverage.ROWS))
    assert set(coverage.UNREACHED) | coverage.SELDOM <= set(coverage.ROWS)


def test_what_never_happened_is_named() -> None:
    nothing = coverage.coverage({})
    assert len(nothing.missing) == len(Kind) + len(coverage.EFFECTS) + len(coverage.ROWS) - len(
        coverage.UNREACHED
    )
    assert set(nothing.missing) - set(nothing.owing) == coverage.SELDOM
    injected = coverage.coverage({"fault disk-stall": 3})
    assert "fault disk-stall" in injected.missing, "injected is not effective"
    assert "fault disk-stall" not in coverage.coverage({"hit disk-stall": 1}).missing


def test_a_quiet_history_covers_little() -> None:
    quiet = run(Parameters(1, 300, faults=(), workers=2))
    covered: Coverage = coverage.coverage(quiet.counts)
    assert quiet.violation is None
    assert "elections" in covered.missing
    assert "row stance: claiming + acknowledged" not in covered.missing


@given(st.dictionaries(st.integers(1, 50), st.integers(1, 20), min_size=1), st.floats(0.01, 1.0))
def test_a_quantile_is_that_of_the_list_written_out(gaps: dict[int, int], share: float) -> None:
    counts = Counter({f"{KEY}{length * 100}": count for length, count in gaps.items()})
    lengths = sorted(length * 100 for length, count in gaps.items() for _ in range(count))
    found = quantile_ms(gaps_ms(counts), share)
    assert found is not None
    assert sum(length <= found for length in lengths) >= share * len(lengths) - 1e-6
    assert sum(length < found for length in lengths) < share * len(lengths) + 1e-6


def test_without_gaps_there_is_no_quantile() -> None:
    assert quantile_ms([], 0.99) is None


# The fleets.


@pytest.mark.parametrize("fleet", [DUO, TRIO])
def test_a_fleet_is_right_in_itself(fleet: Fleet) -> None:
    assert fleet in FLEETS.values()
    for agent in FLEETS[len(fleet.workers)].agents.values():
        assert agent.home != agent.standby
        assert {agent.home, agent.standby or agent.home} <= set(fleet.workers)
    for host in fleet.workers:
        assert sorted(fleet.ranks(host)) == sorted(set(fleet.workers) - {host})
    for peer in fleet.workers:
        turns = sorted(fleet.ranks(host)[peer] for host in fleet.workers if host != peer)
        assert turns == list(range(len(fleet.workers) - 1))


# The command.


def test_a_shrunk_failure_lands_in_the_list_with_its_bug(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from threenines.commands.sim import sim as command

    kept = tmp_path / "regressions.json"
    kept.write_text("[]\n")
    monkeypatch.setattr(regressions, "FILE", kept)
    status = command(seed=0, seeds=4, mutant="no-self-fence", shrink=True, keep="nobody looked at the clock")
    assert status == 1
    (entry,) = regressions.load()
    assert entry.bug == "nobody looked at the clock"
    assert entry.mutant == "no-self-fence"
    assert run(entry.parameters()).violation is None
    again = run(entry.parameters(), BY_NAME[entry.mutant]()).violation
    assert again is not None
    assert again.check == entry.check


def test_a_journal_of_other_parameters_is_a_usage_error_of_one_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    words = ("--weeks", "0.004", "--journal", str(path))
    assert sim("--seeds", "2", *words).returncode == 0
    resumed = sim("--seeds", "2", *words, "--json")
    assert resumed.returncode == 0
    assert "2 of them are done already" in resumed.stderr
    assert json.loads(resumed.stdout.splitlines()[-1])["seeds"] == 2
    refused = sim("--seeds", "3", *words)
    assert refused.returncode == 64
    assert refused.stderr.startswith(f"threenines: {path}: ")


def test_keeping_without_shrinking_is_a_usage_error() -> None:
    ran = sim("--seeds", "1", "--keep", "something")
    assert ran.returncode == 64
    assert "--shrink" in ran.stderr
