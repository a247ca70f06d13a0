"""The judge on whole histories: known results in, known verdicts out."""

from __future__ import annotations

import hashlib

import msgspec
import pytest

from loadtests.protocol import Targets
from loadtests.record import encode_line
from reports import model
from reports.model import Evidence, Run, Verdict
from tests.verification import stories
from tests.verification.stories import HOSTS, Fault, faults, load, look_ups, pair, plan, with_plan
from verification.history import History
from verification.judge import JudgeError, judge, judge_run
from verification.series import series_of

PLAN = plan()
LOAD = load()


def results(records, run_plan=PLAN, **kwargs):
    verdicts = judge(run_plan, History.of_records(records), **kwargs).verdicts
    return {result.id: result for result in verdicts.criteria}


def test_every_row_is_judged_and_without_history_nothing_passes():
    found = results([])
    assert list(found) == [entry.id for entry in PLAN.catalogue.criteria]
    assert {result.verdict for result in found.values()} <= {Verdict.NOT_MEASURED, Verdict.VOID}
    assert all(result.evidence is Evidence.NONE for result in found.values())
    assert all(result.reason and result.remedy for result in found.values())


def test_what_was_not_measured_has_no_figures():
    for records in ([], faults(59) + LOAD, LOAD):
        for result in results(records).values():
            if result.verdict is Verdict.NOT_MEASURED:
                assert (result.n, result.exceedances, result.estimate, result.bound) == (None,) * 4, result.id


@pytest.mark.parametrize(
    ("served_ms", "limit_ms", "verdict"),
    [
        (4900.0, 5000, Verdict.PASS),
        (5100.0, 5000, Verdict.FAIL),
        (4999.0, 5000, Verdict.PASS),
        (5000.0, 5000, Verdict.FAIL),
    ],
)
def test_known_failovers_are_judged_right(served_ms, limit_ms, verdict):
    catalogue = msgspec.structs.replace(
        PLAN.catalogue,
        criteria=tuple(
            msgspec.structs.replace(entry, target=limit_ms) if entry.id == "RL-3.failover" else entry
            for entry in PLAN.catalogue.criteria
        ),
    )
    records = faults(69, served_ms=(served_ms, served_ms - 100.0), validated_ms=served_ms + 10) + LOAD
    found = results(records, plan(catalogue=catalogue))["RL-3.failover"]
    assert found.verdict is verdict
    assert found.evidence is Evidence.MEASURED
    assert (found.estimate, found.bound, found.n) == (served_ms, served_ms, 69)
    assert found.exceedances == (0 if verdict is Verdict.PASS else 69)


def test_clean_crashes_pass_what_they_prove_and_no_more():
    found = results(faults(69) + LOAD)
    for name in ("RL-3", "RL-3.detect", "RL-3.failover", "RL-3.validate"):
        assert found[name].verdict is Verdict.PASS, found[name].reason
        assert found[name].n == 69
    assert found["RL-3.hang"].verdict is Verdict.NOT_MEASURED
    assert found["SD-6"].verdict is Verdict.INCONCLUSIVE  # hangs are missing
    assert found["RL-4"].verdict is Verdict.NOT_MEASURED
    assert found["RL-4"].evidence is Evidence.NONE


def test_a_trial_that_breaks_one_of_three_limits_is_an_exceedance_of_the_whole():
    # 2.1 s to detect breaks that limit although the whole stays under the sum of all.
    found = results(faults(69, left_ms=(2100.0, 20.0)) + LOAD)
    assert found["RL-3"].exceedances == 69
    assert found["RL-3"].verdict is Verdict.FAIL
    assert found["RL-3.failover"].verdict is Verdict.PASS


def test_void_trials_are_counted_and_do_not_count():
    records = faults(68) + Fault(number=70, gone_ms=None).records() + LOAD
    judged = judge(PLAN, History.of_records(records)).verdicts
    found = {result.id: result for result in judged.criteria}["RL-3.detect"]
    assert (found.verdict, found.n, found.voids, found.trials_to_decide) == (Verdict.INCONCLUSIVE, 68, 1, 1)
    assert ("RL-3.detect", 1) in {(void.criterion, void.count) for void in judged.voids}


def test_a_timeout_is_an_exceedance():
    records = faults(68) + Fault(number=70, served_ms=(None, None), validated_ms=None).records() + LOAD
    found = results(records)["RL-3.failover"]
    assert (found.verdict, found.n, found.exceedances) == (Verdict.INCONCLUSIVE, 69, 1)
    assert found.trials_to_decide == 41


