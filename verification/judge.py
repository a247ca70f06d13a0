"""Judges a run from what it left on disk: its plan and its raw history, nothing else.

The same history gives the same verdicts, today or in a year, with the stack long gone.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from reports import model
from reports.model import CriterionResult, Deviation, Evidence, Verdict, Verdicts, Void
from verification import drift, estimators, instruments, night_log, seal, statistics
from verification.catalogue import CatalogueEntry, Estimator
from verification.checkers import CHECKERS, Checker
from verification.checkers import load as load_checker
from verification.errors import HarnessError
from verification.estimators import Judgement
from verification.history import History
from verification.observations import Observations
from verification.plan import RunPlan, read_plan
from verification.scenario_folder import Again, judged_again
from verification.series import series_of


class JudgeError(HarnessError):
    """A run that cannot be judged: where, what, mend."""


def judge_run(run_folder: Path) -> Verdicts:
    """Judges a stored run and writes its `verdicts.json` and `series.json`.

    Raises PlanError, HistoryError, SealError, or JudgeError when the plan is not the one that was hashed.
    """
    plan, history = _read(run_folder)
    judged = judge(plan, history, again=scenarios_again(run_folder, plan, history))
    write_file(run_folder / "verdicts.json", model.encode(judged.verdicts))
    write_file(run_folder / "series.json", model.encode(series_of(plan, history, judged.observations)))
    return judged.verdicts


def judge_history(run_folder: Path) -> Verdicts:
    """The same without writing."""
    plan, history = _read(run_folder)
    return judge(plan, history, again=scenarios_again(run_folder, plan, history)).verdicts


def scenarios_again(run_folder: Path, plan: RunPlan, history: History) -> dict[str, Again]:
    """What the raw records of the run's scenarios say; those that have none are left out."""
    told = night_log.last_told(history)
    found = {
        one.name: judged_again(
            run_folder, one, told[one.name].folder, [r.scenario for r in told[one.name].results]
        )
        for one in plan.scenarios
        if one.name in told and told[one.name].results
    }
    return {name: one for name, one in found.items() if one is not None}


@dataclass(frozen=True)
class Judged:
    """Verdicts, and the observations behind them by criterion (those whose checker did not break)."""

    verdicts: Verdicts
    observations: Mapping[str, Observations]


def judge(
    plan: RunPlan,
    history: History,
    checkers: Mapping[str, Checker] = CHECKERS,
    again: Mapping[str, Again] = {},
) -> Judged:
    """Judges every row of the catalogue, in its order. `again`: the scenarios, judged anew. Pure."""
    history = night_log.counted(history)
    loads = load_checker.measure(plan, history)
    shortfall = load_checker.shortfall(plan, loads)
    errors = instruments.measured(history, loads)
    results: list[CriterionResult] = []
    observations: dict[str, Observations] = {}
    judgements: dict[str, Judgement] = {}
    voids: list[Void] = []
    for entry in plan.catalogue.criteria:
        if not plan.plans(entry.id):
            results.append(unplanned(entry, plan.profile))
            continue
        found, judgement = _one(plan, history, entry, checkers, shortfall)
        if found is None:
            found = Observations()
        else:
            observations[entry.id] = found
        judgement = instruments.doubted(entry, judgement, errors)
        judgements[entry.id] = judgement
        results.append(_result(plan, entry, found, judgement))
        reasons = Counter(void.reason for void in found.voids)
        voids += [Void(criterion=entry.id, count=n, reason=why) for why, n in sorted(reasons.items())]
    verdicts = Verdicts(
        criteria=_together(list(night_log.told_why(results, plan.pieces, history)), judgements),
        voids=tuple(voids),
        deviations=(
            *night_log.deviations(history),
            *night_log.judged_otherwise(history, again),
            *_cut_off(history),
            *_left_the_plan(plan, history, results),
        ),
        scenarios=night_log.scenario_results(plan.scenarios, history, again),
        projections=tuple(
            msgspec.structs.replace(judgement.projection, criterion=name)
            for name, judgement in judgements.items()
            if judgement.projection is not None
        ),
        instruments=instruments.told(history, loads),
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
        rule = plan.rule(entry.id)
        judgement = estimators.judge(entry, rule, found, plan.catalogue.assumed_faults, plan.seed)
    except Exception as error:  # a checker that breaks says nothing about the system: unknown
        told = f"the checker broke: {type(error).__name__}: {error}"
        return None, Judgement(Verdict.INCONCLUSIVE, told)
    untouched = {Verdict.FAIL, Verdict.NOT_MEASURED}
    if shortfall is not None and plan.rule(entry.id).needs_load and judgement.verdict not in untouched:
        return found, dataclasses.replace(judgement, verdict=Verdict.VOID, reason=shortfall)
    return found, judgement


def unplanned(entry: CatalogueEntry, profile: str) -> CriterionResult:
    """The row of a criterion that a profile does not plan: not measured, and who would."""
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
        reproduce=entry.reproduce,
        panel=entry.panel,
        fresh_for_days=entry.fresh_for_days,
    )


