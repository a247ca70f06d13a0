"""The lock of a stack between sessions."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.exclusive import Occupied, exclusive, holder
from infra.plan import Environment

HOLD = """
import sys, time
from infra.exclusive import exclusive
from infra.plan import Environment
with exclusive(Environment(stack="local", fleet="", state_dir=sys.argv[1]), "verify"):
    print("held", flush=True); time.sleep(900)
"""


def environment(folder: Path, stack: str = "local") -> Environment:
    return Environment(stack=stack, fleet="", state_dir=str(folder))


def test_one_at_a_time_and_free_afterwards(tmp_path: Path) -> None:
    ours = environment(tmp_path)
    assert holder(ours) is None
    with exclusive(ours, "chaos run"):
        found = holder(ours)
        assert found is not None
        assert (found.pid, found.purpose) == (os.getpid(), "chaos run")
        with pytest.raises(Occupied) as told, exclusive(ours, "verify"):
            pass
        assert told.value.holder == found
        with exclusive(environment(tmp_path, "other"), "verify"):
            pass
    assert holder(ours) is None
    with exclusive(ours, "verify"):
        pass


def test_a_killed_holder_holds_nothing(tmp_path: Path) -> None:
    ours = environment(tmp_path)
    other = subprocess.Popen((sys.executable, "-c", HOLD, str(tmp_path)), stdout=subprocess.PIPE)
    assert other.stdout is not None
    assert other.stdout.readline() == b"held\n"
    with (
        pytest.raises(
            Occupied, match=rf"stack local: process {other.pid} \(verify\) since .* wait for its end"
        ),
        exclusive(ours, "down"),
    ):
        pass
    other.send_signal(signal.SIGKILL)
    other.wait()
    with exclusive(ours, "down"):
        assert holder(ours) is not None
