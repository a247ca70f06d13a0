"""`pulumi up`, typed in infra/ of a checkout, on the same stack as `threenines up`."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from infra import automation
from infra.environment import load_environment
from tests.infra.conftest import SITE, World, make_world

ROOT = Path(__file__).resolve().parents[2]
ALL = 3 + 7 + 1 + 5

pytestmark = [pytest.mark.usefixtures("engine"), pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout of its own, so that its state directory is its own as well."""
    skipped = shutil.ignore_patterns("__pycache__", "etcd*", "toxiproxy", "pulumi")
    shutil.copytree(ROOT / "infra", tmp_path / "infra", ignore=skipped)
    for name in (".venv", "services", "pyproject.toml"):
        (tmp_path / name).symlink_to(ROOT / name)
    tools = tmp_path / ".tools" / "bin"
    tools.mkdir(parents=True)
    for tool in (ROOT / ".tools" / "bin").iterdir():
        if tool.name.startswith("pulumi-"):  # launchers name the checkout that they belong to
            (tools / tool.name).write_text(tool.read_text().replace(str(ROOT), str(tmp_path)))
            (tools / tool.name).chmod(0o755)
        else:
            (tools / tool.name).symlink_to(tool)
    # The units are made by the program, which runs in the engine's language host here.
    (tmp_path / "infra" / "units.py").write_text(
        "from infra.plan import UnitSpec\n"
        "START_ORDER = ('etcd', 'zygote', 'hostd')\n"
        "def units_for(host, fleet, environment):\n"
        "    names = START_ORDER if host in fleet.workers else START_ORDER[:1]\n"
        "    return tuple(UnitSpec(host=host.name, name=name, program=name) for name in names)\n"
    )
    return tmp_path


@pytest.fixture
def world(checkout: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    for world in make_world(load_environment("local", folder=checkout / "infra"), monkeypatch):
        # This checkout's packages before those of the checkout that the tests stand in.
        monkeypatch.setenv("PYTHONPATH", f"{checkout}:{SITE}")
        yield world


def shell(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", script],
        capture_output=True,
        text=True,
        timeout=240,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def pulumi(checkout: Path, command: str, *, status: int = 0) -> str:
    """What a shell prints that has read env.sh; both streams."""
    script = f". {checkout}/infra/env.sh && cd {checkout}/infra && {command}"
    done = shell(script)
    assert done.returncode == status, done.stdout + done.stderr
    return done.stdout + done.stderr


def test_the_engines_own_command(checkout: Path, world: World) -> None:
    """preview, up, up again, refresh after a kill, destroy; in between the other way sees the same stack."""
    committed = (checkout / "infra" / "Pulumi.local.yaml").read_bytes()
    assert f"+ {ALL + 1} to create" in pulumi(checkout, "pulumi preview")
    assert world.calls() == []
    text = pulumi(checkout, "pulumi up --yes --skip-preview")
    assert f"+ {ALL + 1} created" in text
    assert "Traceback" not in text
    assert len(world.changes()) == 5
    assert world.fleet.agents[0].name in pulumi(checkout, "pulumi stack --show-urns")
    assert "127." in pulumi(checkout, "pulumi stack output hosts")

    assert f"{ALL + 1} unchanged" in pulumi(checkout, "pulumi up --yes --skip-preview")
    assert automation.up(world.environment).unchanged
    world.substrate.stop_unit("mainpc", "zygote")
    world.calls()
    text = pulumi(checkout, "pulumi refresh --yes --skip-preview")
    assert "~ 1 updated" in text
    text = pulumi(checkout, "pulumi up --yes --skip-preview")
    assert "~ 1 updated" in text
    assert world.calls() == ["start_unit mainpc/zygote"]

    world.edit_agent(world.agent("pc2").name, memory_mb=99)
    assert "~ 1 updated" in pulumi(checkout, "pulumi up --yes --skip-preview")
    assert world.changes() == [f"PUT {world.agent('pc2').name}"]

    assert f"- {ALL + 1} deleted" in pulumi(checkout, "pulumi destroy --yes --skip-preview")
    with world.substrate.edit() as content:
        assert content["hosts"] == content["units"] == {}
    assert (checkout / "infra" / "Pulumi.local.yaml").read_bytes() == committed


def test_problems_are_told_without_a_traceback(checkout: Path, world: World) -> None:
    world.edit_agent(world.agent("pc2").name, home="nowhere")
    text = pulumi(checkout, "pulumi preview", status=1)
    # A resource's line and the list of diagnostics: once in each, not twice.
    assert text.count("there is no host 'nowhere'") <= 2
    assert "there is no host 'nowhere'" in text
    assert "unhandled" not in text
    assert "Traceback" not in text
    config = checkout / "infra" / "Pulumi.local.yaml"
    config.write_text(config.read_text().replace("substrate: process", "substrate: proces"))
    done = shell(f". {checkout}/infra/env.sh")
    assert done.returncode == 3
    assert "threenines:substrate: is 'proces'; write process or docker" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_configuration_changed_meanwhile_is_noticed(checkout: Path, world: World) -> None:
    config = checkout / "infra" / "Pulumi.local.yaml"
    change = f"sed -i 's/network: auto/network: loopback/' {config} && pulumi preview"
    text = pulumi(checkout, change, status=1)
    assert "was changed since infra/env.sh was read" in text
    environment = msgspec.structs.replace(world.environment, network="loopback")
    assert automation.preview(environment).same == 0
