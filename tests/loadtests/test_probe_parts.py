"""What a probe records about a client, a process and a daemon that behave as they are told."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys

import msgspec
import pytest
from aiohttp import web

from loadtests import probe_daemon
from loadtests.probe_calls import Calls
from loadtests.probe_daemon import Daemon, DaemonError
from loadtests.probe_lookups import LookUpWork
from loadtests.probe_proof import NoProcess, Proofs
from loadtests.probe_registers import RegisterWork, next_beat
from loadtests.probe_watch import Watches
from loadtests.protocol import (
    Answer,
    Arm,
    Await,
    Calibrate,
    Call,
    Census,
    Deregister,
    Event,
    Events,
    Hello,
    LookUps,
    Proof,
    Register,
    Registers,
    Serving,
    Trouble,
    View,
    Watch,
)
from loadtests.record import Kind, Record
from services.agent import pidfile
from services.agent.errors import CallError
from tests.loadtests.kit import FakeClient, Pipe, instance
from verification.history import History


def values(records, f, kind, of):
    return [msgspec.json.decode(r.value, type=of) for r in records if r.f == f and r.type is kind]


async def test_look_ups_are_recorded_with_their_outcome():
    pipe, client = Pipe(), FakeClient()
    client.answers = {"planner": (instance("planner"),), "idle": ()}
    work = LookUpWork(pipe.output, client)
    work.census(Census(names=("planner", "idle", "nobody")))
    await work.warm(LookUps(names=("planner",) * 3, per_s=1e6))
    history = History.of_records(pipe.records())
    assert [(op.f, op.key, op.kind) for op in history.operations] == [
        ("census", "planner", Kind.OK),
        ("census", "idle", Kind.OK),
        ("census", "nobody", Kind.FAIL),
        *[("lookup", "planner", Kind.OK)] * 3,
    ]
    usable = [op.completed().value(Answer).usable for op in history.operations if op.kind is Kind.OK]
    assert usable == [1, 0, 1, 1, 1]
    assert history.operations[2].completed().value(Trouble).code == "not-found"


async def test_what_is_about_to_be_written_is_on_record_before_it_can_have_an_effect():
    pipe, client = Pipe(), FakeClient()
    on_record = []

    def stored():
        flushed = os.read(pipe.read, 1 << 20)
        on_record.append([msgspec.json.decode(line, type=Record) for line in flushed.splitlines()][-1])
        return {"value": "0", "host": "mainpc", "epoch": 1, "incarnation": 1}

    client.on_call = stored
    work = RegisterWork(pipe.output, client)
    await work.work(Registers(agents=("planner",), hosts=("mainpc",), round="r", interval_ms=1.0))
    async with asyncio.timeout(20):
        while len(on_record) < 4:  # noqa: ASYNC110  the calls themselves are what is waited for
            await asyncio.sleep(0.001)
    await work.close()
    assert {(one.f, one.type) for one in on_record} == {("write", Kind.INVOKE), ("read", Kind.INVOKE)}


async def test_registers_whose_writer_has_ended_are_only_read():
    pipe, client = Pipe(), FakeClient()
    client.on_call = lambda: {"value": "0", "host": "mainpc", "epoch": 1, "incarnation": 1}
    work = RegisterWork(pipe.output, client)
    told = Registers(agents=("planner",), hosts=("mainpc",), round="r", interval_ms=1.0, writes=False)
    await work.work(told)
    await pipe.until(lambda records: len(records) >= 4)
    await work.close()
    assert {one.f for one in pipe.records()} == {"read"}


async def test_the_clock_and_the_waking_are_measured():
    found = await LookUpWork(Pipe().output, FakeClient()).calibrate(Calibrate(seconds=0.05))
    assert found.clock_step_ns > 0
    assert found.samples > 0
    assert found.wake_late_p50_ms <= found.wake_late_p99_ms <= found.wake_late_max_ms


async def test_a_watch_records_changes_and_counts_every_read():
    pipe, client = Pipe(), FakeClient()
    client.answers["planner"] = (instance("planner"),)
    watches = Watches(pipe.output, client)
    watches.watch(Watch(agent="planner", interval_ms=0.1))
    await pipe.until(lambda r: len(r) == 2)
    client.answers["planner"] = ()
    await pipe.until(lambda r: len(r) == 4)
    client.answers["planner"] = CallError("unavailable", "no snapshot")
    await pipe.until(lambda r: len(r) == 6)
    client.answers["planner"] = (instance("planner", incarnation=2),)
    await pipe.until(lambda r: len(r) == 8)
    watches.release("planner")
    records = pipe.records()
    views = values(records, "watch", Kind.OK, View)
    assert [view.serving for view in views] == [
        (Serving("mainpc", 1),),
        (),
        (),
        (Serving("mainpc", 2),),
        (Serving("mainpc", 2),),
    ]
    assert views[2].failures == 1
    assert all(view.reads >= 1 for view in views)
    assert len(History.of_records(records).operations) == 5
    await watches.close()


async def test_a_name_is_awaited_until_it_is_usable_or_time_is_up():
    pipe, client = Pipe(), FakeClient()
    watches = Watches(pipe.output, client)
    watches.await_name(Await(name="new", timeout_s=20, interval_ms=0.1))
    await asyncio.sleep(0.005)
    client.answers["new"] = ()
    await asyncio.sleep(0.005)
    assert not [r for r in pipe.records() if r.type is not Kind.INVOKE]
    client.answers["new"] = (instance("new"),)
    await pipe.until(lambda r: r[-1].type is Kind.OK)
    watches.await_name(Await(name="never", timeout_s=0.01, interval_ms=0.1))
    records = await pipe.until(lambda r: r[-1].type is Kind.FAIL)
    assert records[-1].key == "never"
    await watches.close()


BODIES = {"ask": msgspec.Raw(b'{"text":"x"}'), "_ping": msgspec.Raw(b"{}")}


async def test_calls_are_open_loop_and_every_outcome_is_told():
    pipe, client = Pipe(), FakeClient()
    client.answers["planner"] = (instance("planner"),)
    outcomes = iter([None, CallError("unavailable", "gone"), CallError("deadline", "late"), None])

    def on_call():
        outcome = next(outcomes, None)
        if outcome is not None:
            raise outcome

    client.on_call = on_call
    calls = Calls(pipe.output, client)
    calls.call(Call(agent="planner", bodies=BODIES, interval_ms=1.0))
    await pipe.until(lambda r: sum(one.type is not Kind.INVOKE for one in r) >= 6)
    await calls.release("planner")
    history = History.of_records(pipe.records())
    assert [op.kind for op in history.operations][:4] == [Kind.OK, Kind.FAIL, Kind.INFO, Kind.OK]
    # Whoever does not know how its call ended is retired.
    assert history.operations[2].invoke.process != history.operations[3].invoke.process
    assert client.calls[0] == ("planner", "ask", {"text": "x"})
    assert all(op.completion is not None for op in history.operations)


async def test_a_call_that_hangs_does_not_hold_up_the_next():
    pipe, client = Pipe(), FakeClient()
    client.answers["planner"] = (instance("planner", methods=()),)
    release = asyncio.Event()
    client.on_call = release.wait
    calls = Calls(pipe.output, client)
    calls.call(Call(agent="planner", bodies=BODIES, interval_ms=1.0))
    records = await pipe.until(lambda r: len(r) >= 5)
    assert {one.type for one in records} == {Kind.INVOKE}
    assert len({one.process for one in records}) == len(records)
    assert client.calls[0][1] == "_ping"
    release.set()
    await calls.release("planner")
    assert all(op.kind is Kind.OK for op in History.of_records(pipe.records()).operations)
    await calls.close()


@pytest.fixture
def sleeper(tmp_path, monkeypatch):
    monkeypatch.setenv("THREENINES_RUN", str(tmp_path))
    (tmp_path / "agents").mkdir()
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    pidfile.write(tmp_path / "agents" / "planner.pid", process.pid, 7)
    yield process
    process.kill()
    process.wait()


async def test_death_and_freezing_are_proved_by_the_kernel(sleeper):
    pipe = Pipe()
    proofs = Proofs(pipe.output)
    armed = proofs.arm(Arm(agent="planner", trial="hang-001"))
    assert (armed.pid, armed.incarnation) == (sleeper.pid, 7)
    os.kill(sleeper.pid, signal.SIGSTOP)
    records = await pipe.until(lambda r: any(one.type is Kind.OK for one in r))
    assert values(records, "frozen", Kind.OK, Proof) == [
        Proof(trial="hang-001", pid=sleeper.pid, incarnation=7, fact="frozen")
    ]
    os.kill(sleeper.pid, signal.SIGKILL)
    records = await pipe.until(lambda r: any(one.f == "exited" and one.type is Kind.OK for one in r))
    proofs.release("planner")
    assert len(pipe.records()) == len(records) == 4


async def test_what_did_not_come_to_pass_is_told_as_failed(sleeper):
    pipe = Pipe()
    proofs = Proofs(pipe.output)
    proofs.arm(Arm(agent="planner", trial="crash-001"))
    proofs.close()
    records = pipe.records()
    assert [(r.f, r.type) for r in records][2:] == [("frozen", Kind.FAIL), ("exited", Kind.FAIL)]
    assert {p.fact for p in values(records, "exited", Kind.FAIL, Proof)} == {"none"}


async def test_only_the_process_that_is_meant_can_be_held(sleeper, tmp_path):
    proofs = Proofs(Pipe().output)
    with pytest.raises(NoProcess, match="no process id"):
        proofs.arm(Arm(agent="stranger", trial="t"))
    path = tmp_path / "agents" / "planner.pid"
    pid, ticks, incarnation = path.read_text().split()
    path.write_text(f"{pid} {int(ticks) + 1} {incarnation}\n")
    with pytest.raises(NoProcess, match="another one by now"):
        proofs.arm(Arm(agent="planner", trial="t"))


class FakeDaemon:
    """hostd's local API in a word."""

    def __init__(self) -> None:
        self.events = [Event(seq=1, time_ns=1, event="old")]
        self.registered: dict[str, dict[str, object]] = {}
        self.refuse = False

    async def serve(self, monkeypatch) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/v1/events", self._events)
        app.router.add_post("/v1/registrations", self._register)
        app.router.add_delete("/v1/registrations/{name}", self._deregister)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        monkeypatch.setattr(probe_daemon, "Port", type("P", (), {"HOSTD_LOCAL": runner.addresses[0][1]}))
        monkeypatch.setenv("THREENINES_LOCAL", "127.0.0.1")
        return runner

    async def _events(self, request: web.Request) -> web.Response:
        since = int(request.query["since"])
        lines = [msgspec.json.encode(e) for e in self.events if e.seq > since]
        return web.Response(body=b"\n".join(lines))

    async def _register(self, request: web.Request) -> web.Response:
        if self.refuse:
            return web.json_response({"error": {"code": "bad-request", "message": "no"}}, status=422)
        body = await request.json()
        self.registered[body["name"]] = body
        return web.json_response({})

    async def _deregister(self, request: web.Request) -> web.Response:
        del self.registered[request.match_info["name"]]
        return web.json_response({})