def _result(
    plan: RunPlan, entry: CatalogueEntry, found: Observations, judgement: Judgement
) -> CriterionResult:
    rule = plan.rule(entry.id)
    tried = judgement.verdict is not Verdict.NOT_MEASURED
    measured = bool(found.trials or found.counts or found.pairs) and tried
    evidence = Evidence.ACCELERATED if entry.estimator is Estimator.PROJECTION else found.evidence
    drifts = drift.note(drift.run_order(found)) if tried else None
    return msgspec.structs.replace(
        _bare(entry.as_planned(rule), judgement.reason),
        verdict=judgement.verdict,
        evidence=evidence if measured else Evidence.NONE,
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
        interval=judgement.interval if tried else None,
        interval_confidence=judgement.interval_confidence if tried else None,
        stage=judgement.stage,
        notes=judgement.notes if drifts is None else (*judgement.notes, drifts),
    )


TOGETHER = 0.05
"""The error that all statistical claims of a run may have together."""


def _together(
    results: list[CriterionResult], judgements: Mapping[str, Judgement]
) -> tuple[CriterionResult, ...]:
    """Says beside each pass whether it also stands when all claims of the run share one error (Holm).

    A pass keeps its own error, as its plan says; who reads twenty of them reads one that is wrong more often
    than that, and is told which ones stand together.
    """
    tested = {name: one.error for name, one in judgements.items() if one.error is not None}
    adjusted = dict(zip(tested, statistics.holm(list(tested.values())), strict=True))
    told = []
    for result in results:
        error = adjusted.get(result.id)
        if result.verdict is Verdict.PASS and error is not None and len(tested) > 1:
            stands = "stands" if error <= TOGETHER else "does not stand"
            fact = f"{stands} among all {len(tested)} claims of the run ({_error(error)} by Holm)"
            told.append(msgspec.structs.replace(result, facts={**result.facts, "together": fact}))
        else:
            told.append(result)
    return tuple(told)


def _error(value: float) -> str:
    return "error under 0.1 %" if value < 0.001 else f"error {100.0 * value:.2g} %"


def _left_the_plan(plan: RunPlan, history: History, results: list[CriterionResult]) -> list[Deviation]:
    found = []
    for planned in plan.criteria:
        result = next((one for one in results if one.id == planned.id), None)
        if result is not None and planned.n is not None and (result.n or 0) < planned.n:
            found.append(
                Deviation(
                    what=f"{planned.id}: {result.n or 0:,} of {planned.n:,} planned trials count",
                    why=f"{result.voids} were void" if result.voids else "the others were not run",
                    effect=f"the verdict is {result.verdict.value}",
                )
            )
    begun = {operation.key: at for at, operation in enumerate(history.of("trial"))}
    order = [begun[trial.id] for trial in plan.faults if trial.id in begun]
    late = sum(one > other for one, other in itertools.pairwise(order))
    if late:
        found.append(
            Deviation(
                what=f"{late} of {len(order)} fault trials began before one that the plan has earlier",
                why="what that one needs was still recovering",
                effect="none on the counts: who comes first was decided without looking at results",
            )
        )
    replaced = sum(trial.reserve and trial.id in begun for trial in plan.faults)
    if replaced:
        found.append(
            Deviation(
                what=f"{replaced} trials of the reserve were run",
                why="in place of void ones, or for a later stage of the plan",
                effect="none: both are part of the plan",
            )
        )
    return found


def _cut_off(history: History) -> list[Deviation]:
    return [
        Deviation(
            what=f"{note.where}: {note.what}", why="the writer was cut off", effect="that line is left out"
        )
        for note in history.notes
    ]


def _read(run_folder: Path) -> tuple[RunPlan, History]:
    """Plan and history, each what the run had. Raises PlanError, HistoryError, SealError, JudgeError."""
    path = run_folder / "run.json"
    try:
        run = msgspec.json.decode(path.read_bytes(), type=model.Run)
    except OSError as error:
        raise JudgeError(str(path), f"cannot be read ({error.strerror})", "name a run's folder") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise JudgeError(str(path), f"is damaged ({error})", "restore it or name another run") from None
    plan, sha256 = read_plan(run_folder)
    if run.plan_sha256 != sha256:
        raise JudgeError(
            str(run_folder / "plan.json"),
            "is not the plan that was hashed before the first trial",
            "restore it or repeat the run",
        )
    seal.check(run_folder, run.seal_sha256)
    return plan, History.read(run_folder)


def write_file(path: Path, data: bytes) -> None:
    """Writes a file whole or not at all, on disk when it returns."""
    import os

    temporary = path.with_name(f".{path.name}.new")
    with open(temporary, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
