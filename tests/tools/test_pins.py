"""The pin table: the project's own is sound, and a wrong one is told in a line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from infra.tools.errors import SetupError
from infra.tools.layout import Layout
from infra.tools.paths import PROJECT_ROOT
from infra.tools.pins import Source, group_units, read_pins

LAYOUT = Layout(PROJECT_ROOT)
PINS = read_pins(LAYOUT.pyproject)
GO_PINS = [pin for pin in PINS if pin.source is Source.GO]


def test_the_stack_has_its_tools() -> None:
    assert {pin.name for pin in PINS} >= {
        "pulumi",
        "etcd",
        "etcdctl",
        "toxiproxy-server",
        "prometheus",
        "promtool",
        "alertmanager",
        "amtool",
        "redis-server",
        "redis-cli",
    }


@pytest.mark.parametrize("pin", GO_PINS, ids=lambda pin: pin.name)
def test_a_go_pin_agrees_with_its_module(pin) -> None:
    module = LAYOUT.modules / pin.folder
    text = (module / "go.mod").read_text()
    assert re.search(rf"^\s*(require )?{re.escape(pin.module)} v{re.escape(pin.want)}\b", text, re.MULTILINE)
    assert re.search(rf"^(tool |\t){re.escape(pin.package)}$", text, re.MULTILINE)
    assert f"{pin.module} v{pin.want} h1:" in (module / "go.sum").read_text()


def test_the_sdk_and_the_cli_of_pulumi_are_one_version() -> None:
    want = next(pin.want for pin in PINS if pin.name == "pulumi")
    assert f'"pulumi=={want}"' in LAYOUT.pyproject.read_text()
    assert f"\npulumi=={want} " in (PROJECT_ROOT / "requirements.lock").read_text()


def test_units_of_one_folder_come_together() -> None:
    units = {unit.name: {pin.name for pin in unit.pins} for unit in group_units(PINS)}
    assert units["prometheus"] == {"prometheus", "promtool"}
    assert units["alertmanager"] == {"alertmanager", "amtool"}
    assert units["redis"] == {"redis-server", "redis-cli"}
    assert units["etcd"] == {"etcd"}


GOOD = """
[tool.threenines.tools.x]
source = "go"
want = "1.2.3"
accept = ">=1.2,<2"
package = "example.org/x"
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "the table is missing"),
        ("[tool.threenines]\ntools = 3\n", "the table is missing"),
        ("[tool.threenines.tools]\nx = 3\n", "x is not a table"),
        (GOOD + 'colour = "red"\n', "unknown key colour"),
        (GOOD.replace('package = "example.org/x"', ""), "x lacks the text package"),
        (GOOD.replace('want = "1.2.3"', "want = 1"), "x lacks the text want"),
        (GOOD.replace('"go"', '"cloud"'), "x comes from 'cloud'"),
        (GOOD.replace('"1.2.3"', '"2.0.0"'), "which its own accept refuses"),
        (GOOD.replace('"1.2.3"', '"newest"'), "which its own accept refuses"),
        (GOOD.replace(">=1.2,<2", "about one"), "not a version range"),
        ("[tool", "cannot be read"),
    ],
)
def test_a_wrong_table_is_told(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(text)
    with pytest.raises(SetupError, match=re.escape(told)) as caught:
        read_pins(file)
    assert caught.value.mend
    assert caught.value.line().startswith("threenines: pyproject.toml [tool.threenines.tools]: ")


def test_the_good_table_is_read(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    file.write_text(GOOD)
    (pin,) = read_pins(file)
    assert (pin.name, pin.folder, pin.version_args, pin.names_on_path) == ("x", "x", ("--version",), ("x",))


def test_a_folder_has_one_source(tmp_path: Path) -> None:
    file = tmp_path / "pyproject.toml"
    other = GOOD.replace("tools.x", "tools.y").replace('"go"', '"debian"') + 'folder = "x"\n'
    file.write_text(GOOD + other)
    with pytest.raises(SetupError, match="several sources"):
        group_units(read_pins(file))
