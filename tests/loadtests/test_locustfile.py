"""Locust itself, on a host that has a snapshot and agents that do not answer."""

from __future__ import annotations

import http.server
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest

from loadtests.histogram import Histogram
from loadtests.outcome import Outcome
from loadtests.protocol import LoadCall, LoadPlan
from services.registry.model import Entry
from services.registry.snapshot import SnapshotWriter
from tests.loadtests.kit import instance
from verification.history import History, Kind, value_of
from verification.links import locustfile

LOCAL = "127.83.12.9"
ROOT = Path(__file__).parents[2]
WORKLOAD = """
name: small
per_s: 40
users: 8
timeout_s: 0.5
tasks:
  - {operation: look-up, share: 50}
  - operation: call
    share: 50
    bodies: {ask: {text: "{agent} {n}", depth: 0}}
"""


class Listing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        agents = [{"name": f"agent-{i}", "category": "core", "methods": ["ask"]} for i in range(3)]
        body = msgspec.json.encode({"agents": agents, "revision": 1, "stale": False})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def host(tmp_path):
    server = http.server.ThreadingHTTPServer((LOCAL, 7700), Listing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    writer = SnapshotWriter(tmp_path / "discovery.snap")
    entries = {f"agent-{i}": Entry(name=f"agent-{i}", instances=(instance(f"agent-{i}"),)) for i in range(3)}
    writer.publish(entries, revision=1, fresh_for_ms=60_000)
    (tmp_path / "agents").mkdir()
    yield {"THREENINES_RUN": str(tmp_path), "THREENINES_HOST": "mainpc", "THREENINES_LOCAL": LOCAL}
    writer.close()
    server.shutdown()
    server.server_close()


def test_load_keeps_its_beat_and_writes_every_operation(tmp_path, host):
    (tmp_path / "small.yaml").write_text(WORKLOAD)
    (tmp_path / "history").mkdir()
    path = tmp_path / "history" / "load.jsonl"
    with open(path, "wb") as out:
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "locust", "-f", locustfile(), "--headless", "--only-summary"),
                *("-u", "8", "-r", "8", "--history", "-"),
                *("--workload", str(tmp_path / "small.yaml"), "--seed", "5"),
            ],
            env={**os.environ, **host, "PYTHONPATH": str(ROOT)},
            cwd=tmp_path,
            stdout=out,
            stderr=subprocess.PIPE,
        )
    while path.read_bytes().count(b'"ok","f":"load-second"') < 2:
        assert process.poll() is None, process.communicate()[1].decode()
        time.sleep(0.05)
    process.terminate()
    told = process.communicate(timeout=100)[1].decode()
    assert process.returncode == 1, told  # Locust's own way to say that there were failures
    assert "lookup" in told
    history = History.read(tmp_path)
    assert history.notes == ()
    (plan,) = history.of("load-plan")
    told_plan = value_of(plan.invoke, LoadPlan)
    assert (told_plan.per_s, told_plan.users, told_plan.seed) == (40.0, 8, 5)
    assert plan.kind is Kind.OK
    look_ups, calls = list(history.of("load-lookup")), list(history.of("load-call"))
    assert {op.kind for op in look_ups} == {Kind.OK}
    assert {op.kind for op in calls} == {Kind.FAIL}  # nobody listens: certainly not delivered
    assert {op.key for op in calls} <= {"agent-0", "agent-1", "agent-2"}
    # The beat is that of the schedule, however late the operations began.
    begun = sorted((*look_ups, *calls), key=lambda op: value_of(op.invoke, LoadCall).intended_ns)
    intended = [value_of(op.invoke, LoadCall).intended_ns for op in begun]
    assert intended == [told_plan.begin_ns + n * 25_000_000 for n in range(len(begun))]
    assert all(due <= op.invoke.time_ns for due, op in zip(intended, begun, strict=True))
    # The seconds say the same as the single records.
    outcome = Outcome()
    outcome.take((tmp_path / "history" / "load.jsonl").read_bytes())
    found = outcome.hosts["mainpc"]
    assert found.planned >= found.arrivals == len(begun) > 40
    assert (found.kinds["load-lookup"].ok, found.kinds["load-call"].fail) == (len(look_ups), len(calls))
    worst_ms = max((op.completed().end.time_ns - due) / 1e6 for due, op in zip(intended, begun, strict=True))
    merged = Histogram()
    for kind in found.kinds.values():
        merged.add(kind.latency)
    assert merged.largest_ms() == pytest.approx(worst_ms, rel=0.002)
    assert found.shortfall() is None


@pytest.mark.parametrize("end", [lambda process: process.stdin.close(), subprocess.Popen.terminate])
def test_load_ends_with_whoever_holds_its_input_or_when_told(tmp_path, host, end):
    (tmp_path / "small.yaml").write_text(WORKLOAD)
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "locust", "-f", locustfile(), "--headless", "--only-summary"),
            *("-u", "8", "-r", "8", "-t", "1h", "--history", "-", "--end-with-input"),
            *("--workload", str(tmp_path / "small.yaml")),
        ],
        env={**os.environ, **host, "PYTHONPATH": str(ROOT)},
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    try:
        assert b"load-plan" in process.stdout.readline()
        end(process)
        rest = process.stdout.read()
        process.wait(100)
        assert b'"type":"ok","f":"load-plan"' in rest
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()
