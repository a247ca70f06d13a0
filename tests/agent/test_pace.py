"""A starting agent weighs more than its neighbours, until it serves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from services.agent.pace import settle

GROUPS = Path("/proc/sys/kernel/sched_autogroup_enabled")
PROGRAM = """
import os
from services.agent.pace import hurry, settle
os.setsid()
print(hurry(), open("/proc/self/autogroup").read().split()[-1])
print(settle(), open("/proc/self/autogroup").read().split()[-1])
"""

pytestmark = pytest.mark.skipif(
    not GROUPS.exists() or GROUPS.read_text().strip() != "1" or os.geteuid() != 0,
    reason="this system weighs processes, not sessions, or does not let us",
)


def test_a_session_is_hurried_and_settled() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True -10", "True 0"]


def test_another_s_session_is_settled() -> None:
    """As hostd does for a program, which knows of no pace."""
    wait = "import sys; from services.agent.pace import hurry; print(hurry(), flush=True); sys.stdin.read()"
    child = subprocess.Popen(
        [sys.executable, "-c", wait],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert child.stdin is not None
    assert child.stdout is not None
    with child:
        assert child.stdout.readline() == "True\n"
        group = Path(f"/proc/{child.pid}/autogroup")
        assert group.read_text().split()[-1] == "-10"
        assert settle(child.pid)
        assert group.read_text().split()[-1] == "0"
        child.stdin.close()
    assert not settle(child.pid), "it is gone"
