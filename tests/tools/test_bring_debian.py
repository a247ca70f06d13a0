"""Packages: unpacked beside their libraries, checked, replaced in one step."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.tools.children import Children
from infra.tools.debian import libraries_of
from infra.tools.errors import SetupError
from infra.tools.layout import Layout
from infra.tools.pins import Source, Unit
from infra.tools.plan import tool_steps
from infra.tools.stamps import read_stamp
from infra.tools.steps import Progress, pending_steps, run_steps
from infra.tools.versions import probe_version
from tests.tools.fakes import TOOL, debian_pin, fake_apt

SIMULATION = """\
NOTE: This is only a simulation!
Inst libjemalloc2 (5.3.0-1 Debian:12.15/oldstable [amd64])
Inst lua-cjson (2.1 Debian:12 [amd64])
Inst libjs-bootstrap (3.4.1 Debian [all])
Inst fonts-glyphicons-halflings (1.009 Debian [all])
Inst redis-tools [5:6.0] (5:7.0.15-1~deb12u10 Debian-Security:12 [amd64])
Conf libjemalloc2 (5.3.0-1 Debian:12.15/oldstable [amd64])
"""


@pytest.fixture
def layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Layout:
    monkeypatch.setenv("PATH", fake_apt(tmp_path / "apt")["PATH"])
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    layout = Layout(tmp_path / "checkout")
    layout.bin.mkdir(parents=True)
    layout.scratch.mkdir(parents=True)
    return layout


def set_up(layout: Layout) -> list[str]:
    children = Children(layout.logs)
    pending = pending_steps(tool_steps(layout, children, (Unit("fakedeb", Source.DEBIAN, (debian_pin(),)),)))
    run_steps(pending, children, Progress(lambda line: None))
    return [step.name for step in pending]


def test_only_libraries_come_along() -> None:
    assert libraries_of(SIMULATION) == ("libjemalloc2", "lua-cjson")


def test_unpacked_with_its_library_behind_a_launcher(layout: Layout) -> None:
    assert set_up(layout) == ["tools.fakedeb"]
    assert probe_version(layout.bin / TOOL, ()) == (4, 5, 6), "the launcher finds the library"
    assert probe_version(layout.debian / "fakedeb" / "usr" / "bin" / TOOL, ()) is None, "which is needed"
    stamp = read_stamp(layout.stamp("tools.fakedeb"))
    assert stamp is not None
    assert stamp.notes == {TOOL: "4.5.6", "package fake": "1:4.5.6-1", "package libfake1": "1.0"}
    assert list(layout.scratch.iterdir()) == []
    assert set_up(layout) == []


def test_missing_lists_are_fetched_beside_the_tools(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "apt" / "need-lists").touch()
    set_up(layout)
    calls = (tmp_path / "apt" / "apt-calls").read_text().splitlines()
    (update,) = [call for call in calls if call.endswith(" update")]
    assert f"Dir::State::Lists={layout.scratch / 'fakedeb.apt' / 'lists'}" in update
    assert probe_version(layout.bin / TOOL, ()) == (4, 5, 6)


def test_a_package_that_is_too_old_replaces_nothing(layout: Layout, tmp_path: Path) -> None:
    set_up(layout)
    layout.stamp("tools.fakedeb").unlink()
    (tmp_path / "apt" / "old").touch()
    with pytest.raises(SetupError, match=rf"the package fake has {TOOL} 1\.0\.0, wanted is >=4\.5,<5"):
        set_up(layout)
    assert probe_version(layout.bin / TOOL, ()) == (4, 5, 6), "the good one still answers"
    assert not layout.stamp("tools.fakedeb").exists()
    (tmp_path / "apt" / "old").unlink()
    assert set_up(layout) == ["tools.fakedeb"]


def test_without_apt_the_mend_names_the_tool(layout: Layout, tmp_path: Path) -> None:
    (tmp_path / "apt" / "apt-get").unlink()
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PATH", str(empty))
        with pytest.raises(SetupError) as caught:
            set_up(layout)
    assert caught.value.line() == (
        f"threenines: tools.fakedeb: this system has no apt-get and no dpkg-deb; put {TOOL} >=4.5,<5 on PATH"
    )
