"""How criteria stand: the newest word that is not too old."""

from __future__ import annotations

from datetime import UTC, datetime
from types import SimpleNamespace

import pytest

from reports.model import CriterionResult, Evidence, Verdict
from verification.catalogue import load_catalogue
from verification.standing import standing

ENTRY = load_catalogue().entry("SD-2")
NOW = datetime(2026, 3, 1, tzinfo=UTC)


def report(run: str, ended: str | None, verdict: Verdict, age_days: float | None = None):
    told = CriterionResult(
        id="SD-2",
        title="t",
        category="c",
        claim="x",
        verdict=verdict,
        evidence=Evidence.MEASURED,
        age_days=age_days,
    )
    return SimpleNamespace(run=SimpleNamespace(id=run, ended=ended), criteria=(told,))


def test_the_newest_word_counts():
    old = report("old", "2026-02-01T00:00:00Z", Verdict.PASS)
    new = report("new", "2026-02-27T00:00:00Z", Verdict.FAIL)
    silent = report("silent", "2026-02-28T00:00:00Z", Verdict.NOT_MEASURED)
    found = standing(ENTRY, [silent, new, old], NOW)
    assert (found.run, found.verdict, found.age_days, found.fresh) == ("new", Verdict.FAIL, 2.0, True)
    assert standing(ENTRY, [silent], NOW) is None


@pytest.mark.parametrize(
    ("ended", "age_days", "fresh"),
    [
        ("2026-01-30T00:00:00Z", None, True),
        ("2026-01-29T00:00:00Z", None, False),
        ("2026-02-28T00:00:00Z", 29.5, False),
    ],
)
def test_old_evidence_counts_as_not_measured(ended, age_days, fresh):
    found = standing(ENTRY, [report("r", ended, Verdict.PASS, age_days)], NOW)
    assert found.fresh is fresh
    assert found.counts is (Verdict.PASS if fresh else Verdict.NOT_MEASURED)


def test_runs_without_an_end_or_from_the_future_are_passed_over():
    for ended in (None, "soon", "2027-01-01T00:00:00Z"):
        assert standing(ENTRY, [report("r", ended, Verdict.PASS)], NOW) is None
