"""Judges a run from what it left on disk: its plan and its raw history, nothing else.

The same history gives the same verdicts, today or in a year, with the stack long gone.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from loadtests.protocol import Calibration
from reports import model
from reports.model import CriterionResult, Deviation, Evidence, Instrument, Verdict, Verdicts, Void
from verification import estimators
from verification.catalogue import CatalogueEntry
from verification.checkers import CHECKERS, Checker
from verification.checkers import load as load_checker
from verification.checkers.load import HostLoad
from verification.estimators import Judgement
from verification.history import History, Kind
from verification.observations import Observations
from verification.plan import RunPlan, read_plan
from verification.series import series_of


class JudgeError(Exception):
    """A run that cannot be judged: where, what, mend."""

    def __init__(self, where: str, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}; {mend}")
        self.where = where
        self.what = what
        self.mend = mend


def judge_run(run_folder: Path) -> Verdicts:
    """Judges a stored run and writes its `verdicts.json` and `series.json`.

    Raises PlanError, HistoryError, or JudgeError when the plan is not the one that was hashed.
    """
    plan, sha256 = read_plan(run_folder)
    _check_hash(run_folder, sha256)
    history = History.read(run_folder)
    judged = judge(plan, history)
    write_file(run_folder / "verdicts.json", model.encode(judged.verdicts))
    write_file(run_folder / "series.json", model.encode(series_of(plan, history, judged.observations)))
    return judged.verdicts


@dataclass(frozen=True)
class Judged:
    """Verdicts, and the observations behind them by criterion (those whose checker did not break)."""

    verdicts: Verdicts
    observations: Mapping[str, Observations]


def judge(plan: RunPlan, history: History, checkers: Mapping[str, Checker] = CHECKERS) -> Judged:
    """Judges every row of the catalogue, in its order. Pure."""
    loads = load_checker.measure(plan, history)
    shortfall = load_checker.shortfall(plan, loads)
    results = []
    observations: dict[str, Observations] = {}
    voids: list[Void] = []
    for entry in plan.catalogue.criteria:
        if not plan.plans(entry.id):
            results.append(_unplanned(entry, plan.profile))
            continue
        found, judgement = _one(plan, history, entry, checkers, shortfall)
        if found is None:
            found = Observations()
        else:
            observations[entry.id] = found
        results.append(_result(plan, entry, found, judgement))
        reasons = Counter(void.reason for void in found.voids)
        voids += [Void(criterion=entry.id, count=n, reason=why) for why, n in sorted(reasons.items())]
    verdicts = Verdicts(
        criteria=tuple(results),
        voids=tuple(voids),
        deviations=tuple(_deviations(history)),
        instruments=(*_instruments(history), *_load_figures(loads)),
    )
    return Judged(verdicts, observations)


def _one(
    plan: RunPlan,
    history: History,
    entry: CatalogueEntry,
    checkers: Mapping[str, Checker],
    shortfall: str | None,
) -> tuple[Observations | None, Judgement]:
    checker = checkers.get(entry.id)
    if checker is None:
        return None, Judgement(Verdict.NOT_MEASURED, "planned, but nothing checks it")
    try:
        found = checker(plan, history)
        judgement = estimators.judge(entry, plan.rule(entry.id), found)
    except Exception as error:  # a checker that breaks says nothing about the system: unknown
        told = f"the checker broke: {type(error).__name__}: {error}"
        return None, Judgement(Verdict.INCONCLUSIVE, told)
    untouched = {Verdict.FAIL, Verdict.NOT_MEASURED}
    if shortfall is not None and plan.rule(entry.id).needs_load and judgement.verdict not in untouched:
        return found, dataclasses.replace(judgement, verdict=Verdict.VOID, reason=shortfall)
    return found, judgement


def _unplanned(entry: CatalogueEntry, profile: str) -> CriterionResult:
    where = ", ".join(entry.plans)
    reason = f"profile {profile} does not plan it" + (f"; {where} does" if where else "")
    return _bare(entry, reason)


def _bare(entry: CatalogueEntry, reason: str) -> CriterionResult:
    return CriterionResult(
        id=entry.id,
        title=entry.title,
        category=entry.category,
        claim=entry.claim,
        unit=entry.unit,
        target=entry.target,
        target_text=entry.target_text,
        stretch=entry.stretch,
        stretch_text=entry.stretch_text,
        direction=entry.direction,
        statistic=entry.statistic,
        method=entry.method,
        accepts=entry.accepts,
        reason=reason,
        remedy=entry.remedy,
    )


def _result(
    plan: RunPlan, entry: CatalogueEntry, found: Observations, judgement: Judgement
) -> CriterionResult:
    rule = plan.rule(entry.id)
    tried = judgement.verdict is not Verdict.NOT_MEASURED
    measured = bool(found.trials or found.counts) and tried
    return msgspec.structs.replace(
        _bare(entry, judgement.reason),
        verdict=judgement.verdict,
        evidence=Evidence.MEASURED if measured else Evidence.NONE,
        estimate=judgement.estimate if tried else None,
        bound=judgement.bound if tried else None,
        n=judgement.n if tried else None,
        exceedances=judgement.exceedances if tried else None,
        coverage=rule.coverage,
        confidence=rule.confidence,
        trials_to_decide=judgement.trials_to_decide,
        voids=len(found.voids),
        remedy=None if judgement.verdict is Verdict.PASS else entry.remedy,
        sources=found.sources,
        facts=dict((*judgement.facts, *found.facts)),
    )


def _deviations(history: History) -> list[Deviation]:
    return [
        Deviation(
            what=f"{note.where}: {note.what}", why="the writer was cut off", effect="that line is left out"
        )
        for note in history.notes
    ]


def _instruments(history: History) -> list[Instrument]:
    found = []
    for operation in history.of("calibrate"):
        done = operation.completed()
        if done is None or operation.kind is not Kind.OK:
            continue
        told, host = done.value(Calibration), operation.key or "?"
        found.append(
            Instrument(
                name=f"clock on {host}",
                value=told.clock_step_ns,
                unit="ns",
                detail="smallest step of CLOCK_BOOTTIME as a program sees it",
            )
        )
        found.append(
            Instrument(
                name=f"waking on {host}",
                value=round(told.wake_late_p99_ms, 3),
                unit="ms",
                detail=f"p99 of how late a probe is woken ({told.samples} sleeps of 2 ms, "
                f"p50 {told.wake_late_p50_ms:.3f} ms, most {told.wake_late_max_ms:.1f} ms)",
            )
        )
    return found


def _load_figures(loads: tuple[HostLoad, ...]) -> list[Instrument]:
    return [
        Instrument(
            name=f"load on {load.host}",
            value=round(load.operations / load.seconds, 1) if load.seconds else 0.0,
            unit="operations/s",
            detail=f"planned {load.per_s:g}; {load.operations:,} in {load.seconds:.0f} s, "
            f"{load.failed:,} failed",
        )
        for load in loads
    ]


def _check_hash(run_folder: Path, sha256: str) -> None:
    path = run_folder / "run.json"
    try:
        run = msgspec.json.decode(path.read_bytes(), type=model.Run)
    except (OSError, msgspec.MsgspecError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise JudgeError(str(path), f"cannot be read ({what})", "name a run's folder") from error
    if run.plan_sha256 != sha256:
        raise JudgeError(
            str(run_folder / "plan.json"),
            "is not the plan that was hashed before the first trial",
            "restore it or repeat the run",
        )


def write_file(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all, on disk when it returns."""
    import os

    temporary = path.with_name(f".{path.name}.new")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
