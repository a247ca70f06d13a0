"""Locust as its users know it: with its page, as master and workers on two hosts; errors told in a line."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator

import pytest

from loadtests.outcome import Outcome
from tests.loadtests.fake_host import FakeHost, fake_host
from verification.history import History

WORKLOAD = """
name: small
per_s: 20
users: 10
timeout_s: 2
arrivals: poisson
tasks:
  - {operation: look-up, share: 1}
  - {operation: call, share: 2, bodies: {ask: {text: "{agent} {n}"}}}
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


@contextlib.contextmanager
def ended(*processes: subprocess.Popen[bytes]) -> Iterator[None]:
    """None of them outlives the block."""
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.wait()
            for stream in (process.stdout, process.stderr, process.stdin):
                if stream is not None:
                    stream.close()


@pytest.fixture
def hosts(tmp_path) -> Iterator[list[FakeHost]]:
    with (
        fake_host(tmp_path / "a", "mainpc", "127.83.12.41") as one,
        fake_host(tmp_path / "b", "pc2", "127.83.12.42") as other,
    ):
        for host in (one, other):
            (host.run / "small.yaml").write_text(WORKLOAD)
        yield [one, other]


def test_a_master_leads_workers_on_both_hosts_as_one_load(hosts, tmp_path):
    port = str(free_port())
    mainpc, pc2 = hosts
    master = mainpc.locust(
        *("--master", "--headless", "--expect-workers", "3", "-u", "12", "-r", "12"),
        *("--master-bind-host", "127.0.0.1", "--master-bind-port", port),
        *("--workload", str(mainpc.run / "small.yaml"), "--history", str(tmp_path / "merged.jsonl")),
    )
    workers = [
        host.locust(
            *("--worker", "--master-host", "127.0.0.1", "--master-port", port),
            *("--history", str(tmp_path / f"worker-{number}.jsonl"), "--raw", "all"),
        )
        for number, host in enumerate((mainpc, mainpc, pc2))
    ]
    with ended(master, *workers):
        told = mainpc.ended_after(master, tmp_path / "merged.jsonl", 6)
        for worker in workers:
            assert worker.wait(60) == 0
        merged, single = Outcome(), Outcome()
        merged.take((tmp_path / "merged.jsonl").read_bytes())
        for number in range(3):
            single.take((tmp_path / f"worker-{number}.jsonl").read_bytes())
    # On a machine without a core to spare the load is void, and its exit status says so.
    assert master.returncode == (0 if merged.shortfall() is None else 2), told
    assert set(merged.hosts) == {"mainpc", "pc2"}
    assert [(plan.place, plan.places) for plan in merged.hosts["mainpc"].plans] in (
        [(0, 2), (1, 2)],
        [(1, 2), (0, 2)],
    )
    assert [(plan.place, plan.places) for plan in merged.hosts["pc2"].plans] == [(0, 1)]
    # What the master has is what the workers wrote, to the last bucket.
    assert {f: kind.latency.encode() for f, kind in merged.merged().items()} == {
        f: kind.latency.encode() for f, kind in single.merged().items()
    }
    for name, host in merged.hosts.items():
        assert (host.planned, host.arrivals) == (single.hosts[name].planned, single.hosts[name].arrivals)
    # Both hosts have the workload's rate, whether one worker or two make it.
    assert merged.hosts["mainpc"].planned == pytest.approx(20 * merged.hosts["mainpc"].last_s, rel=0.5)
    assert f"load on pc2: {merged.hosts['pc2'].operations:,} operations" in told


def test_a_worker_that_dies_makes_the_load_void(hosts, tmp_path):
    port = str(free_port())
    master = hosts[0].locust(
        *("--master", "--headless", "--expect-workers", "2", "-t", "10s"),
        *("--master-bind-host", "127.0.0.1", "--master-bind-port", port),
        *("--workload", str(hosts[0].run / "small.yaml"), "--history", str(tmp_path / "merged.jsonl")),
    )
    workers = [host.locust("--worker", "--master-host", "127.0.0.1", "--master-port", port) for host in hosts]
    with ended(master, *workers):
        while hosts[1].asked < 30:
            with pytest.raises(subprocess.TimeoutExpired):
                master.wait(0.05)
        workers[1].kill()
        told = master.communicate(timeout=100)[1].decode()
    assert master.returncode == 2, told
    assert "VOID: " in told


