"""A night's own history: what was cut does not count, what was left open says why."""

from __future__ import annotations

import msgspec
import pytest

from loadtests.record import Kind, Record, raw
from reports.model import CriterionResult, PlannedScenario, Verdict
from verification import night_log
from verification.history import History
from verification.night_log import ALL_DONE, BUDGET, NightLog, SessionTold, TurnTold, counted, read_log
from verification.night_plan import Kind as PieceKind
from verification.night_plan import Piece
from verification.scenario_result import Result

PLANNED = (
    PlannedScenario(name="kill", title="k", rows=("RL-5",), expected="it goes on", about_s=60, sha256=""),
    PlannedScenario(name="hang", title="h", rows=("RL-3",), expected="it goes on", about_s=60, sha256=""),
)


def op(process: str, f: str, key: str, begin: int, end: int | None, value=None, kind: Kind = Kind.OK):
    records = [Record(process=process, type=Kind.INVOKE, f=f, key=key, value=raw(None), time_ns=begin)]
    if end is not None:
        records.append(Record(process=process, type=kind, f=f, key=key, value=raw(value), time_ns=end))
    return records


def session(name: str, begin: int, end: int | None, why: str = BUDGET, kind: Kind = Kind.OK):
    return op(name, "session", name, begin, end, SessionTold(budget_s=360, why=why), kind)


def turn(process: str, begin: int, end: int | None, **told: object):
    value = TurnTold(**told)  # type: ignore[arg-type]
    return op(process, "turn", value.piece, begin, end, value, Kind.FAIL if value.why else Kind.OK)


def result(name: str, verdict: Verdict, *why: str) -> Result:
    return Result(scenario=name, title="", rows=(), expected="", verdict=verdict, why=why)


def history(*parts: list[Record]) -> History:
    return History.of_records([record for part in parts for record in part])


def ended(found: History) -> dict[str, bool]:
    return {one.key or "": one.completion is not None for one in found.of("trial")}


def test_a_trial_that_ends_after_the_stop_was_not_brought_to_its_end():
    found = history(
        session("night", 0, 100, "stopped", Kind.FAIL),
        op("t1", "trial", "before", 10, 90),
        op("t2", "trial", "cancelled", 95, 105),
        op("t3", "trial", "killed", 96, None),
        op("p", "lookup", "a", 95, 105),
        session("night.2", 200, 300),
        op("t4", "trial", "later", 250, 290),
    )
    assert ended(counted(found)) == {"before": True, "cancelled": False, "killed": False, "later": True}
    assert next(counted(found).of("lookup")).completion is not None
    assert ended(found)["cancelled"], "the history itself is as it was"


def test_a_night_without_a_stop_and_a_run_that_is_none_stay_as_they_are():
    for found in (
        history(op("t", "trial", "a", 1, 2)),
        history(session("night", 0, 9), op("t", "trial", "a", 1, 12)),
    ):
        assert counted(found) is found


def test_the_last_whole_attempt_counts_and_the_cut_ones_are_counted():
    found = history(
        session("night", 0, None),
        turn("night-1", 1, None, piece="kill"),
        session("night.2", 10, 90),
        turn(
            "night.2-1",
            11,
            41,
            piece="kill",
            done=True,
            results=(result("kill", Verdict.PASS),),
            folder="s/k",
        ),
    )
    kill, hang = night_log.scenario_results(PLANNED, found)
    assert (kill.verdict, kill.voids, kill.folder) == (Verdict.PASS, 1, "s/k")
    assert kill.expected == "it goes on"
    assert (hang.verdict, hang.voids) == (Verdict.NOT_MEASURED, 0)
    assert hang.why == ("not run: it did not fit into what was left of the budget of 6 min",)


@pytest.mark.parametrize(
    ("last", "why"),
    [
        (session("night", 0, None), "the run was cut off before it"),
        (
            session("night", 0, 9, "it was stopped by a signal", Kind.FAIL),
            "was stopped before it (it was stopped",
        ),
        (session("night", 0, 9, "what is left broke: kill"), "what is left broke: kill"),
    ],
)
def test_what_was_not_run_says_why(last, why):
    told = night_log.scenario_results(PLANNED, history(last))
    assert all(one.verdict is Verdict.NOT_MEASURED and why in one.why[0] for one in told)


