from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from infra.substrates.census import (
    MARK,
    Census,
    Process,
    environment_of,
    group_base,
    group_members,
    identify,
    remove_group,
    send,
    wait_gone,
)

# Forks twice, leaves its session and its parent, says who it has become, and waits to be killed.
AWAY = """
import os, sys, time
if os.fork(): os._exit(0)
os.setsid()
if os.fork(): os._exit(0)
print(os.getpid(), flush=True)
time.sleep(60)
"""
# The same, but its environment is gone as well.
BARE = """
import os, sys
if os.fork(): os._exit(0)
os.setsid()
told = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
os.execve(sys.executable, [sys.executable, "-c", told], {})
"""
# Becomes another process again and again, and ends by itself should nobody catch it.
FORKER = """
import os, time
print(os.getpid(), flush=True)
for _ in range(100):
    if os.fork():
        os._exit(0)
    time.sleep(0.2)
"""


@pytest.fixture
def stack() -> Iterator[str]:
    name = f"tc{os.getpid()}"
    yield name
    for host in ("a", "b"):
        Census(stack=name, host=host, cgroup=None, namespace=None).kill()
    base = group_base(name)
    if base is not None:
        remove_group(base)


def start(program: str, stack: str, host: str, group: Path | None = None) -> Process | None:
    """Starts `program` as one of `host`'s; returns what it says it is, if it still is."""
    argv = [sys.executable, "-c", program]
    if group is not None:
        group.mkdir(exist_ok=True)
        argv = ["/bin/sh", "-c", 'echo 0 > "$0"; exec "$@"', str(group / "cgroup.procs"), *argv]
    with subprocess.Popen(
        argv, env={**os.environ, MARK: f"{stack}/{host}"}, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        found = identify(int(child.stdout.readline()))
        child.stdout.close()
    return found


def test_finds_and_ends_a_daemon_by_its_mark_and_spares_others(stack: str) -> None:
    ours, other = start(AWAY, stack, "a"), start(AWAY, stack, "b")
    assert ours is not None
    assert other is not None
    census = Census(stack=stack, host="a", cgroup=None, namespace=None)
    assert census.processes() == {ours}
    assert census.kill() == (ours,)
    assert identify(ours.pid) != ours
    assert identify(other.pid) == other
    assert census.kill() == ()


def test_a_program_that_is_being_loaded_is_seen(stack: str) -> None:
    """Its environment reads empty for a moment, a quarter of the time in a loop like this."""
    missed = 0
    for _ in range(100):
        with subprocess.Popen(("/bin/sleep", "60"), env={MARK: f"{stack}/a"}) as child:
            missed += environment_of(child.pid).get(MARK) is None
            child.kill()
    assert missed == 0


def test_a_program_without_environment_holds_up_nobody(stack: str) -> None:
    with subprocess.Popen(("/bin/sleep", "60"), env={}) as child:
        assert environment_of(child.pid) == {}
        child.kill()


def test_ends_one_that_keeps_forking_away(stack: str) -> None:
    start(FORKER, stack, "a")
    census = Census(stack=stack, host="a", cgroup=None, namespace=None)
    assert census.kill()
    assert not census.processes()


def test_never_itself_nor_an_ancestor(stack: str) -> None:
    inner = (
        "from infra.substrates.census import Census\n"
        f"c = Census(stack={stack!r}, host='a', cgroup=None, namespace=None)\n"
        "print(len(c.processes()), c.kill())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", inner],
        env={**os.environ, MARK: f"{stack}/a"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["0", "()"]


def test_a_control_group_holds_what_lost_its_mark(stack: str) -> None:
    base = group_base(stack)
    if base is None:
        pytest.skip("no control groups here")
    group = base / "a"
    with_group = start(BARE, stack, "a", group)
    assert with_group is not None
    assert group_members(group) == {with_group}
    census = Census(stack=stack, host="a", cgroup=group, namespace=None)
    assert census.processes() == {with_group}
    assert with_group in census.kill()
    assert not group_members(group)
    assert remove_group(base)


def test_a_signal_reaches_the_same_process_or_none() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        here = identify(child.pid)
        assert here is not None
        later = Process(here.pid, here.starttime + 1)
        assert not send(later, signal.SIGKILL)
        assert child.poll() is None
        assert not wait_gone([here], 0.01)
        assert send(here, signal.SIGKILL)
        assert wait_gone([here], 10)
        assert identify(child.pid) is None  # a zombie counts as gone
    assert here.instance != later.instance
