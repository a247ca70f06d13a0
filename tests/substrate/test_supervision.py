from __future__ import annotations

import configparser
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from infra.plan import UnitSpec
from infra.substrates.base import SubstrateError
from infra.substrates.layout import HostPaths
from infra.substrates.supervision import Supervisor, SupervisorDown, supervisor_config, unit_ini, unit_script
from infra.substrates.weights import FIRST

TELL = "import json, os, sys; print(json.dumps([sys.argv[1:], os.environ.get('GIVEN'), os.getcwd()]))"

words = st.text(st.characters(blacklist_characters="\0", blacklist_categories=["Cs"]), max_size=20)


def run_alone(script: Path) -> subprocess.CompletedProcess[bytes]:
    """Runs a unit's script in a session of its own: it changes how its session is weighed."""
    return subprocess.run(["/bin/sh", str(script)], capture_output=True, check=True, start_new_session=True)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(args=st.lists(words, max_size=4), value=words)
def test_the_script_passes_everything_on_unchanged(tmp_path: Path, args: list[str], value: str) -> None:
    paths = HostPaths(state=tmp_path, run=tmp_path)
    paths.data("x").mkdir(parents=True, exist_ok=True)
    unit = UnitSpec(host="h", name="x", program="python")
    argv = (sys.executable, "-S", "-c", TELL, *args)
    env = {"GIVEN": value, "PYTHONUTF8": "1", "PYTHONIOENCODING": "utf-8"}
    script = tmp_path / "x.sh"
    script.write_text(unit_script(unit, argv, env, paths), newline="")
    done = run_alone(script)
    assert json.loads(done.stdout) == [args, value, str(paths.data("x"))]


@pytest.mark.skipif(not Path("/proc/self/autogroup").exists(), reason="this kernel has no such groups")
def test_a_unit_gives_way_as_far_as_it_is_told(tmp_path: Path) -> None:
    paths = HostPaths(state=tmp_path, run=tmp_path)
    paths.data("x").mkdir(parents=True)
    script = tmp_path / "x.sh"
    group = "open('/proc/self/autogroup').read().split()[-1]"
    argv = (sys.executable, "-S", "-c", f"import os; print(os.nice(0), {group})")
    found = []
    for nice in (0, 7):
        unit = UnitSpec(host="h", name="x", program="python", nice=nice)
        script.write_text(unit_script(unit, argv, {}, paths))
        done = run_alone(script)
        found.append(tuple(int(word) for word in done.stdout.split()))
    assert found == [(os.nice(0), FIRST if os.geteuid() == 0 else 0), (os.nice(0) + 7, 7)]


def test_what_outlives_a_unit_writes_to_a_file_not_to_a_pipe(tmp_path: Path) -> None:
    paths = HostPaths(state=tmp_path, run=tmp_path)
    paths.data("x").mkdir(parents=True)
    paths.log("x").parent.mkdir()
    unit = UnitSpec(host="h", name="x", program="python", keeps_children=True)
    script = tmp_path / "x.sh"
    script.write_text(unit_script(unit, ("/bin/echo", "said"), {}, paths))
    done = run_alone(script)
    assert done.stdout == b""
    assert paths.log("x").read_text() == "said\n"
    assert "stdout_logfile=NONE" in unit_ini(unit, paths)


def test_the_files_parse_as_the_supervisor_reads_them(tmp_path: Path) -> None:
    paths = HostPaths(state=tmp_path / "state", run=tmp_path / "run")
    unit = UnitSpec(host="h", name="etcd", program="etcd", stop_signal="INT", stop_timeout_s=2.5)
    config = configparser.RawConfigParser()
    config.read_string(supervisor_config(paths, "t-h"))
    config.read_string(unit_ini(unit, paths))
    assert config["include"]["files"] == "units/*.ini"
    assert config["unix_http_server"]["file"] == str(tmp_path / "run" / "supervisor.sock")
    section = config["program:etcd"]
    assert (section["stopsignal"], section["stopwaitsecs"], section["autorestart"]) == ("INT", "3", "true")
    assert section["command"] == f"/bin/sh {paths.script('etcd')}"


def test_nobody_there_is_down(tmp_path: Path) -> None:
    supervisor = Supervisor("h", tmp_path / "no.sock")
    assert not supervisor.alive()
    with pytest.raises(SupervisorDown):
        supervisor.process("etcd")


def test_a_supervisor_that_does_not_answer_is_said_in_time(tmp_path: Path) -> None:
    import socket

    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as mute:
        mute.bind(str(path))
        mute.listen()
        supervisor = Supervisor("h", path, timeout_s=0.1)
        with pytest.raises(SubstrateError, match="does not answer"):
            supervisor.process("etcd")