@pytest.mark.parametrize(
    ("records", "reason"),
    [
        ([], "no load ran"),
        (load(per_s=50), "the load on mainpc ran at 50 of 100"),
        (load(hosts=("mainpc",)), "no load ran on pc2"),
    ],
)
def test_a_run_under_its_load_is_void(records, reason):
    found = results(faults(59) + records)["RL-3.detect"]
    assert found.verdict is Verdict.VOID
    assert reason in found.reason


def test_a_failure_stands_whatever_the_load_was():
    assert results(faults(59, served_ms=(9000.0, 9000.0)))["RL-3.failover"].verdict is Verdict.FAIL


def test_a_checker_that_breaks_leaves_the_verdict_open():
    def broken(_plan, _history):
        raise ZeroDivisionError("of nothing")

    from verification.checkers import CHECKERS

    found = results(faults(69) + LOAD, checkers={**CHECKERS, "RL-3": broken})
    assert found["RL-3"].verdict is Verdict.INCONCLUSIVE
    assert found["RL-3"].reason == "the checker broke: ZeroDivisionError: of nothing"
    assert found["RL-3"].evidence is Evidence.NONE
    assert found["RL-3.detect"].verdict is Verdict.PASS


def test_look_ups():
    run_plan = plan(catalogue=with_plan("SD-2", n=300))
    good = [line for host in HOSTS for line in look_ups("lookup", host, [0.02] * 300)]
    found = results(good + LOAD, run_plan)["SD-2"]
    assert (found.verdict, found.n, found.exceedances) == (Verdict.PASS, 600, 0)
    assert found.bound == pytest.approx(0.02)
    unusable = look_ups("lookup", "mainpc", [0.02] * 300, usable=0) + good[600:]
    found = results(unusable + LOAD, run_plan)["SD-2"]
    assert (found.verdict, found.exceedances) == (Verdict.FAIL, 300)


def test_a_census_of_names():
    names = [agent.name for agent in PLAN.agents]
    asked = [line for host in HOSTS for n in names for line in look_ups("census", host, [0.1], agent=n)]
    # each look_ups() starts anew at time 0: one process per name keeps them apart
    asked = [msgspec.structs.replace(line, process=f"{line.process}-{line.key}") for line in asked]
    assert results(asked)["SD-1"].verdict is Verdict.PASS
    assert results(asked[:-2])["SD-1"].verdict is Verdict.INCONCLUSIVE
    gone = look_ups("census", "pc2", [0.1], usable=0, agent=names[-1])
    found = results(asked[:-2] + gone)["SD-1"]
    assert found.verdict is Verdict.FAIL
    assert f"{names[-1]} from pc2" in found.reason


def test_targets_of_prometheus():
    names = tuple(sorted(agent.name for agent in PLAN.agents))

    def asked(host, up, down=None):
        told = Targets(up=up, down=down or {})
        return pair(f"prometheus-{host}", "targets", host, 0, 5, ended=told, host=host)

    assert results(asked("mainpc", names) + asked("pc2", names))["OB-1.targets"].verdict is Verdict.PASS
    assert results(asked("mainpc", names))["OB-1.targets"].verdict is Verdict.INCONCLUSIVE
    found = results(asked("mainpc", names) + asked("pc2", names[1:], {names[0]: "refused"}))["OB-1.targets"]
    assert found.verdict is Verdict.FAIL
    assert f"{names[0]} on pc2 (refused)" in found.reason


def test_registrations():
    def told(took_ms):
        lines = []
        for i, trial in enumerate(PLAN.registrations):
            at = 100.0 * i
            lines += pair(f"r-{i}", "register", trial.name, at, at + 3, host=trial.origin)
            lines += pair(f"a-{i}", "await", trial.name, at - 5, at + took_ms, host=trial.other)
        return lines

    good = results(told(12.0) + LOAD)["SD-4"]
    assert (good.verdict, good.n) == (Verdict.PASS, 300)
    assert good.bound == 12.0
    assert results(told(1200.0) + LOAD)["SD-4"].verdict is Verdict.FAIL


def test_availability_counts_every_look_up_of_a_registered_name():
    run_plan = plan(catalogue=with_plan("SD-3.run", n=100))
    good = [line for host in HOSTS for line in look_ups("lookup", host, [0.1] * 4000)]
    assert results(good + LOAD, run_plan)["SD-3.run"].verdict is Verdict.PASS
    bad = pair("census-pc2", "census", "agent-1", 9e6, 9e6 + 1, kind=stories.Kind.FAIL, host="pc2")
    found = results(good + bad + LOAD, run_plan)["SD-3.run"]
    assert (found.verdict, found.exceedances) == (Verdict.FAIL, 1)
    stranger = pair("census-pc2", "census", "nobody", 9e6, 9e6 + 1, kind=stories.Kind.FAIL, host="pc2")
    assert results(good + stranger + LOAD, run_plan)["SD-3.run"].verdict is Verdict.PASS
    assert results(good + LOAD, run_plan)["SD-3"].verdict is Verdict.NOT_MEASURED


