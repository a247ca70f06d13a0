"""The doctor: what it finds, and what a script reads."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from infra.tools import inventory
from infra.tools.inventory import (
    Ability,
    Inventory,
    Level,
    Tool,
    examine_cores,
    examine_packages,
    examine_run_folder,
    examine_tool,
    locked_versions,
    take_inventory,
)
from infra.tools.layout import Layout
from infra.tools.paths import PROJECT_ROOT
from tests.tools.fakes import TOOL, checkout, go_pin, write_program
from threenines.commands import doctor
from threenines.commands.doctor import as_document


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    return checkout(tmp_path)


@pytest.mark.parametrize(
    ("script", "found", "ok"),
    [
        ("echo fake 1.2.3", "1.2.3", True),
        ("echo fake 2.0.0", "2.0.0", False),
        ("exit 1", None, False),
        (None, None, False),
    ],
)
def test_a_tool_is_asked_and_judged(layout: Layout, script: str | None, found: str | None, ok: bool) -> None:
    if script is not None:
        write_program(layout.bin / TOOL, f"#!/bin/sh\n{script}\n")
    tool = examine_tool(layout, go_pin())
    assert (tool.found, tool.ok, tool.wanted) == (found, ok, ">=1.2,<2")
    assert tool.mend == ("" if ok else "make setup")


def test_an_unfit_one_on_path_is_shown(
    layout: Layout, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = write_program(tmp_path / "their" / TOOL, "#!/bin/sh\necho fake 0.9.0\n")
    monkeypatch.setenv("PATH", f"{theirs.parent}:/usr/bin:/bin")
    tool = examine_tool(layout, go_pin())
    assert (tool.found, tool.path, tool.source, tool.ok) == ("0.9.0", str(theirs), "PATH", False)


def ability(level: Level, ok: bool) -> Ability:
    return Ability("x", "found", ok, level)


@pytest.mark.parametrize(
    ("tool_ok", "level", "able", "complete"),
    [
        (True, Level.REQUIRED, True, True),
        (False, Level.REQUIRED, True, False),
        (True, Level.REQUIRED, False, False),
        (True, Level.WANTED, False, True),
    ],
)
def test_what_makes_it_complete(tool_ok: bool, level: Level, able: bool, complete: bool) -> None:
    tool = Tool("t", ">=1", "1.0", "/t", "go", tool_ok)
    assert Inventory((tool,), (ability(level, able),)).complete is complete


def test_the_document_for_scripts(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = Tool("etcd", ">=3.6,<4", None, None, "go", False, "make setup")
    facts = Inventory((tool,), (ability(Level.WANTED, True),))
    monkeypatch.setattr(doctor, "take_inventory", lambda layout: facts)
    with pytest.raises(doctor.typer.Exit) as leaving:
        doctor.doctor(json=True)
    assert leaving.value.exit_code == 3
    assert json.loads(capsys.readouterr().out) == {
        "ok": False,
        "tools": [
            {
                "name": "etcd",
                "wanted": ">=3.6,<4",
                "found": None,
                "path": None,
                "source": "go",
                "ok": False,
                "mend": "make setup",
            }
        ],
        "machine": [{"name": "x", "found": "found", "ok": True, "level": "wanted", "mend": ""}],
    }


def test_the_table_for_people_names_the_mend(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    tools = (
        Tool("etcd", ">=3.6,<4", None, None, "go", False, "make setup"),
        Tool("ok", ">=1", "1.0", "/t", "go", True),
    )
    monkeypatch.setattr(doctor, "take_inventory", lambda layout: Inventory(tools, (examine_cores(1),)))
    with pytest.raises(doctor.typer.Exit):
        doctor.doctor()
    out = capsys.readouterr().out
    assert "etcd: make setup" in out
    assert "cores: give the machine two cores" in out
    assert "\x1b" not in out, "no colours into a pipe"


def test_packages_are_compared_with_the_lock(layout: Layout) -> None:
    lock = layout.root / "requirements.lock"
    lock.write_text(
        "# x\npytest==0.0.1 \\\n    --hash=sha256:00\ncolorama==0.4.6 ; sys_platform == 'win32' \\\n"
    )
    assert locked_versions(lock) == {"pytest": "0.0.1"}
    tool = examine_packages(layout)
    assert not tool.ok
    assert tool.found is not None
    assert tool.found.startswith("0 of 1 (pytest ")
    lock.unlink()
    assert not examine_packages(layout).ok, "no lock is no proof"


def test_the_run_folder(tmp_path: Path) -> None:
    assert examine_run_folder(tmp_path).ok
    assert not examine_run_folder(tmp_path / "absent").ok


def test_namespaces_need_their_programs(monkeypatch: pytest.MonkeyPatch) -> None:
    real = shutil.which
    monkeypatch.setattr(
        inventory.shutil, "which", lambda name, path=None: None if name == "ip" else real(name, path=path)
    )
    found = inventory.examine_namespaces()
    assert (found.ok, found.level, found.mend) == (False, Level.WANTED, "install ip (iproute2)")


def test_this_machine_answers() -> None:
    facts = take_inventory(Layout(PROJECT_ROOT))
    names = [tool.name for tool in facts.tools]
    assert {"pulumi", "etcd", "redis-server", "pulumi-language-python", "python packages"} <= set(names)
    assert len(names) == len(set(names))
    assert json.loads(json.dumps(as_document(facts)))["ok"] is facts.complete
    for tool in facts.tools:
        assert bool(tool.mend) is not tool.ok