async def test_events_are_followed_from_now_on_and_registrations_are_made(monkeypatch):
    pipe, fake = Pipe(), FakeDaemon()
    runner = await fake.serve(monkeypatch)
    daemon = Daemon(pipe.output)
    try:
        await daemon.follow(Events(interval_ms=1.0))
        fake.events.append(Event(seq=2, time_ns=2, event="validated", agent="planner", incarnation=3))
        records = await pipe.until(lambda r: len(r) >= 2)
        assert values(records, "event", Kind.OK, list[Event]) == [[fake.events[1]]]

        await daemon.register(Register(name="temporary"))
        assert fake.registered["temporary"]["health"] == {"kind": "tcp"}
        port = fake.registered["temporary"]["port"]
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.close()
        await daemon.deregister(Deregister(name="temporary"))
        assert fake.registered == {}
        fake.refuse = True
        with pytest.raises(DaemonError, match="422"):
            await daemon.register(Register(name="refused"))
        assert pipe.records()[-1].type is Kind.FAIL
    finally:
        await daemon.close()
        await runner.cleanup()
    failed = Daemon(pipe.output)
    with pytest.raises(DaemonError):
        await failed.register(Register(name="nobody-listens"))
    assert pipe.records()[-1].type is Kind.INFO
    await failed.close()


