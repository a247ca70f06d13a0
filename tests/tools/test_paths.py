"""Where tools are looked for, and the environment that Pulumi gets."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from infra.tools import paths
from infra.tools.paths import PROJECT_ROOT, ToolMissing, tool_environment, tool_path
from tests.tools.fakes import write_program


@pytest.fixture
def bin_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / ".tools" / "bin"
    folder.mkdir(parents=True)
    monkeypatch.setattr(paths, "BIN", folder)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")
    return folder


def test_ours_comes_first(bin_folder: Path) -> None:
    ours = write_program(bin_folder / "etcd", "#!/bin/sh\n")
    assert tool_path("etcd") == ours


@pytest.mark.parametrize(("version", "fits"), [("3.6.0", True), ("3.4.23", False)])
def test_on_path_only_in_a_fitting_version(
    bin_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str, fits: bool
) -> None:
    theirs = write_program(tmp_path / "bin" / "etcd", f"#!/bin/sh\necho etcd Version: {version}\n")
    monkeypatch.setenv("PATH", str(theirs.parent))
    if fits:
        assert tool_path("etcd") == theirs
    else:
        with pytest.raises(ToolMissing, match=r"etcd >=3\.6,<4 is neither .*; run make setup"):
            tool_path("etcd")


@pytest.mark.parametrize("left", ["not executable", "dangling"])
def test_what_cannot_be_started_is_not_there(bin_folder: Path, left: str) -> None:
    ours = bin_folder / "etcd"
    if left == "dangling":
        ours.symlink_to(bin_folder / "gone")
    else:
        ours.write_text("")
    with pytest.raises(ToolMissing):
        tool_path("etcd")


def test_what_is_no_tool_is_told(bin_folder: Path) -> None:
    with pytest.raises(ToolMissing, match="sh is no tool of this project") as caught:
        tool_path("sh")
    assert (caught.value.where, caught.value.mend) == ("tools", "run make setup")


def test_the_environment_of_pulumi(bin_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"/usr/bin:{bin_folder}:/bin")
    monkeypatch.setenv("PYTHONPATH", "/their/modules")
    monkeypatch.setenv("PULUMI_RUNTIME_VIRTUALENV", "/somewhere/else")
    before = dict(os.environ)
    env = tool_environment()
    assert env["PATH"].split(":") == [str(bin_folder), "/usr/bin", "/bin"]
    assert env["PYTHONPATH"].split(":") == [str(PROJECT_ROOT), "/their/modules"]
    assert env["PULUMI_PYTHON_CMD"] == sys.executable
    assert "PULUMI_RUNTIME_VIRTUALENV" not in env
    assert env["PULUMI_SKIP_UPDATE_CHECK"] == env["PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"] == "1"
    assert dict(os.environ) == before
