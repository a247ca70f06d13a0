"""The kernel's figures of real processes: one that starves, one that is stopped, one that is gone."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from services.control.starvation import Sample, StarvationPolicy, starved
from services.hostd.scheduling import look_at

SPIN = ("/bin/sh", "-c", "while :; do :; done")
POLICY = StarvationPolicy()


@contextlib.contextmanager
def spinning(*, idle: bool, cpu: int) -> Iterator[subprocess.Popen[bytes]]:
    """A process that never rests, on one CPU; `idle`: it gets only what others leave."""
    process = subprocess.Popen(SPIN)
    try:
        os.sched_setaffinity(process.pid, {cpu})
        if idle:
            os.sched_setscheduler(process.pid, os.SCHED_IDLE, os.sched_param(0))
        yield process
    finally:
        process.kill()
        process.wait()


def seen(pid: int) -> Sample:
    sample = look_at(pid)
    assert sample is not None
    return sample


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="this kernel keeps no such figures")
def test_a_process_without_cpu_is_told_from_one_that_is_stopped() -> None:
    cpu = min(os.sched_getaffinity(0))
    with spinning(idle=False, cpu=cpu), spinning(idle=True, cpu=cpu) as poor:
        before = seen(poor.pid)
        time.sleep(0.3)  # what is measured is what happens in a while
        assert starved(before, seen(poor.pid), POLICY)
        poor.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, poor.pid, os.WSTOPPED | os.WNOWAIT)
        before = seen(poor.pid)
        time.sleep(0.1)
        assert not starved(before, seen(poor.pid), POLICY)


def test_a_process_that_is_gone_cannot_be_looked_at(tmp_path: Path) -> None:
    assert look_at(1, tmp_path) is None


@pytest.mark.parametrize(
    ("threads", "wanted"),
    [
        ({"7": ("S", "100 5 1")}, (False, 100, 5)),
        ({"7": ("S", "100 5 1"), "8": ("R", "20 300 1")}, (True, 120, 305)),
        ({"7": ("T", "100 5 1"), "8": ("S", "broken")}, (False, 100, 5)),
        ({"7": ("S", "0")}, None),
    ],
)
def test_the_threads_of_a_process_are_taken_together(
    tmp_path: Path, threads: dict[str, tuple[str, str]], wanted: tuple[bool, int, int] | None
) -> None:
    for thread, (state, figures) in threads.items():
        folder = tmp_path / "7" / "task" / thread
        folder.mkdir(parents=True)
        (folder / "stat").write_text(f"{thread} (a) b) {state} 1 1 1")
        (folder / "schedstat").write_text(figures)
    sample = look_at(7, tmp_path)
    assert (None if sample is None else (sample.runnable, sample.ran_ns, sample.waited_ns)) == wanted
