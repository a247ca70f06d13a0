"""`open_loop`: what the load generator holds, what it says of a stalled server, what it adds to a call.

1. The rate that one core holds: Poisson arrivals of real calls, the generator alone on its core, all
   operations recorded. Its scheduling delay is how late it begins what is due while it has a free user.
2. One server that stops for a second, asked at once by ours, by wrk2's method and by a closed loop.
3. A call through the whole harness against the bare client, in turns in one process.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from benchmarks.fleet import ROOT, Fleet
from benchmarks.harness import Figure, figure, main, quantile
from benchmarks.open_loop_agent import LOCAL, NAME, TASKS, bench_host
from loadtests.outcome import HostOutcome, Outcome

RATE, RATE_S = 2000, 10
STALL_RATE, STALL_RUN_S, STALL_AFTER_S, STALL_S, CONNECTIONS = 200, 8, 2.0, 1.0, 20
ROUNDS, ROUND_S, ROUND_RATE = 12, 2.0, 100
LIMIT_S = 120


def measure() -> Sequence[Figure]:
    """The figures."""
    return asyncio.run(_measure())


async def _measure() -> Sequence[Figure]:
    async with bench_host() as host:
        held = await asyncio.to_thread(_rate, host)
        stalled = await asyncio.to_thread(_stall, host)
        added = await asyncio.to_thread(_overhead, host)
    return (*held, *stalled, *added)


def _rate(host: Fleet) -> Sequence[Figure]:
    """On two cores or more, the generator has one and the agent another."""
    cores = sorted(os.sched_getaffinity(0))
    os.sched_setaffinity(host.pids[NAME], {cores[0]})
    text = f"name: rate\nper_s: {RATE}\nusers: 50\ntimeout_s: 5\narrivals: poisson\n{TASKS}"
    with _locust(host, "rate", text, RATE_S, core=cores[-1]) as (process, history):
        _, told = process.communicate(timeout=LIMIT_S)
    os.sched_setaffinity(host.pids[NAME], cores)
    found = _outcome(history, told)
    late = found.late.quantiles_ms((0.5, 0.99))
    name = f"{RATE}/s on one core"
    return (
        figure("open_loop", f"{name}: arrivals that came to an end", "%", 100 * found.share),
        figure("open_loop", f"{name}: scheduling delay p50", "ms", late[0]),
        figure("open_loop", f"{name}: scheduling delay p99", "ms", late[1]),
    )


def _stall(host: Fleet) -> Sequence[Figure]:
    ours = f"name: ours\nper_s: {STALL_RATE}\nusers: {CONNECTIONS}\ntimeout_s: 10\n{TASKS}"
    closed = (
        f"name: closed\nper_s: {STALL_RATE}\nusers: 10\ntimeout_s: 10\nloop: closed\nthink_s: 0.05\n{TASKS}"
    )
    socket = str(host.run / "agents" / f"{NAME}.sock")
    wrk2 = [sys.executable, "-m", "benchmarks.open_loop_wrk2", socket]
    wrk2 += [str(CONNECTIONS), str(STALL_RATE), str(STALL_RUN_S)]
    with (
        _locust(host, "ours", ours, STALL_RUN_S) as (open_process, open_history),
        _locust(host, "closed", closed, STALL_RUN_S) as (closed_process, closed_history),
    ):
        _await_begin(open_history, closed_history)
        reference = subprocess.Popen(wrk2, cwd=ROOT, stdout=subprocess.PIPE)
        assert reference.stdout is not None
        reference.stdout.readline()
        time.sleep(STALL_AFTER_S)  # all three are at work
        os.kill(host.pids[NAME], signal.SIGSTOP)
        try:
            time.sleep(STALL_S)
        finally:
            os.kill(host.pids[NAME], signal.SIGCONT)
        told = reference.communicate(timeout=LIMIT_S)[0].decode().split()
        mine = _outcome(open_history, open_process.communicate(timeout=LIMIT_S)[1])
        hiding = _outcome(closed_history, closed_process.communicate(timeout=LIMIT_S)[1])
    theirs = [int(ns) / 1e6 for ns in told]
    kind, hidden = mine.kinds["load-call"].latency, hiding.kinds["load-call"].latency
    figures = []
    for share in (0.5, 0.9, 0.99):
        figures.append(
            figure(
                "open_loop",
                f"server stalled for {STALL_S:g} s: p{share * 100:g}",
                "ms",
                kind.quantile_ms(share) or 0.0,
                quantile(theirs, share),
                "wrk2's method",
            )
        )
    figures.append(
        figure(
            "open_loop",
            f"server stalled for {STALL_S:g} s: p99, the same against a closed loop",
            "ms",
            kind.quantile_ms(0.99) or 0.0,
            hidden.quantile_ms(0.99),
            "closed loop",
        )
    )
    return figures


def _overhead(host: Fleet) -> Sequence[Figure]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "benchmarks.open_loop_overhead"),
            *(str(ROUNDS), str(ROUND_S), str(ROUND_RATE), str(host.run)),
        ],
        env=_environment(host),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        check=True,
        timeout=LIMIT_S * 2,
    )
    found = msgspec.json.decode(done.stdout.splitlines()[-1], type=dict[str, list[int]])
    figures = []
    for measure_name, share in (("p50", 0.5), ("p99", 0.99)):
        for what, key in (("a call", "call"), ("a call, from when it was due", "due")):
            harness, bare = (quantile(found[f"{side}_{key}"], share) / 1e3 for side in ("harness", "bare"))
            figures.append(
                figure(
                    "open_loop",
                    f"{what} through the harness, {measure_name}",
                    "µs",
                    harness,
                    bare,
                    "bare client",
                )
            )
    call, bare_call = (quantile(found[f"{side}_call"], 0.5) for side in ("harness", "bare"))
    figures.append(figure("open_loop", "harness overhead on a call, p50", "%", 100 * (call / bare_call - 1)))
    return figures


@contextlib.contextmanager
def _locust(
    host: Fleet, name: str, workload: str, seconds: float, core: int | None = None
) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A headless Locust of that workload and its history; it does not outlive the block."""
    (host.run / f"{name}.yaml").write_text(workload)
    history = host.run / f"{name}.jsonl"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "locust", "-f", str(ROOT / "loadtests" / "locustfile.py")),
            *("--headless", "--only-summary", "-t", f"{seconds + 3:.0f}s"),
            *("--workload", str(host.run / f"{name}.yaml"), "--history", str(history)),
        ],
        env=_environment(host),
        cwd=host.run,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        yield process, history
    finally:
        process.kill()
        process.communicate()


def _environment(host: Fleet) -> dict[str, str]:
    return {**host.environment(), "THREENINES_LOCAL": LOCAL, "PYTHONPATH": str(ROOT)}


def _await_begin(*histories: Path) -> None:
    due = time.monotonic() + LIMIT_S
    while not all(path.exists() and path.stat().st_size for path in histories):
        if time.monotonic() > due:
            raise TimeoutError("the load did not begin")
        time.sleep(0.02)


def _outcome(history: Path, told: bytes) -> HostOutcome:
    found = Outcome()
    found.take(history.read_bytes())
    if not found.hosts:
        raise RuntimeError(f"no load ran: {told.decode(errors='replace').strip().splitlines()[-1:]}")
    return next(iter(found.hosts.values()))


if __name__ == "__main__":
    sys.exit(main("open_loop", measure))
