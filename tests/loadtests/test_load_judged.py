"""What the judge makes of a load's seconds, and of what the instruments cannot tell apart."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import pytest

from loadtests.instrument import ClockOffset
from loadtests.mix import Step
from loadtests.protocol import Calibration, LoadPlan, Trouble
from loadtests.raw import Raw
from loadtests.record import Kind, Record
from loadtests.recorder import Recorder
from loadtests.workload import Loop, load_workload
from reports.model import Lines, Quantiles, Verdict
from tests.verification.stories import HOSTS, MS, START_NS, faults, look_ups, pair, plan
from verification import instruments
from verification.checkers import load as load_checker
from verification.estimators import Judgement
from verification.history import History
from verification.judge import judge
from verification.load_series import load_series

PLAN = plan()
WORKLOAD = load_workload("reference")
CALL, LOOK_UP = Step("load-call", "agent-0", "core", "ask", {}), Step("load-lookup", "agent-0", "core")
LOOK_UPS = [record for host in HOSTS for record in look_ups("lookup", host, [1.0] * 400)]


def load(
    seconds: int = 20,
    ended: float = 1.0,
    hosts: Sequence[str] = HOSTS,
    raw: Raw = Raw.FAILURES,
    failing: int = 0,
    loop: Loop = Loop.OPEN,
    per_s: int = 100,
    begin_s: int = 0,
) -> list[Record]:
    """So many arrivals a second on each host; that share ended after 2 ms, the last second's after 40."""
    start_ns = START_NS + begin_s * 1000 * MS
    told_ns = {Kind.INVOKE: start_ns, Kind.OK: start_ns + seconds * 1000 * MS}
    lines: list[bytes] = []
    workload = msgspec.structs.replace(WORKLOAD, loop=loop, per_s=per_s)
    for host in hosts:
        recorder = Recorder(host, lines.append, raw)
        recorder.begin(LoadPlan(per_s=per_s, users=20, begin_ns=start_ns, workload=workload))
        for n in range(per_s * seconds):
            due = start_ns + n * 1000 * MS // per_s
            recorder.planned(due)
            if n % 100 >= 100 * ended:
                continue
            bad = n < failing
            took = 40 if n >= per_s * (seconds - 1) else 2
            kind, why = (Kind.FAIL, Trouble(error="gone", code="unavailable")) if bad else (Kind.OK, None)
            step = LOOK_UP if n % 2 else CALL
            recorder.ended(f"{host}-{n % 4}", step, due, due, due + took * MS, kind, why)
        recorder.end()
    records = [msgspec.json.decode(line, type=Record) for line in b"".join(lines).splitlines()]
    return [
        msgspec.structs.replace(one, time_ns=told_ns[one.type]) if one.f == "load-plan" else one
        for one in records
    ]


def another(records: list[Record]) -> list[Record]:
    """The same by another generator."""
    return [msgspec.structs.replace(one, process=f"{one.process}-2") for one in records]


def calibrated(wake_ms: float = 0.5, offset_ms: float = 0.0, offset_error_ms: float = 0.1) -> list[Record]:
    records = []
    for host in HOSTS:
        told = Calibration(
            clock_step_ns=50, wake_late_p50_ms=0.1, wake_late_p99_ms=wake_ms, wake_late_max_ms=9, samples=9
        )
        records += pair(f"calibrate-{host}", "calibrate", host, 0, 1, ended=told, host=host)
        offset = ClockOffset(
            offset_ns=round(offset_ms * MS), error_ns=round(offset_error_ms * MS), samples=15
        )
        records += pair(f"clock-{host}", "clock-offset", host, 0, 1, ended=offset, host=host)
    return records


def verdicts(records):
    return {one.id: one for one in judge(PLAN, History.of_records(records)).verdicts.criteria}


def test_a_load_by_its_seconds_counts():
    history = History.of_records(load())
    loads = load_checker.measure(PLAN, history)
    assert [(one.host, one.operations, one.share, one.users) for one in loads] == [
        ("mainpc", 2000, 1.0, 20),
        ("pc2", 2000, 1.0, 20),
    ]
    assert load_checker.shortfall(PLAN, loads) is None
    assert verdicts(LOOK_UPS + load())["SD-2"].verdict is not Verdict.VOID


@pytest.mark.parametrize(
    ("records", "why"),
    [
        (load(ended=0.94), "the load on mainpc reached 94.0% of its 2,000 planned arrivals (95% are needed)"),
        (load(hosts=("pc2",)), "no load ran on mainpc"),
        (load(loop=Loop.CLOSED), "the load on mainpc was a closed loop, which hides stalls"),
        (load(seconds=1), "the load on mainpc ended 7 s before the last trial"),
    ],
)
def test_what_needs_a_load_is_void_without_it(records, why):
    late = [r for host in HOSTS for r in look_ups("lookup", host, [19.0] * 400)]
    found = verdicts(late + records)["SD-2"]
    assert found.verdict is Verdict.VOID
    assert found.reason == why


@pytest.mark.parametrize("pause_s", [1, 6, 30])
def test_a_load_that_follows_another_soon_is_one_of_its_own(pause_s):
    """As in a night, where a turn of five seconds comes before a long one."""
    first, second = load(seconds=4), another(load(seconds=20, begin_s=4 + pause_s))
    during = [r for host in HOSTS for r in look_ups("lookup", host, [float(pause_s) + 20] * 4)]
    loads = load_checker.measure(PLAN, History.of_records(first + second + during))
    assert [(one.host, one.operations, one.seconds) for one in loads] == [
        (host, 100 * seconds, float(seconds)) for host in HOSTS for seconds in (4, 20)
    ]
    assert load_checker.shortfall(PLAN, loads) is None


