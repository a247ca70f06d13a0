"""Who stops a simulation hears one line and a status: no traceback, of it or of its processes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from threenines.errors import INTERRUPTED

MOST_S = 60.0


def children(pid: int) -> set[int]:
    """The processes that `pid` has started and that are there."""
    found = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        with suppress(OSError):
            found |= {int(child) for child in (thread / "children").read_text(encoding="ascii").split()}
    return found


def until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + MOST_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.01)


@contextmanager
def simulation(folder: Path, processes: int) -> Iterator[subprocess.Popen[str]]:
    """In a group of its own, as a shell starts it; more weeks than any test waits for."""
    options = f"--seeds 100000 --processes {processes} --weeks 0.0005 --journal {folder / 'journal.jsonl'}"
    process = subprocess.Popen(
        [sys.executable, "-m", "threenines", "sim", *options.split()],
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        process_group=0,
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate(timeout=MOST_S)


def stopped(
    process: subprocess.Popen[str], number: signal.Signals, whole_group: bool
) -> tuple[int, list[str]]:
    if whole_group:
        os.killpg(process.pid, number)  # what a terminal does
    else:
        process.send_signal(number)
    _, told = process.communicate(timeout=MOST_S)
    lines = [line for line in told.split("\n") if line and " simulated s/s " not in line]  # its progress
    return process.returncode, lines


@pytest.mark.parametrize("whole_group", [True, False])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_it_is_stopped_with_one_line_at_work(
    tmp_path: Path, number: signal.Signals, whole_group: bool
) -> None:
    with simulation(tmp_path, 2) as process:
        journal = tmp_path / "journal.jsonl"
        until(lambda: journal.exists() and journal.read_bytes().count(b"\n") > 2)
        started = children(process.pid)
        assert len(started) >= 2
        status, told = stopped(process, number, whole_group)
        assert (status, told) == (INTERRUPTED, ["threenines: interrupted"])
        until(lambda: not any(Path(f"/proc/{child}").exists() for child in started))


def heeds(pid: int, number: signal.Signals) -> bool:
    """Whether this signal would be delivered to it: neither blocked nor ignored."""
    bit = 1 << (number - 1)
    status = dict(
        line.split(":\t", 1)
        for line in Path(f"/proc/{pid}/status").read_text(encoding="utf-8").splitlines()
        if ":\t" in line
    )
    return not (int(status["SigBlk"], 16) | int(status["SigIgn"], 16)) & bit


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_its_processes_never_hear_what_is_meant_for_it(tmp_path: Path, number: signal.Signals) -> None:
    with simulation(tmp_path, 2) as process:
        until(lambda: len(children(process.pid)) >= 3)  # the first is Python's own, which minds semaphores
        started = children(process.pid)
        assert {pid: heeds(pid, number) for pid in started} == dict.fromkeys(started, False)


@pytest.mark.parametrize("processes", [1, 2])
def test_it_is_stopped_with_one_line_while_its_processes_start(tmp_path: Path, processes: int) -> None:
    with simulation(tmp_path, processes) as process:
        until((tmp_path / "journal.jsonl").exists)  # the last thing before its processes
        if processes > 1:
            until(lambda: len(children(process.pid)) >= 2)
        status, told = stopped(process, signal.SIGINT, whole_group=True)
        assert (status, told) == (INTERRUPTED, ["threenines: interrupted"])
