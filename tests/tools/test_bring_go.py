"""Go tools: built once, verified before they get their name, resumed after anything."""

from __future__ import annotations

from pathlib import Path

import pytest

from infra.tools.children import Children
from infra.tools.errors import SetupError
from infra.tools.golang import Go, linker_flags, oldest_go
from infra.tools.layout import Layout
from infra.tools.paths import PROJECT_ROOT
from infra.tools.pins import Source, Unit, group_units, read_pins
from infra.tools.plan import tool_steps
from infra.tools.stamps import read_stamp
from infra.tools.steps import Progress, pending_steps, run_steps
from infra.tools.versions import probe_version
from tests.tools.fakes import TOOL, checkout, go_calls, go_mode, go_pin, write_program


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return checkout(tmp_path)


def set_up(layout: Layout, unit: Unit | None = None) -> list[str]:
    """One set-up of the tools alone; returns the names of the steps that were done."""
    children = Children(layout.logs)
    pending = pending_steps(tool_steps(layout, children, (unit or Unit("fake", Source.GO, (go_pin(),)),)))
    run_steps(pending, children, Progress(lambda line: None))
    return [step.name for step in pending]


def test_a_cold_set_up_builds_and_a_warm_one_does_nothing(layout: Layout) -> None:
    assert set_up(layout) == ["tools.fake.sources", "tools.fake"]
    assert probe_version(layout.bin / TOOL, ()) == (1, 2, 3)
    stamp = read_stamp(layout.stamp("tools.fake"))
    assert stamp is not None
    assert stamp.notes == {TOOL: "1.2.3"}
    asked = go_calls(layout, "")
    assert set_up(layout) == []
    assert go_calls(layout, "") == asked, "a warm set-up asks nobody"


@pytest.mark.parametrize(
    ("mode", "told"),
    [
        ("offline", "a download failed, the network may be gone"),
        ("full", "the disk is full"),
        ("lying", "the build answers with version 9.9.9, 1.2.3 is pinned"),
    ],
)
def test_a_failed_build_is_told_and_resumed(layout: Layout, mode: str, told: str) -> None:
    go_mode(layout, mode)
    with pytest.raises(SetupError) as caught:
        set_up(layout)
    assert (
        caught.value.line().startswith(f"threenines: tools.fake: {told}")
        or caught.value.where == f"tools.{TOOL}"
    )
    assert told in caught.value.line()
    assert list(layout.bin.iterdir()) == [], "nothing half-made stays"
    assert read_stamp(layout.stamp("tools.fake")) is None
    go_mode(layout, "well")
    assert "tools.fake" in set_up(layout)
    assert probe_version(layout.bin / TOOL, ()) == (1, 2, 3)


def test_a_failed_rebuild_leaves_the_old_program(layout: Layout) -> None:
    set_up(layout)
    (layout.modules / "fake" / "go.sum").write_text("changed")
    go_mode(layout, "offline")
    with pytest.raises(SetupError):
        set_up(layout)
    assert probe_version(layout.bin / TOOL, ()) == (1, 2, 3)
    go_mode(layout, "well")
    assert "tools.fake" in set_up(layout), "but it is not taken for done"


@pytest.mark.parametrize(
    "harm", ["program cut short", "program gone", "stamp gone", "stamp cut short", "inputs"]
)
def test_what_is_not_whole_is_built_again(layout: Layout, harm: str) -> None:
    set_up(layout)
    builds = go_calls(layout, "build")
    program, stamp = layout.bin / TOOL, layout.stamp("tools.fake")
    if harm == "program cut short":
        program.write_bytes(program.read_bytes()[:5])
    elif harm == "program gone":
        program.unlink()
    elif harm == "stamp gone":
        stamp.unlink()
    elif harm == "stamp cut short":
        stamp.write_bytes(stamp.read_bytes()[:20])
    else:
        (layout.modules / "fake" / "go.mod").write_text("module fake\n\ngo 1.26\n// changed\n")
    assert "tools.fake" in set_up(layout)
    assert go_calls(layout, "build") == builds + 1
    assert probe_version(program, ()) == (1, 2, 3)
    assert set_up(layout) == []


def test_a_fitting_tool_on_path_is_used(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = write_program(tmp_path / "their" / "bin" / TOOL, "#!/bin/sh\necho tool 1.9.0\n")
    monkeypatch.setenv("PATH", f"{theirs.parent}:/usr/bin:/bin")
    set_up(layout)
    assert (layout.bin / TOOL).resolve() == theirs
    assert go_calls(layout, "build") == 0
    stamp = read_stamp(layout.stamp("tools.fake"))
    assert stamp is not None
    assert stamp.notes == {TOOL: "1.9.0", f"{TOOL} from": str(theirs)}
    assert set_up(layout) == []
    theirs.unlink()
    assert "tools.fake" in set_up(layout), "their tool went away: ours is built"
    assert probe_version(layout.bin / TOOL, ()) == (1, 2, 3)


@pytest.mark.parametrize("script", ["echo tool 2.0.0", "echo tool 1.1.9", "exit 1", "echo nothing"])
def test_an_unfit_tool_on_path_is_not_used(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    theirs = write_program(tmp_path / "their" / "bin" / TOOL, f"#!/bin/sh\n{script}\n")
    monkeypatch.setenv("PATH", f"{theirs.parent}:/usr/bin:/bin")
    set_up(layout)
    assert probe_version(layout.bin / TOOL, ()) == (1, 2, 3)


def test_a_go_command_that_is_too_old_is_not_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = write_program(tmp_path / "bin" / "go", "#!/bin/sh\necho go1.19.8\n")
    monkeypatch.setenv("PATH", f"{old.parent}:/usr/bin:/bin")
    found = Go("1.26", tmp_path / "none").find()
    assert found is None or found != old
    assert Go("1.19", tmp_path / "none").find() == old


def test_every_go_tool_of_the_project_is_stamped_with_its_version() -> None:
    units = [u for u in group_units(read_pins(PROJECT_ROOT / "pyproject.toml")) if u.source is Source.GO]
    assert oldest_go(PROJECT_ROOT / "infra" / "tools", tuple(units)) >= "1.26"
    for pin in (pin for unit in units for pin in unit.pins if pin.stamp_version):
        assert pin.want in linker_flags(pin)
        assert "{" not in linker_flags(pin)
