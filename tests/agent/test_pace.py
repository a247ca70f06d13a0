"""A starting agent weighs more than its neighbours, until it serves."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

GROUPS = Path("/proc/sys/kernel/sched_autogroup_enabled")
PROGRAM = """
import os
from services.agent.pace import hurry, settle
os.setsid()
print(hurry(), open("/proc/self/autogroup").read().split()[-1])
print(settle(), open("/proc/self/autogroup").read().split()[-1])
"""


@pytest.mark.skipif(
    not GROUPS.exists() or GROUPS.read_text().strip() != "1" or os.geteuid() != 0,
    reason="this system weighs processes, not sessions, or does not let us",
)
def test_a_session_is_hurried_and_settled() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["True -10", "True 0"]
