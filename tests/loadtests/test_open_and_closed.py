"""A server that stalls for a second: what an open loop says of it, and what a closed one keeps to itself."""

from __future__ import annotations

import subprocess

import pytest

from loadtests.histogram import Histogram
from loadtests.outcome import Outcome
from tests.loadtests.fake_host import FakeHost, fake_host

TASKS = "tasks: [{operation: call, share: 1, bodies: {ask: {text: '{n}'}}}]"
OPEN = f"name: open\nper_s: 50\nusers: 10\ntimeout_s: 5\n{TASKS}"
CLOSED = f"name: closed\nper_s: 50\nusers: 2\ntimeout_s: 5\nloop: closed\nthink_s: 0.03\n{TASKS}"
STALL_S = 1.0


def begin(host: FakeHost, name: str, workload: str, *more: str) -> subprocess.Popen[bytes]:
    (host.run / f"{name}.yaml").write_text(workload)
    return host.locust(
        *("--headless", "--workload", str(host.run / f"{name}.yaml")),
        *("--history", str(host.run / f"{name}.jsonl"), "--raw", "none", *more),
    )


def outcome(host: FakeHost, name: str) -> Outcome:
    found = Outcome()
    found.take((host.run / f"{name}.jsonl").read_bytes())
    return found


def slower_than_half_a_second(latency: Histogram) -> int:
    quantiles = latency.quantiles_ms([(number + 1) / latency.count for number in range(latency.count)])
    return sum(value > 500 for value in quantiles)


@pytest.mark.parametrize("via", ["sdk", "http"])
def test_a_stall_shows_in_an_open_loop_and_hides_in_a_closed_one(tmp_path, via):
    local = {"sdk": "127.83.12.31", "http": "127.83.12.32"}[via]
    workloads = {name: text.replace("share: 1", f"share: 1, via: {via}") for name, text in BOTH.items()}
    with fake_host(tmp_path, local=local) as host:
        running = {name: begin(host, name, text) for name, text in workloads.items()}
        for name, process in running.items():  # both are at work
            while not (host.run / f"{name}.jsonl").exists() or host.asked < 60:
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.02)
        host.stall(STALL_S)
        told = {
            name: host.ended_after(process, host.run / f"{name}.jsonl", 4)
            for name, process in running.items()
        }
    f = {"sdk": "load-call", "http": "load-http-call"}[via]
    kinds = {name: outcome(host, name).hosts["mainpc"].kinds[f] for name in running}
    assert "VOID: the load on mainpc was a closed loop, which hides stalls" in told["closed"]
    assert running["closed"].returncode == 2
    slow = {name: slower_than_half_a_second(kind.latency) for name, kind in kinds.items()}
    # Some 25 arrivals were due in the first half of the second: their waiting shows, from when each was due.
    assert kinds["open"].latency.quantile_ms(0.99) > 500
    assert slow["open"] > 10
    # The callers that do not come while they wait saw it once each.
    assert slow["closed"] > 0
    assert slow["open"] > 3 * slow["closed"]


BOTH = {"open": OPEN, "closed": CLOSED}


def test_a_load_below_its_planned_arrivals_is_void(tmp_path):
    with fake_host(tmp_path, local="127.83.12.33") as host:
        host.gate.clear()  # nobody answers: two users wait until the end
        process = begin(host, "open", OPEN.replace("users: 10", "users: 2"), "-s", "1")
        told = host.ended_after(process, host.run / "open.jsonl", 2)
    assert process.returncode == 2, told
    assert "VOID: the load on mainpc reached 0" in told
    assert "(95% are needed)" in told
    assert outcome(host, "open").shortfall() is not None