def test_generators_of_one_load_belong_together_however_they_begin():
    records = load(seconds=20) + another(load(seconds=20, begin_s=2))
    loads = load_checker.measure(PLAN, History.of_records(records))
    assert [(one.host, one.operations) for one in loads] == [("mainpc", 4000), ("pc2", 4000)]


@pytest.mark.parametrize("raw", [Raw.ALL, Raw.FAILURES])
def test_look_ups_of_the_load_count_for_availability_once(raw):
    facts = verdicts(LOOK_UPS + load(raw=raw, failing=10))["SD-3.run"]
    assert facts.n == 2 * (400 + 1000)
    assert facts.exceedances == 2 * 5


def test_the_report_shows_the_errors_of_the_instruments():
    history = History.of_records(calibrated(offset_ms=0.25) + load())
    loads = load_checker.measure(PLAN, history)
    told = {one.name: one for one in instruments.told(history, loads)}
    assert told["clock on pc2"].value == 50
    assert told["waking on mainpc"].value == 0.5
    assert told["clock offset of mainpc"].value == 0.25
    assert "0.100 ms" in told["clock offset of mainpc"].detail
    assert told["load on pc2"].value == 100.0
    assert "2,000 of 2,000 planned arrivals" in told["load on pc2"].detail
    assert [one.clock_offset_ns for one in instruments.measured(history, loads)] == [250_000, 250_000]


@pytest.mark.parametrize(
    ("name", "bound", "wake_ms", "offset_ms", "decided"),
    [
        ("RL-3.failover", 2_900.0, 50.0, 0.0, True),
        ("RL-3.failover", 2_900.0, 150.0, 0.0, False),
        ("RL-3.failover", 2_900.0, 50.0, 60.0, False),
        ("SD-2", 99.0, 0.5, 60.0, True),  # one clock: the other's offset does not matter
        ("SD-2", 99.0, 1.5, 0.0, False),
    ],
)
@pytest.mark.parametrize("verdict", [Verdict.PASS, Verdict.FAIL])
def test_a_difference_below_the_instruments_error_decides_nothing(
    name, bound, wake_ms, offset_ms, decided, verdict
):
    history = History.of_records(calibrated(wake_ms, offset_ms))
    errors = instruments.measured(history, load_checker.measure(PLAN, history))
    entry = msgspec.structs.replace(
        PLAN.catalogue.entry(name), unit="ms", target=3_000.0 if name.startswith("RL") else 100.0
    )
    judgement = Judgement(verdict, "as it is", estimate=bound, bound=bound, n=9)
    found = instruments.doubted(entry, judgement, errors)
    if decided:
        assert found is judgement
    else:
        assert found.verdict is Verdict.INCONCLUSIVE
        assert "than the instruments can tell apart" in found.reason
        assert found.n == 9


def test_what_is_no_time_or_undecided_is_not_doubted():
    errors = instruments.measured(History.of_records(calibrated(1e9)), ())
    count = PLAN.catalogue.entry("SD-1")
    timed = PLAN.catalogue.entry("RL-3.failover")
    for entry, verdict in ((count, Verdict.PASS), (timed, Verdict.INCONCLUSIVE), (timed, Verdict.VOID)):
        judgement = Judgement(verdict, "as it is", estimate=1.0, bound=1.0)
        assert instruments.doubted(entry, judgement, errors) is judgement


def test_a_rough_clock_leaves_a_run_undecided():
    trials = faults(99)  # more than the first look of any plan so far
    lasted_s = (max(record.time_ns for record in trials) - START_NS) // 1_000_000_000
    records = trials + LOOK_UPS + load(seconds=lasted_s, per_s=1, raw=Raw.NONE)
    sharp, rough = (verdicts(records + calibrated(wake_ms=ms)) for ms in (0.5, 10_000.0))
    assert sharp["RL-3.failover"].verdict is Verdict.PASS
    assert rough["RL-3.failover"].verdict is Verdict.INCONCLUSIVE


def test_plots_show_rates_and_latency_from_the_intended_start():
    series = load_series(PLAN, History.of_records(load(failing=10, raw=Raw.NONE)))
    rates, latencies = (one for one in series if isinstance(one, Lines))
    assert [line.name for line in rates.lines] == ["answered, mainpc", "answered, pc2", "failed, all hosts"]
    assert rates.lines[0].values[1:] == (100.0,) * (len(rates.at_s) - 1)
    assert rates.lines[2].values[0] == 10.0
    assert {line.name: line.values[3] for line in latencies.lines} == pytest.approx(
        {"p50": 2.0, "p99": 2.0, "slowest": 2.0}, rel=0.001
    )
    whole = {(one.title, one.group): one for one in series if isinstance(one, Quantiles)}
    calls = whole["Load: calls, from the intended start", "pc2"]
    assert calls.count == 1000
    assert calls.values[-1] == pytest.approx(40.0, rel=0.001)


def test_long_loads_are_drawn_in_few_points():
    series = load_series(
        PLAN, History.of_records(load(seconds=900, ended=0.01, hosts=("pc2",), raw=Raw.NONE))
    )
    assert all(len(one.at_s) <= 400 for one in series if isinstance(one, Lines))
