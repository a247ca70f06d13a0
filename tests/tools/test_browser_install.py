"""A browser is installed where that can be done; where it cannot, one line says so and nothing fails."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from infra.tools import browser
from infra.tools.children import Children

APT = """#!/bin/sh
echo "$@" >> {told}
[ "{fails}" = "$2" ] && {{ echo "E: Temporary failure resolving"; exit 100; }}
exit 0
"""


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A system with a shell and nothing else; its programs' folder."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return tmp_path


def apt(folder: Path, fails: str = "") -> Path:
    told = folder / "told"
    program = folder / "apt-get"
    program.write_text(APT.format(told=told, fails=fails))
    program.chmod(0o755)
    return told


def test_one_that_is_there_is_used(bare: Path, tmp_path: Path) -> None:
    (bare / "chromium").write_text("#!/bin/sh\n")
    (bare / "chromium").chmod(0o755)
    assert browser.bring(Children(tmp_path / "log")) == f"the tests that look at reports use {bare}/chromium"


def test_it_is_installed(bare: Path, tmp_path: Path) -> None:
    told = apt(bare)
    assert browser.bring(Children(tmp_path / "log")) == "chromium is installed"
    assert told.read_text().splitlines() == ["-q update", "-q install -y --no-install-recommends chromium"]


@pytest.mark.parametrize("fails", ["update", "install"])
def test_without_a_network_the_tests_are_skipped(bare: Path, tmp_path: Path, fails: str) -> None:
    apt(bare, fails)
    line = browser.bring(Children(tmp_path / "log"))
    assert "will be skipped" in line
    assert "the network may be gone" in line
    assert "\n" not in line


def test_who_may_not_install_is_told_what_to_do(
    bare: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = apt(bare)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert "apt-get install chromium" in browser.bring(Children(tmp_path / "log"))
    assert not told.exists()
