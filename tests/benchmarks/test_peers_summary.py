"""Schedule and summary of the comparison with the peers."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.peers.records import Kind, Trial, append_trials, read_operations, read_trials
from benchmarks.peers.schedule import Planned, remaining, schedule
from benchmarks.peers.summary import Holds, Safety, claims, figures, row, rows, safety_of


def trial(
    system: str,
    serve_ms: float | None,
    kind: Kind = Kind.HOST,
    number: int = 0,
    *,
    split: int = 0,
    lost: int | None = 0,
    void: str = "",
) -> Trial:
    return Trial(
        run="r",
        system=system,
        kind=kind,
        number=number,
        primary="mainpc",
        serve_ms=serve_ms,
        acknowledged=10,
        split_writes=split,
        lost=lost,
        void=void,
    )


@settings(deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 1 << 32))
def test_every_system_gets_every_trial_once(trials: int, rounds: int, seed: int) -> None:
    systems = ("a", "b", "c")
    blocks = schedule(systems, tuple(Kind), trials, rounds, seed)
    planned = Counter(one for block in blocks for one in block.trials)
    assert planned == Counter(Planned(s, k, n) for s in systems for k in Kind for n in range(trials))
    assert blocks == schedule(systems, tuple(Kind), trials, rounds, seed)
    for lap in range(0, len(blocks), len(systems)):
        assert {block.system for block in blocks[lap : lap + len(systems)]} == set(systems)
    assert all(len(block.trials) <= rounds * len(Kind) for block in blocks)


def test_an_interrupted_run_goes_on_where_it_was() -> None:
    blocks = schedule(("a", "b"), (Kind.HOST, Kind.CUT), 2, 1, seed=3)
    first = blocks[0].trials[0]
    done = [trial(first.system, 1.0, first.kind, first.number)]
    left = remaining(blocks, done)
    assert [one for block in left for one in block.trials] == [
        one for block in blocks for one in block.trials if one != first
    ]
    every = [trial(one.system, 1.0, one.kind, one.number) for block in blocks for one in block.trials]
    assert remaining(blocks, every) == ()


def test_a_void_trial_is_made_again_but_not_for_ever() -> None:
    blocks = schedule(("a",), (Kind.HOST,), 1, 1, seed=3)
    void = trial("a", None, void="no steady start")
    assert remaining(blocks, [void, void]) == blocks
    assert remaining(blocks, [void, void, void]) == ()
    assert remaining(blocks, [void, trial("a", 1.0)]) == ()


def test_a_trial_without_service_is_longer_than_any_other() -> None:
    one = row(
        "a", Kind.HOST, [trial("a", 5.0), trial("a", None), trial("a", None), trial("a", 1.0, void="x")]
    )
    assert (one.n, one.void, one.unserved) == (3, 1, 2)
    assert one.median_ms is None
    assert one.most_ms is None
    assert one.least_ms == 5.0


@pytest.mark.parametrize(
    ("bad", "safety"),
    [
        ({}, Safety.SAFE),
        ({"split": 1}, Safety.UNSAFE),
        ({"lost": 1}, Safety.UNSAFE),
        ({"lost": None}, Safety.UNKNOWN),
        ({"lost": None, "split": 1}, Safety.UNSAFE),
        ({"void": "x"}, Safety.UNKNOWN),
    ],
)
def test_safe_means_no_split_and_nothing_lost_and_known(bad: dict[str, object], safety: Safety) -> None:
    assert row("a", Kind.HOST, [trial("a", 1.0, **bad)]).safety is safety  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("trials", "holds", "peer"),
    [
        ([trial("us", 10.0), trial("p", 20.0), trial("q", 15.0, split=1)], Holds.YES, "p"),
        ([trial("us", 10.0), trial("p", 19.9)], Holds.NO, "p"),
        ([trial("us", 10.0), trial("q", 99.0, lost=1)], Holds.UNDECIDED, None),
        ([trial("us", 10.0, split=2), trial("p", 99.0)], Holds.NO, "p"),
        ([trial("us", 10.0, lost=None), trial("p", 99.0)], Holds.UNDECIDED, "p"),
        ([trial("us", 10.0), trial("p", 99.0, lost=None)], Holds.UNDECIDED, None),
        ([trial("us", 10.0), trial("us", None, Kind.CUT, void="x"), trial("p", 99.0)], Holds.UNDECIDED, "p"),
        ([trial("us", None), trial("p", 99.0)], Holds.NO, "p"),
        # Unsafe under one fault is unsafe.
        ([trial("us", 10.0), trial("p", 20.0), trial("p", 20.0, Kind.CUT, lost=1)], Holds.UNDECIDED, None),
    ],
)
def test_the_claim_is_against_the_fastest_safe_peer(
    trials: list[Trial], holds: Holds, peer: str | None
) -> None:
    table = rows(trials, ("us", "p", "q"))
    claim = claims(table, ours="us", wanted=2.0)[0]
    assert (claim.holds, claim.peer) == (holds, peer)
    assert (safety_of("us", table) is Safety.UNSAFE) is (claim.why == "us was not safe")


def test_figures_have_ours_beside_each_peer() -> None:
    made = figures(rows([trial("us", 10.0), trial("p", 25.0)], ("us", "p")), ours="us")
    median = next(one for one in made if one.measure == "host: serves again, median")
    assert (median.ours, median.baseline, median.baseline_name, median.ratio) == (10.0, 25.0, "p", 2.5)


def test_trials_are_read_back_and_a_torn_line_of_a_killed_client_is_left_out(tmp_path: object) -> None:
    from pathlib import Path

    assert isinstance(tmp_path, Path)
    path = tmp_path / "peers.jsonl"
    append_trials(path, [trial("a", 1.0)])
    append_trials(path, [trial("b", None, lost=None)])
    assert [one.system for one in read_trials(path, "r")] == ["a", "b"]
    assert read_trials(path, "other") == []
    torn = tmp_path / "ops.jsonl"
    torn.write_bytes(
        b'{"client":"a","n":1,"invoked_ns":1,"ended_ns":2,"ok":true,"server":"x"}\n{"client":"a","n"'
    )
    assert [one.n for one in read_operations(torn)] == [1]
