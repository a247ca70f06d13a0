"""The self-test: it finds an honest judge honest and a dishonest one out."""

from __future__ import annotations

import numpy as np
import pytest

from reports.model import Verdict
from verification import selftest
from verification.selftest.cases import OURS, Case, cases

CREATED = "2026-01-31T12:00:00Z"


def played(name: str, judge: dict[str, Verdict], keeps: bool, runs: int = 400):
    case = Case("made up", name, keeps, 0.05, lambda _chance: judge)
    return selftest.run(runs, 1, created=CREATED, chosen=[case])


def test_a_judge_that_passes_everything_is_found_out():
    found = played("broken", {OURS: Verdict.PASS}, keeps=False)
    assert (found.verdict, found.rates[0].error, found.rates[0].holds) == (Verdict.FAIL, 1.0, False)
    assert "broken" in found.detail


def test_a_judge_that_never_decides_is_honest_and_useless():
    found = played("broken", {OURS: Verdict.INCONCLUSIVE}, keeps=False)
    assert (found.verdict, found.rates[0].undecided) == (Verdict.PASS, 400)


def test_few_runs_prove_nothing():
    assert played("broken", {OURS: Verdict.FAIL}, keeps=False, runs=30).verdict is Verdict.FAIL


def test_naive_judges_claim_nothing():
    found = played("broken", {OURS: Verdict.FAIL, "mean": Verdict.PASS}, keeps=False)
    assert found.verdict is Verdict.PASS
    assert [(rate.judge, rate.limit, rate.holds) for rate in found.rates] == [
        (OURS, 0.05, True),
        ("mean", None, None),
    ]


def test_a_false_pass_must_be_shown_to_be_rare_and_a_false_fail_must_be_compatible():
    assert not selftest.holds(0.03, 0.06, 0.05, keeps=False)
    assert selftest.holds(0.03, 0.06, 0.05, keeps=True)
    assert selftest.holds(0.01, 0.04, 0.05, keeps=False)
    assert not selftest.holds(0.06, 0.09, 0.05, keeps=True)


def test_every_system_can_be_played_and_replayed():
    for case in cases():
        one, same = (case.play(np.random.default_rng(3)) for _ in range(2))
        assert one == same
        assert OURS in one
        assert len(one) > 1


@pytest.mark.parametrize("runs", [0, -1])
def test_no_runs_are_refused(runs):
    with pytest.raises(ValueError, match="at least one run"):
        selftest.run(runs, 1, created=CREATED)


def test_the_claims_hold_on_systems_that_are_quick_to_play():
    quick = ("rate", "share", "gain", "census", "drift", "observed", "quantile (Wilks")
    chosen = [case for case in cases() if case.estimator.startswith(quick)]
    found = selftest.run(150, 5, created=CREATED, chosen=chosen)
    for rate in found.rates:
        if rate.judge == OURS:
            # 150 runs cannot show 5 %; they can contradict it.
            assert rate.low <= rate.limit, (rate.estimator, rate.system, rate.error)
    naive = {(r.judge, r.system): r.error for r in found.rates if r.judge != OURS}
    assert naive["mean", "failover p99 5.1 s against < 5 s"] > 0.9
    assert naive["30 trials", "failover p99 5.1 s against < 5 s"] > 0.5
    assert naive["means, one side after the other", "A/A: nothing against ≥ 5 %"] > 0.9
