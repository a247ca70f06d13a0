"""Run folders made up for tests of evidence and gate: a real plan, no history, verdicts as told."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Mapping
from pathlib import Path

from reports.model import CriterionResult, Evidence, Run, RunState, Verdict, Verdicts, encode
from tests.verification import stories
from verification.catalogue import Catalogue, load_catalogue

COMMIT = "c" * 40


@functools.cache
def catalogue() -> Catalogue:
    """The catalogue of this version, read once."""
    return load_catalogue()


@functools.cache
def plan_bytes() -> bytes:
    """A plan of the quick profile."""
    return stories.plan(catalogue=catalogue()).encode()


def run_folder(  # every part of a run can be set
    home: Path,
    name: str,
    verdicts: Mapping[str, Verdict] | None = None,
    *,
    ended: str = "2026-03-01T01:00:00Z",
    started: str = "2026-03-01T00:00:00Z",
    profile: str = "quick",
    environment: str = "staging",
    commit: str | None = COMMIT,
    dirty: bool = False,
    state: RunState = RunState.FINISHED,
    evidence: Evidence = Evidence.MEASURED,
) -> Path:
    """Writes `run.json`, `plan.json`, `verdicts.json` and a history of no records."""
    folder = home / name
    (folder / "history").mkdir(parents=True)
    plan = plan_bytes()
    (folder / "plan.json").write_bytes(plan)
    told = verdicts or {}
    results = tuple(
        CriterionResult(
            id=entry.id,
            title=entry.title,
            category=entry.category,
            claim=entry.claim,
            verdict=told.get(entry.id, Verdict.NOT_MEASURED),
            evidence=evidence if entry.id in told else Evidence.NONE,
            n=100 if entry.id in told else None,
        )
        for entry in catalogue().criteria
    )
    (folder / "verdicts.json").write_bytes(encode(Verdicts(criteria=results)))
    (folder / "history" / "nemesis.jsonl").write_bytes(b"")
    run = Run(
        id=name,
        started=started,
        ended=ended,
        profile=profile,
        environment=environment,
        seed=7,
        plan_sha256=hashlib.sha256(plan).hexdigest(),
        commit=commit,
        commit_dirty=dirty,
        state=state,
        versions={"python": "3"},
        machine={"cpus": "2"},
    )
    (folder / "run.json").write_bytes(encode(run))
    return folder