def test_a_load_is_started_and_stopped_on_the_page_and_again(hosts, tmp_path):
    port = free_port()
    history = tmp_path / "load.jsonl"
    process = hosts[0].locust(
        *("--web-host", "127.0.0.1", "--web-port", str(port), "--history", str(history)),
        *("--workload", str(hosts[0].run / "small.yaml")),
    )
    url = f"http://127.0.0.1:{port}"
    with ended(process):
        page = _ask(process, url)
        assert "workload" in page
        for turn in (1, 2):
            form = {
                "user_count": 5,
                "spawn_rate": 5,
                "workload": str(hosts[0].run / "small.yaml"),
                "seed": turn,
            }
            asked = hosts[0].asked
            _ask(process, f"{url}/swarm", form)
            while hosts[0].asked < asked + 30:
                assert process.poll() is None
                time.sleep(0.02)
            _ask(process, f"{url}/stop", {})
            while len(list(_loads(history))) < turn:
                assert process.poll() is None
                time.sleep(0.02)
        assert '"name":"core"' in _ask(process, f"{url}/stats/requests").replace(" ", "")
        process.terminate()
        process.communicate(timeout=60)
    history_read = History.read(_as_run(tmp_path, history))
    assert [op.kind.value for op in history_read.of("load-plan")] == ["ok", "ok"]


def _loads(history):
    data = history.read_bytes() if history.exists() else b""
    return (line for line in data.splitlines() if b'"type":"ok","f":"load-plan"' in line)


def _as_run(folder, history):
    (folder / "run" / "history").mkdir(parents=True)
    history.rename(folder / "run" / "history" / "load.jsonl")
    return folder / "run"


def _ask(process: subprocess.Popen[bytes], url: str, form: dict[str, object] | None = None) -> str:
    data = urllib.parse.urlencode(form).encode() if form is not None else None
    for _ in range(600):
        try:
            with urllib.request.urlopen(url, data, timeout=10) as answer:
                return str(answer.read().decode())
        except urllib.error.URLError:
            assert process.poll() is None, process.stderr.read().decode()
            time.sleep(0.05)
    raise AssertionError(f"{url} does not answer")


@pytest.mark.parametrize(
    ("arguments", "text", "status", "line"),
    [
        (
            ("--workload", "nope"),
            "",
            64,
            "cannot be read (No such file or directory); name a file, or one of",
        ),
        (
            ("--workload", "w.yaml"),
            WORKLOAD.replace("look-up,", "look-up, agents: [nobody],"),
            64,
            "task 1: the fleet has no agent nobody",
        ),
        (("--history", "/nowhere/at/all"), "", 64, "--history /nowhere/at/all: No such file or directory"),
    ],
)
def test_what_cannot_be_run_is_told_in_one_line(hosts, arguments, text, status, line):
    (hosts[0].run / "w.yaml").write_text(text)
    process = hosts[0].locust("--headless", "-t", "30s", *arguments)
    with ended(process):
        out, errors = process.communicate(timeout=60)
    told = [one for one in errors.decode().splitlines() if one.startswith("threenines: ")]
    assert process.returncode == status, errors.decode()
    assert len(told) == 1
    assert line in told[0]
    assert b"Traceback" not in out + errors


def test_a_host_whose_daemon_is_away_is_told(hosts):
    host = hosts[0]
    host.local = "127.83.12.49"
    process = host.locust("--headless", "-t", "30s")
    with ended(process):
        out, errors = process.communicate(timeout=60)
    assert process.returncode == 3, errors.decode()
    assert "the agents of this host cannot be asked for" in errors.decode()
    assert b"Traceback" not in out + errors
