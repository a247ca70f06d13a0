"""The set-up as a program: its lines, its statuses, its lock, and what Ctrl-C leaves."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from infra.tools import setup
from infra.tools.children import Children
from infra.tools.errors import EXIT_CANNOT_WORK, SetupError
from infra.tools.layout import Layout
from infra.tools.paths import PROJECT_ROOT
from infra.tools.python_env import PythonEnv, require_python
from infra.tools.stamps import read_stamp
from infra.tools.system import SystemNeed, bring_system, missing_packages
from tests.tools.fakes import TOOL, checkout, go_mode

PATIENCE_S = 30.0

# The set-up itself, with the fake Go tool as its only step.
DRIVER = """
import sys
from pathlib import Path
from infra.tools import setup
from infra.tools.pins import Source, Unit
from infra.tools.plan import tool_steps
from tests.tools.fakes import go_pin

setup.plan_setup = lambda layout, children: tool_steps(
    layout, children, (Unit("fake", Source.GO, (go_pin(),)),)
)
sys.exit(setup.main(["--root", sys.argv[1]]))
"""


def start(root: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER, str(root)],
        cwd=PROJECT_ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(child: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = child.communicate(timeout=PATIENCE_S)
    return child.returncode, out, err


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return checkout(tmp_path)


def test_cold_then_warm(layout: Layout) -> None:
    status, out, err = finish(start(layout.root))
    assert (status, err) == (0, "")
    assert f"tools.fake: {TOOL} 1.2.3, built" in out
    assert "2 of 2 steps done" not in out  # the toolchain was there, the sources and the build were done
    assert "set-up is complete: 2 of 3 steps done" in out
    status, out, err = finish(start(layout.root))
    assert (status, err) == (0, "")
    assert out.startswith("set-up is complete: 3 steps, all done before")
    assert out.count("\n") == 1


@pytest.mark.parametrize(("mode", "told"), [("offline", "network may be gone"), ("full", "the disk is full")])
def test_a_failure_is_one_line_and_status_3(layout: Layout, mode: str, told: str) -> None:
    go_mode(layout, mode)
    status, out, err = finish(start(layout.root))
    assert status == EXIT_CANNOT_WORK
    assert told in err
    assert err.startswith("threenines: tools.")
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err
    assert "set-up is complete" not in out


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_leaves_nothing_half_made_and_is_resumed(layout: Layout, number: signal.Signals) -> None:
    go_mode(layout, "hang")
    child = start(layout.root)
    hanging = layout.go / "bin" / "hanging"
    assert child.stdout is not None
    while not hanging.exists() and child.poll() is None:
        os.sched_yield()
    assert list(layout.bin.glob(".*.new")), "the build was caught in the middle"
    child.send_signal(number)
    status, _, err = finish(child)
    assert status == setup.EXIT_INTERRUPTED
    assert err == "threenines: setup: interrupted; run make setup again, it goes on from here\n"
    assert list(layout.bin.iterdir()) == []
    assert read_stamp(layout.stamp("tools.fake")) is None
    go_mode(layout, "well")
    status, _, _ = finish(start(layout.root))
    assert status == 0
    assert (layout.bin / TOOL).exists()


def test_a_kill_in_the_middle_is_resumed(layout: Layout) -> None:
    go_mode(layout, "hang")
    child = start(layout.root)
    hanging = layout.go / "bin" / "hanging"
    while not hanging.exists() and child.poll() is None:
        os.sched_yield()
    child.kill()
    finish(child)
    os.kill(int(hanging.read_text()), signal.SIGKILL)  # its build goes on until somebody ends it
    assert not (layout.bin / TOOL).exists()
    go_mode(layout, "well")
    status, _, err = finish(start(layout.root))
    assert (status, err) == (0, "")
    assert [f.name for f in layout.bin.iterdir()] == [TOOL]


def test_two_set_ups_take_turns(layout: Layout) -> None:
    layout.tools.mkdir(exist_ok=True)
    with layout.lock.open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        other.write("4242\n")
        other.flush()
        child = start(layout.root)
        assert child.stdout is not None
        assert child.stdout.readline() == "another set-up runs (process 4242): waiting for it\n"
        assert not (layout.bin / TOOL).exists()
    status, out, err = finish(child)
    assert (status, err) == (0, "")
    assert "set-up is complete" in out


def test_the_lock_is_not_waited_for_without_end(layout: Layout) -> None:
    told = rf"process {os.getpid()}\) still runs"
    with (
        setup.only_one(layout.lock),
        pytest.raises(SetupError, match=told),
        setup.only_one(layout.lock, patience_s=0),
    ):
        pytest.fail("two hold the lock")


def test_a_wrong_pin_table_is_one_line(layout: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    layout.pyproject.write_text("[tool.threenines.tools.x]\nsource = 'cloud'\n")
    assert setup.main(["--root", str(layout.root)]) == EXIT_CANNOT_WORK
    assert capsys.readouterr().err.startswith("threenines: pyproject.toml [tool.threenines.tools]: x lacks")


def test_wrong_usage_is_64(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        setup.main(["--colour"])
    assert caught.value.code == setup.EXIT_USAGE


def test_an_old_python_is_told() -> None:
    with pytest.raises(
        SetupError, match=r"this is Python 3\.9, 3\.11 or newer is needed; run make setup PYTHON="
    ):
        require_python((3, 9))
    require_python((3, 11))


def test_a_half_filled_environment_is_not_usable(tmp_path: Path) -> None:
    env = PythonEnv(PROJECT_ROOT, tmp_path / "venv")
    assert not env.usable()
    env.python.parent.mkdir(parents=True)
    env.python.symlink_to(sys.executable)
    (env.venv / "pyvenv.cfg").write_text("include-system-site-packages = false\n")
    assert not env.usable(), "an interpreter without pip"
    whole = PythonEnv(PROJECT_ROOT, Path(sys.prefix))
    assert whole.usable()
    assert not whole.unfinished.exists()


def test_a_mark_of_unfinished_packages_is_believed(tmp_path: Path) -> None:
    env = PythonEnv(PROJECT_ROOT, tmp_path / "venv")
    env.python.parent.mkdir(parents=True)
    env.python.write_text("#!/bin/sh\nexit 0\n")
    env.python.chmod(0o755)
    assert env.usable()
    env.unfinished.touch()
    assert not env.usable()


def test_packages_of_the_system(tmp_path: Path) -> None:
    needs = (
        SystemNeed("there", lambda: True, "be there"),
        SystemNeed("iproute2", lambda: False, "make namespaces", root_only=True),
        SystemNeed("python3-venv", lambda: False, "make the environment"),
    )
    assert [need.package for need in missing_packages(needs, root=True)] == ["iproute2", "python3-venv"]
    assert [need.package for need in missing_packages(needs, root=False)] == ["python3-venv"]
    with pytest.raises(SetupError) as caught:
        bring_system(Children(tmp_path), needs, root=False)
    assert caught.value.line() == (
        "threenines: system: missing: python3-venv (to make the environment); "
        "run sudo apt-get install --no-install-recommends python3-venv"
    )
    assert bring_system(Children(tmp_path), needs[:1], root=False) == "complete"