def stored(folder, records, run_plan=PLAN):
    encoded = run_plan.encode()
    (folder / "history").mkdir()
    (folder / "plan.json").write_bytes(encoded)
    run = Run(
        id="r",
        started="2026-01-31T12:00:00Z",
        profile="quick",
        environment="local",
        seed=7,
        plan_sha256=hashlib.sha256(encoded).hexdigest(),
    )
    (folder / "run.json").write_bytes(model.encode(run))
    (folder / "history" / "all.jsonl").write_bytes(b"".join(map(encode_line, records)))


def test_a_stored_run_is_judged_again_to_the_same_bytes(tmp_path):
    stored(tmp_path, faults(59) + faults(3, fault="hang", agent="agent-1") + LOAD)
    first = judge_run(tmp_path)
    files = {name: (tmp_path / name).read_bytes() for name in ("verdicts.json", "series.json")}
    assert judge_run(tmp_path) == first
    assert files == {name: (tmp_path / name).read_bytes() for name in files}
    (tmp_path / "plan.json").write_bytes((tmp_path / "plan.json").read_bytes().replace(b"59", b"58", 1))
    with pytest.raises(JudgeError, match="not the plan that was hashed"):
        judge_run(tmp_path)


def test_a_cut_history_is_judged_by_what_is_whole(tmp_path):
    stored(tmp_path, faults(59) + LOAD)
    path = tmp_path / "history" / "all.jsonl"
    path.write_bytes(path.read_bytes()[:-10])
    verdicts = judge_run(tmp_path)
    assert "cut short" in verdicts.deviations[0].what


def test_the_plots_have_their_data():
    history = History.of_records(faults(59) + LOAD)
    judged = judge(PLAN, history)
    found = series_of(PLAN, history, judged.observations).series
    assert {(one.criterion, type(one).__name__) for one in found} >= {
        ("RL-3", "Samples"),
        ("RL-3", "TimeLine"),
        ("run", "Lines"),
    }
    samples = next(one for one in found if one.criterion == "RL-3.detect")
    assert samples.values == (25.0,) * 59
    assert series_of(PLAN, History.of_records([]), {}).series == ()


def test_each_pass_says_whether_it_stands_among_all_claims():
    found = results(faults(69) + LOAD)
    told = found["RL-3.detect"].facts["together"]
    assert "among all 5 claims of the run" in told or "among all" in told
    assert "stand" in told
    assert "together" not in found["RL-3.hang"].facts


def test_where_a_run_left_its_plan_is_listed():
    judged = judge(PLAN, History.of_records(faults(40) + LOAD)).verdicts
    told = {one.what: one for one in judged.deviations}
    one = told["RL-3.detect: 40 of 69 planned trials count"]
    assert (one.why, one.effect) == ("the others were not run", "the verdict is inconclusive")
    assert not any("reserve" in what for what in told)
    late = judge(PLAN, History.of_records(faults(80) + LOAD)).verdicts
    assert any("11 trials of the reserve were run" in one.what for one in late.deviations)


def test_a_drift_is_told_beside_the_verdict():
    slower = [
        line
        for number in range(69)
        for line in Fault(number=number, left_ms=(20.0 + number, 25.0 + number)).records()
    ]
    found = results(slower + LOAD)["RL-3.detect"]
    assert found.verdict is Verdict.PASS
    assert any("drift over the run" in note for note in found.notes)
    history = History.of_records(slower + LOAD)
    series = series_of(PLAN, history, judge(PLAN, history).observations).series
    tests = next(one for one in series if one.criterion == "RL-3.detect").run_order
    assert [test.drifts for test in tests] == [True, True]
    assert results(faults(69) + LOAD)["RL-3.detect"].notes == ()


def test_a_projection_stands_apart_from_measurements():
    both = faults(69) + faults(69, fault="hang", agent="agent-1")
    judged = judge(PLAN, History.of_records(both + LOAD)).verdicts
    found = {result.id: result for result in judged.criteria}
    assert found["RL-1.projected"].evidence is Evidence.ACCELERATED
    assert "not observed" in found["RL-1.projected"].reason or "no outage" in found["RL-1.projected"].reason
    assert found["RL-1"].verdict is Verdict.NOT_MEASURED
    assert {one.criterion for one in judged.projections} <= {"RL-1.projected"}


def test_every_result_says_what_to_do_and_for_how_long_it_counts():
    for result in results(faults(69) + LOAD).values():
        assert result.fresh_for_days, result.id
    assert results([])["RL-3.detect"].reproduce
    assert results([])["RL-3.detect"].panel
