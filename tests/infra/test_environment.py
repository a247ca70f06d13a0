"""Configuration of a stack, and the engine's folders."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.environment import ConfigError, config_of, environment_from, load_environment
from infra.plan import Environment
from infra.project import (
    KEPT_UPDATES,
    Layout,
    ProjectError,
    StackBusy,
    deployed_environment,
    exclusive,
    mend_checkpoint,
    pending_operations,
    prepare,
    record_deployed,
    release_dead_locks,
    variables,
)

GOOD = {"fleet": "../fleet.yaml", "stateDir": "../state"}


def made(tmp_path: Path) -> Environment:
    return Environment(stack="local", fleet=str(tmp_path / "f.yaml"), state_dir=str(tmp_path / "state"))


def test_the_committed_stack() -> None:
    environment = load_environment("local")
    assert environment.chaos
    assert Path(environment.fleet).is_file()
    assert environment == environment_from(
        config_of(environment), "local", base=Path("/elsewhere"), source="config"
    )


@pytest.mark.parametrize(
    ("change", "what", "mend"),
    [
        ({"substrat": "process"}, "is no setting", "did you mean substrate?"),
        ({"zzz": "1"}, "is no setting", "known are fleet"),
        ({"fleet": ""}, "is missing", "add threenines:fleet"),
        ({"stateDir": " "}, "is missing", "add threenines:stateDir"),
        ({"substrate": "vm"}, "is 'vm'", "process or docker"),
        ({"network": "x"}, "is 'x'", "auto or namespace or loopback"),
        ({"chaos": "yes"}, "is 'yes'", "true or false"),
        ({"subnetIndex": "-1"}, "is '-1'", "from 0 to 255"),
        ({"subnetIndex": "256"}, "is '256'", "from 0 to 255"),
        ({"subnetIndex": "²"}, "is '²'", "from 0 to 255"),
        ({"fleet": "a\0b"}, "NUL", "a path"),
    ],
)
def test_wrong_settings(change: dict[str, str], what: str, mend: str) -> None:
    with pytest.raises(ConfigError) as caught:
        environment_from({**GOOD, **change}, "local", base=Path("/b"), source="config")
    (problem,) = caught.value.problems
    assert what in problem.what
    assert mend in problem.mend


@given(
    st.dictionaries(st.sampled_from([*GOOD, "chaos", "network", "substrate", "subnetIndex", "x"]), st.text())
)
def test_any_settings(values: dict[str, str]) -> None:
    try:
        environment = environment_from(values, "local", base=Path("/b"), source="config")
    except ConfigError as error:
        found = error.problems
    else:
        again = environment_from(config_of(environment), "local", base=Path("/c"), source="config")
        assert again == environment
        return
    assert found


def test_a_files_problems_name_the_line(tmp_path: Path) -> None:
    path = tmp_path / "Pulumi.here.yaml"
    path.write_text(
        "config:\n  threenines:fleet: f.yaml\n  threenines:stateDir: s\n  threenines:chaos: maybe\n"
    )
    with pytest.raises(ConfigError) as caught:
        load_environment("here", folder=tmp_path)
    assert caught.value.problems[0].where == f"{path}:4 threenines:chaos"
    with pytest.raises(ConfigError, match="known are here"):
        load_environment("nowhere", folder=tmp_path)
    with pytest.raises(ConfigError, match="is no name"):
        load_environment("../x", folder=tmp_path)


def test_folders_are_private_and_the_passphrase_stays(tmp_path: Path) -> None:
    layout = prepare(made(tmp_path))
    before = layout.passphrase.read_text()
    assert layout.passphrase.stat().st_mode & 0o777 == 0o600
    prepare(made(tmp_path))
    assert layout.passphrase.read_text() == before
    env = variables(layout)
    assert env["PULUMI_BACKEND_URL"] == f"file://{layout.root}"
    assert Path(env["PULUMI_CONFIG_PASSPHRASE_FILE"]) == layout.passphrase


def test_a_passphrase_of_ones_own_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PULUMI_CONFIG_PASSPHRASE", "mine")
    env = variables(prepare(made(tmp_path)))
    assert env["PULUMI_CONFIG_PASSPHRASE"] == "mine"
    assert "PULUMI_CONFIG_PASSPHRASE_FILE" not in env


def test_a_state_directory_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("in the way")
    with pytest.raises(ProjectError, match="cannot be written"):
        prepare(made(tmp_path))


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full on this system")
def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    layout = prepare(made(tmp_path))
    before = (layout.inline / "Pulumi.local.yaml").read_bytes()
    real = os.open

    def full(path: str, *args: int) -> int:
        return real("/dev/full", os.O_WRONLY) if str(path).endswith(".part") else real(path, *args)

    monkeypatch.setattr(os, "open", full)
    with pytest.raises(ProjectError, match="No space left"):
        prepare(made(tmp_path))
    assert (layout.inline / "Pulumi.local.yaml").read_bytes() == before


def test_one_change_at_a_time(tmp_path: Path) -> None:
    layout = prepare(made(tmp_path))
    with exclusive(layout), pytest.raises(StackBusy, match=f"process {os.getpid()}"), exclusive(layout):
        pass
    with exclusive(layout):
        pass


def lock(layout: Layout, name: str, content: str) -> Path:
    layout.locks.mkdir(parents=True, exist_ok=True)
    path = layout.locks / name
    path.write_text(content)
    return path


def test_locks_of_the_dead_are_released(tmp_path: Path) -> None:
    layout = prepare(made(tmp_path))
    dead = {"pid": 2**22 + 1, "username": "x", "hostname": socket.gethostname(), "timestamp": ""}
    lock(layout, "a.json", json.dumps(dead))
    lock(layout, "b.json", '{"pid": 12')
    # A process id that another program has been given since.
    lock(layout, "c.json", json.dumps({**dead, "pid": os.getpid()}))
    assert release_dead_locks(layout) == ("a.json", "b.json", "c.json")
    assert release_dead_locks(layout) == ()


def test_a_lock_from_another_machine_is_kept(tmp_path: Path) -> None:
    layout = prepare(made(tmp_path))
    path = lock(layout, "a.json", json.dumps({"pid": 5, "hostname": "elsewhere.example"}))
    with pytest.raises(StackBusy, match="process 5 on elsewhere"):
        release_dead_locks(layout)
    assert path.exists()


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (None, 0),
        ("", 0),
        ("[]", 0),
        ('{"checkpoint": {"latest": null}}', 0),
        ('{"checkpoint": {"latest": {}}}', 0),
        ('{"checkpoint": {"latest": {"pending_operations": [{}, {}]}}}', 2),
    ],
)
def test_pending_operations(tmp_path: Path, text: str | None, count: int) -> None:
    layout = prepare(made(tmp_path))
    if text is not None:
        layout.checkpoint.parent.mkdir(parents=True)
        layout.checkpoint.write_text(text)
    assert pending_operations(layout) == count


def test_a_state_cut_short_is_mended(tmp_path: Path) -> None:
    layout = prepare(made(tmp_path))
    folder = layout.checkpoint.parent
    folder.mkdir(parents=True)
    layout.checkpoint.write_text('{"checkpoint": {}}')
    sidecar = folder / "local.json.attrs"
    sidecar.write_text("{}")
    assert mend_checkpoint(layout) == ()
    sidecar.write_text("")
    assert mend_checkpoint(layout) == ("local.json.attrs",)
    assert not sidecar.exists()
    layout.checkpoint.write_text('{"checkpoint"')
    assert mend_checkpoint(layout) == ()  # there is nothing better
    (folder / "local.json.bak").write_text('{"version": 3}')
    assert mend_checkpoint(layout) == ("local.json",)
    assert layout.checkpoint.read_text() == '{"version": 3}'


def test_history_is_bounded(tmp_path: Path) -> None:
    layout = prepare(made(tmp_path))
    layout.history.mkdir(parents=True)
    for number in range(10, 10 + KEPT_UPDATES + 5):
        for kind in ("checkpoint", "history"):
            (layout.history / f"local-{number}.{kind}.json").write_text("{}")
    with exclusive(layout):
        pass
    kept = sorted({path.name.partition(".")[0] for path in layout.history.iterdir()})
    assert kept == [f"local-{number}" for number in range(15, 15 + KEPT_UPDATES)]
    assert len(list(layout.history.iterdir())) == 2 * KEPT_UPDATES


def test_what_was_deployed_last_is_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    environment = made(tmp_path)
    prepare(environment)
    here = environment_from(config_of(environment), "local", base=tmp_path, source="config")
    monkeypatch.setattr("infra.project.load_environment", lambda stack: here)
    assert deployed_environment("local") == here
    other = made(tmp_path).__class__(stack="local", fleet="/other.yaml", state_dir=environment.state_dir)
    record_deployed(other)
    assert deployed_environment("local") == other
    Layout(environment).deployed.write_text("{")
    assert deployed_environment("local") == here