def test_one_that_was_cut_and_never_run_again_says_both():
    kill, _ = night_log.scenario_results(
        PLANNED, history(session("night", 0, None), turn("night-1", 1, None, piece="kill"))
    )
    assert (kill.verdict, kill.voids) == (Verdict.NOT_MEASURED, 1)
    assert "cut off 1 times" in kill.why[0]


def test_cells_of_a_design_are_one_result_as_bad_as_the_worst():
    cells = (result("kill-a", Verdict.PASS), result("kill-b", Verdict.FAIL, "it stood still"))
    found = history(session("night", 0, 9), turn("night-1", 1, 5, piece="kill", done=True, results=cells))
    kill, _ = night_log.scenario_results(PLANNED, found)
    assert (kill.verdict, kill.why) == (Verdict.FAIL, ("kill-b: it stood still",))


def test_open_criteria_say_that_their_campaign_was_not_brought_to_its_end():
    pieces = (
        Piece(name="open", kind=PieceKind.CAMPAIGN, tells=("RL-3", "RL-4"), about_s=9),
        Piece(name="done", kind=PieceKind.CAMPAIGN, tells=("SD-1",), about_s=9),
        Piece(name="kill", kind=PieceKind.SCENARIO, tells=("RL-5",), about_s=9),
    )

    def of(name: str, verdict: Verdict) -> CriterionResult:
        return CriterionResult(id=name, title="", category="", claim="", verdict=verdict, reason="as it was")

    results = [
        of("RL-3", Verdict.NOT_MEASURED),
        of("RL-4", Verdict.INCONCLUSIVE),
        of("SD-1", Verdict.INCONCLUSIVE),
        of("RL-5", Verdict.NOT_MEASURED),
        of("RL-3", Verdict.PASS),
    ]
    found = history(session("night", 0, 9), turn("night-1", 1, 5, piece="done", done=True))
    told = [one.reason or "" for one in night_log.told_why(results, pieces, found)]
    assert told[0].startswith("not run: it did not fit")
    assert told[1].startswith("as it was; some of its trials were not run: ")
    assert told[2:] == ["as it was"] * 3


def test_it_is_on_disk_before_a_turn_begins_and_a_cut_line_is_no_harm(tmp_path):
    (tmp_path / "history").mkdir()
    path = tmp_path / "history" / "night.jsonl"
    log = NightLog(path, 360.0)
    log.begin("kill")
    begun = night_log.turns(read_log(tmp_path))
    assert [(one.piece, one.told) for one in begun] == [("kill", None)]
    log.end(TurnTold(piece="kill", done=True))
    log.begin("hang")
    log.stopped("it was stopped")
    log.close(ALL_DONE)
    (session_op,) = read_log(tmp_path).of("session")
    assert session_op.kind is Kind.FAIL, "a stop is not undone by the end"
    whole = path.read_bytes()
    for cut in range(len(whole)):
        path.write_bytes(whole[:cut])
        found = read_log(tmp_path)
        assert len(night_log.turns(found)) <= 2
        assert len(found.notes) == (0 if cut == 0 or whole[cut - 1 : cut] == b"\n" else 1)


def test_deviations_count_sessions_cuts_and_what_broke():
    found = history(
        session("night", 0, None),
        turn("night-1", 1, None, piece="kill"),
        session("night.2", 10, 90, ALL_DONE),
        turn("night.2-1", 11, 12, piece="hang", why="no such luck"),
    )
    told = night_log.deviations(found)
    assert [one.what for one in told] == [
        "the run went on once, in 2 sessions",
        "turns that were cut: kill (1)",
        "a turn of hang broke",
    ]
    assert told[2].why == "no such luck"
    assert night_log.deviations(history(session("night", 0, 9, ALL_DONE))) == ()
    assert night_log.deviations(history(op("t", "trial", "a", 1, 2))) == ()
    assert msgspec.json.encode(told)
