"""The catalogue holds every row, and refuses what contradicts itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from verification import sequential
from verification.catalogue import CatalogueError, Estimator, load_catalogue
from verification.checkers import CHECKERS

ROWS = (Path(__file__).parent / "rows.txt").read_text().split()


def test_every_row_of_the_requirements_stands_in_it_once_and_in_order():
    rows = [entry.id for entry in load_catalogue().criteria if entry.id == entry.row]
    assert rows == ROWS


def test_every_entry_says_how_long_its_evidence_counts_and_what_to_do_when_it_fails():
    for entry in load_catalogue().criteria:
        assert entry.fresh_for_days, entry.id
        assert entry.remedy, entry.id
        if entry.plans:
            assert entry.reproduce, entry.id
            assert entry.panel, entry.id


def test_parts_belong_to_rows():
    assert {entry.row for entry in load_catalogue().criteria} == set(ROWS)


def test_categories_and_thresholds():
    catalogue = load_catalogue()
    assert [(c.id, c.threshold) for c in catalogue.categories] == [
        ("service-discovery", 0.95),
        ("performance", 0.90),
        ("monitoring", 0.95),
        ("reliability", 0.99),
        ("enhancement", 0.95),
    ]
    home = {"SD": "service-discovery", "PF": "performance", "OB": "monitoring", "RL": "reliability"}
    for entry in catalogue.criteria:
        assert entry.category == home.get(entry.id.partition("-")[0], "enhancement")


def test_what_is_planned_can_be_checked_and_what_can_be_checked_is_planned():
    catalogue = load_catalogue()
    assert {name for profile in catalogue.profiles for name in catalogue.planned(profile)} == set(CHECKERS)
    assert set(catalogue.planned("quick")) <= set(catalogue.planned("nightly"))
    assert all(e.remedy and e.claim and e.accepts for e in catalogue.criteria)
    unplanned = [e for e in catalogue.criteria if not e.plans]
    assert all(e.estimator is Estimator.NONE for e in unplanned)


def test_quick_plans_samples_that_support_their_claims():
    planned = load_catalogue().planned("quick")
    assert planned["SD-2"].n == 10_000
    assert planned["SD-4"].n == 300
    assert planned["SD-2.cold"].n == 59
    stages = sequential.design(0.95, 0.05, 0.05, spend=(0.6, 0.25, 0.15))
    for name in ("SD-6", "RL-3", "RL-3.detect", "RL-3.failover", "RL-3.validate", "RL-3.hang"):
        assert planned[name].n == 69
        assert planned[name].coverage == planned[name].confidence == 0.95
        assert planned[name].stages == stages


ENTRY = "{id: SD-1, title: t, category: c, claim: x, estimator: %s, accepts: [measured], remedy: r%s}"
HEAD = "categories: [{id: c, title: C, threshold: 0.9}]\ncriteria:\n"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (HEAD + "  - " + ENTRY % ("none", "") + "\n  - " + ENTRY % ("none", ""), "stands twice"),
        (HEAD + "  - " + (ENTRY % ("none", "")).replace("category: c", "category: d"), "not one of"),
        (HEAD + "  - " + (ENTRY % ("none", "")).replace("SD-1", "SD-1.part"), "must stand before it"),
        (
            HEAD + "  - " + ENTRY % ("none", ", plans: {quick: {population: p, n: 59}}"),
            "without an estimator",
        ),
        (HEAD + "  - " + ENTRY % ("mean", ", plans: {quick: {population: p}}"), "without target"),
        (
            HEAD
            + "  - "
            + ENTRY
            % (
                "quantile",
                ", target: 1, direction: below, "
                "plans: {quick: {population: p, n: 58, coverage: 0.95, confidence: 0.95}}",
            ),
            "58 trials cannot show 0.95",
        ),
        (
            HEAD
            + "  - "
            + ENTRY
            % (
                "quantile",
                ", target: 1, direction: below, "
                "plans: {quick: {population: p, n: 59, coverage: 0.95, confidence: 0.95, stages: ["
                "{n: 59, pass_at_most: 0, fail_from: 9}, {n: 93, pass_at_most: 1, fail_from: 99}]}}",
            ),
            "would pass a system at the limit",
        ),
        (
            HEAD
            + "  - "
            + ENTRY
            % (
                "quantile",
                ", target: 1, direction: at least, "
                "plans: {quick: {population: p, n: 59, coverage: 0.95, confidence: 0.95}}",
            ),
            "bounded from above",
        ),
        (
            HEAD
            + "  - "
            + ENTRY
            % (
                "rate",
                ", target: 1, direction: below, plans: {quick: {population: p, n: 9, confidence: 0.9, "
                "anytime: true}}",
            ),
            "only a share is judged at any time",
        ),
        (HEAD + "  - " + ENTRY % ("none", ", fresh_for_days: 0"), "fresh_for_days must be above 0"),
        (
            "assumed_faults: [{fault: f, per_week: 1, low: 2, high: 3, source: s, blocks: [crash]}]\n"
            + HEAD
            + "  - "
            + ENTRY % ("none", ""),
            "assumed fault f",
        ),
        (HEAD + "  - " + ENTRY % ("guess", ""), "Invalid enum value"),
        (HEAD + "  - " + ENTRY % ("none", ", wish: 1"), "unknown field"),
    ],
)
def test_contradictions_are_refused(text, problem):
    with pytest.raises(CatalogueError, match=problem):
        load_catalogue(text.encode())


def test_nightly_plans_299_crashes_hangs_service_failures_and_losses_and_a_thousand_faults():
    from verification.kinds import trials_of

    planned = load_catalogue().planned("nightly")
    total = 0
    for name in ("RL-3", "RL-3.hang", "RL-4", "RL-5"):
        trials = trials_of(name, planned[name], planned[name].n)
        assert sum(trials.values()) >= 299, name
        total += sum(trials.values())
        assert planned[name].coverage == 0.99
    assert total >= 1000
    assert planned["RL-8"].n == 1000


@pytest.mark.parametrize("profile", ["quick", "nightly"])
def test_a_quantile_is_claimed_and_told_with_the_share_that_its_profile_plans(profile):
    catalogue = load_catalogue()
    for name, plan in catalogue.planned(profile).items():
        entry = catalogue.entry(name).as_planned(plan)
        if entry.estimator is not Estimator.QUANTILE:
            assert entry == catalogue.entry(name)
            continue
        share = f"{100 * (plan.coverage or 0):g}"
        assert entry.statistic == f"p{share}", name
        assert f"p{share} of" in entry.claim or f"in {share} % of" in entry.claim, name
    assert catalogue.entry("RL-3.failover").as_planned(
        catalogue.planned(profile)["RL-3.failover"]
    ).statistic == ("p95" if profile == "quick" else "p99")