def test_a_probe_is_a_session_of_its_own_as_agents_are(tmp_path):
    here = {**os.environ, "THREENINES_HOST": "a", "THREENINES_RUN": str(tmp_path)}
    argv = [sys.executable, "-m", "loadtests.probe"]
    with subprocess.Popen(argv, env=here, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        hello = msgspec.json.decode(process.stdout.readline(), type=Hello)
        assert os.getsid(hello.pid) == hello.pid
        process.stdin.close()  # and it leaves with its input, wherever its session is
        assert process.wait(20) == 0


@pytest.mark.parametrize(
    ("now_s", "owed", "catch_up", "expected"),
    [
        (10.01, 0, 0, (10.25, 0)),
        (10.6, 0, 0, (10.75, 0)),  # the instants that it has outlasted are left out
        (10.01, 0, 2, (10.25, 0)),
        (10.6, 0, 2, (10.6, 2)),  # held up: two without waiting
        (10.01, 2, 2, (10.01, 1)),
        (10.01, 1, 2, (10.25, 0)),
        (10.6, 1, 2, (10.6, 2)),  # held up again
    ],
)
def test_after_an_operation_that_was_held_up_the_next_ones_wait_only_where_they_may(
    now_s, owed, catch_up, expected
):
    assert next_beat(10.0, now_s, 0.25, owed=owed, catch_up=catch_up) == expected
