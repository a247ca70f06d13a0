"""Arrivals handed to users, what is kept of them, what it comes to, and how exact it is."""

from __future__ import annotations

import gevent
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from loadtests.histogram import Histogram
from loadtests.instrument import (
    ClockOffset,
    ClockReading,
    GeneratorError,
    HostInstruments,
    clock_offset,
    decides,
    error_ms,
)
from loadtests.mix import Step
from loadtests.open_loop import OpenLoop
from loadtests.outcome import Outcome
from loadtests.protocol import LoadPlan, Trouble
from loadtests.raw import Raw
from loadtests.record import Kind, Record
from loadtests.recorder import Recorder
from loadtests.workload import Loop, Operation, Task, Workload
from verification.history import History

MS = 1_000_000
CALL = Step("load-call", "planner", "core", "ask", {"text": "x"})


class Time:
    """A clock that jumps to where somebody waits for."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def wait_until(self, instant_ns: int) -> None:
        gevent.sleep(0)
        self.now = max(self.now, instant_ns)


class Heard:
    def __init__(self) -> None:
        self.due: list[int] = []
        self.delays: list[tuple[int, int]] = []

    def planned(self, due_ns: int) -> None:
        self.due.append(due_ns)

    def late(self, due_ns: int, late_ns: int) -> None:
        self.delays.append((due_ns, late_ns))


def run_loop(dues_ms, users, takes_ms):
    """All arrivals through so many users, each of whom takes so long; when each was begun."""
    time, heard, begun = Time(), Heard(), []
    loop = OpenLoop(((ms / 1e3, CALL) for ms in dues_ms), 0, heard, time, time)

    def user() -> None:
        while (arrival := loop.take()) is not None:
            begun.append((arrival.due_ns // MS, time.now // MS, arrival.free))
            end = time.now + takes_ms * MS
            while time.now < end and not done:
                gevent.sleep(0)

    done: list[bool] = []
    greenlets = [gevent.spawn(user) for _ in range(users)]
    gevent.sleep(0)
    loop.run()
    gevent.sleep(0)
    done.append(True)
    left = loop.backlog
    loop.stop()
    gevent.joinall(greenlets, timeout=10, raise_error=True)
    return heard, begun, left


def test_users_that_are_free_begin_what_is_due_at_once():
    heard, begun, left = run_loop([0, 10, 20, 30], users=2, takes_ms=5)
    assert heard.due == [0, 10 * MS, 20 * MS, 30 * MS]
    assert [(due, free) for due, _, free in begun] == [(0, True), (10, True), (20, True), (30, True)]
    assert [due for due, _ in heard.delays] == heard.due
    assert left == 0


def test_busy_users_hold_up_no_arrival_and_are_not_the_generators_delay():
    heard, begun, left = run_loop([0, 10, 20, 30], users=1, takes_ms=1000)
    assert heard.due == [0, 10 * MS, 20 * MS, 30 * MS]
    assert begun[0] == (0, 0, True)
    assert not any(free for _, _, free in begun[1:])
    assert heard.delays == [(0, 0)]
    assert left == 3


class Ticks:
    """A clock that runs on, a millisecond for each turn of all greenlets."""

    def __init__(self) -> None:
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def wait_until(self, instant_ns: int) -> None:
        while self.now < instant_ns:
            gevent.sleep(0)

    def run(self, until_ms: int) -> None:
        while self.now < until_ms * MS:
            self.now += MS
            gevent.sleep(0)


def test_a_second_without_answers_raises_p99_in_an_open_loop_and_not_in_a_closed_one():
    """The same in time that is made up: 8 s at 50 a second, no answers from 3 s to 4 s, else 2 ms each."""
    clock, opened, closed = Ticks(), Histogram(), Histogram()

    def call() -> None:
        clock.wait_until(clock.now + 2 * MS)
        if 3000 * MS <= clock.now < 4000 * MS:
            clock.wait_until(4000 * MS)

    def user_of_the_open_loop() -> None:
        while (arrival := loop.take()) is not None:
            call()
            opened.record(clock.now - arrival.due_ns)

    def user_of_the_closed_loop() -> None:
        while clock.now < 8000 * MS:
            asked_ns = clock.now
            call()
            closed.record(clock.now - asked_ns)
            clock.wait_until(clock.now + 38 * MS)

    loop = OpenLoop(((n / 50, CALL) for n in range(400)), 0, Heard(), clock, clock)
    greenlets = [gevent.spawn(user_of_the_open_loop) for _ in range(20)]
    greenlets += [gevent.spawn(user_of_the_closed_loop) for _ in range(2)]
    greenlets.append(gevent.spawn(loop.run))
    clock.run(until_ms=9000)
    loop.stop()
    gevent.joinall(greenlets, timeout=30, raise_error=True)
    assert (opened.count, closed.count) == (400, pytest.approx(352, abs=10))
    # 50 of 400 arrivals waited for 0 to 1,000 ms: the share above x ms is (1000 - x) / 8000.
    assert opened.quantile_ms(0.99) == pytest.approx(920, abs=25)
    assert opened.quantile_ms(0.9) == pytest.approx(200, abs=25)
    assert closed.quantile_ms(0.99) < 10
    assert closed.largest_ms() > 900


def plan(per_s: float = 100.0, **more: object) -> LoadPlan:
    workload = Workload(
        name="w",
        per_s=per_s,
        users=2,
        timeout_s=1,
        tasks=(Task(operation=Operation.CALL, share=1, bodies={"ask": {}}),),
        **more,
    )
    return LoadPlan(per_s=per_s, users=2, begin_ns=1000 * MS, workload=workload)


def recorded(raw: Raw, planned: int = 300, ended: int = 300, told: LoadPlan | None = None):
    """A load of 100 a second; `ended` of `planned` arrivals came to an end, every tenth badly."""
    out: list[bytes] = []
    recorder = Recorder("mainpc", out.append, raw)
    recorder.begin(told or plan())
    for n in range(planned):
        due_ns = 1000 * MS + n * 10 * MS
        recorder.planned(due_ns)
        if n >= ended:
            continue
        recorder.late(due_ns, MS)
        kind, trouble = (Kind.FAIL, Trouble(error="no", code="x")) if n % 10 == 0 else (Kind.OK, None)
        recorder.ended("user", CALL, due_ns, due_ns + MS, due_ns + 3 * MS, kind, trouble)
        if n % 50 == 0:
            recorder.ended("user", CALL, due_ns, due_ns, due_ns + MS, Kind.OK, None, follows=True)
    recorder.end()
    return b"".join(out)


@pytest.mark.parametrize(("raw", "operations"), [(Raw.ALL, 306), (Raw.FAILURES, 30), (Raw.NONE, 0)])
def test_seconds_say_the_same_whatever_is_written_beside_them(raw, operations):
    lines = recorded(raw)
    outcome = Outcome()
    outcome.take(lines)
    host = outcome.hosts["mainpc"]
    assert (host.planned, host.arrivals, host.operations, host.failed) == (300, 300, 306, 30)
    assert (host.share, host.last_s, host.finished) == (1.0, 3, 1)
    assert host.kinds["load-call"].latency.quantile_ms(0.5) == pytest.approx(3.0, rel=0.001)
    assert host.late.count == 300
    assert outcome.shortfall() is None
    history = History.of_records([msgspec.json.decode(line, type=Record) for line in lines.splitlines()])
    assert len(list(history.of("load-call"))) == operations
    assert len(list(history.of("load-second"))) == 3


@pytest.mark.parametrize(
    ("load", "why"),
    [
        (recorded(Raw.NONE, ended=286), None),
        (recorded(Raw.NONE, ended=284), "reached 94.7% of its 300 planned arrivals (95% are needed)"),
        (recorded(Raw.NONE, planned=0), "no load ran on mainpc"),
        (recorded(Raw.NONE, told=plan(loop=Loop.CLOSED)), "closed loop, which hides stalls"),
        (
            recorded(Raw.NONE, told=plan(per_s=400.0)),
            "planned 300 arrivals in 3 s, where its workload has 1,200",
        ),
        (recorded(Raw.NONE, told=plan(per_s=20.0)), "planned 300 arrivals in 3 s, where its workload has 60"),
    ],
)
def test_a_load_that_was_not_there_is_void(load, why):
    outcome = Outcome()
    outcome.take(load)
    if why is None:
        assert outcome.shortfall() is None
    else:
        assert why in outcome.shortfall()
        assert any(line.startswith("VOID: ") for line in outcome.summary())


def test_two_generators_of_a_host_are_one_load():
    outcome = Outcome()
    for place in (0, 1):
        out: list[bytes] = []
        recorder = Recorder("mainpc", out.append, Raw.NONE, place)
        recorder.begin(msgspec.structs.replace(plan(), place=place, places=2))
        for n in range(place, 300, 2):
            recorder.planned(1000 * MS + n * 10 * MS)
            recorder.ended("u", CALL, 1000 * MS + n * 10 * MS, 0, 1000 * MS + n * 10 * MS + MS, Kind.OK, None)
        recorder.end()
        outcome.take(b"".join(out))
    assert outcome.shortfall() is None
    assert outcome.hosts["mainpc"].arrivals == outcome.merged()["load-call"].latency.count == 300
    assert len(outcome.hosts["mainpc"].plans) == 2


def test_a_generator_that_is_late_says_so():
    held, late = Outcome(), Outcome()
    held.take(recorded(Raw.NONE))
    late.take(recorded(Raw.NONE, told=plan(late_limit_ms=0.5)))
    assert "began operations 1.00 ms late (p99)" in " ".join(held.summary())
    assert "cannot hold this rate" not in " ".join(held.summary())
    assert "over its limit of 0.5 ms; it cannot hold this rate here" in " ".join(late.summary())


@settings(deadline=None, max_examples=40)
@given(
    st.integers(-(10**15), 10**15),
    st.lists(st.tuples(st.integers(0, 10**7), st.integers(0, 10**7)), min_size=1, max_size=9),
)
def test_the_offset_of_a_clock_is_right_to_its_error(offset, ways):
    at, readings = 0, []
    for there, back in ways:
        readings.append(ClockReading(at, at + there + offset, at + there + back))
        at += there + back + 1000
    found = clock_offset(readings)
    assert abs(found.offset_ns - offset) <= found.error_ns + 1
    assert found.error_ns == -(-min(there + back for there, back in ways) // 2)


def test_no_offset_without_readings():
    with pytest.raises(ValueError, match="no exchange"):
        clock_offset([])
    with pytest.raises(ValueError, match="went back"):
        clock_offset([ClockReading(5, 5, 4)])


def test_errors_add_up_at_the_worst_host():
    here = HostInstruments(
        host="a",
        clock_step_ns=500_000,
        wake_late_p99_ms=2.0,
        clock_offset_ns=-3 * MS,
        clock_offset_error_ns=MS,
    )
    there = HostInstruments(
        host="b", clock_step_ns=50, wake_late_p99_ms=1.0, clock_offset_ns=2 * MS, clock_offset_error_ns=2 * MS
    )
    assert error_ms((here, there), across_hosts=False) == pytest.approx(3.0)
    assert error_ms((here, there), across_hosts=True) == pytest.approx(3.0 + 5.0 + 3.0)
    assert error_ms((), across_hosts=True) == 0.0
    assert decides(110.0, 100.0, 10.0)
    assert not decides(109.0, 100.0, 10.0)
    assert ClockOffset(offset_ns=0, error_ns=1, samples=1) != GeneratorError(
        clock_step_ns=1, late_p50_ms=0, late_p99_ms=0, late_max_ms=0, samples=1
    )
