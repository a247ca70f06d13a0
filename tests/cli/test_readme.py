"""What the README shows works: its manifest is valid and its commands exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from threenines import commands
from threenines.__main__ import run

README = (Path(__file__).resolve().parents[2] / "README.md").read_text(encoding="utf-8")
ROOT = Path(__file__).resolve().parents[2]


def test_its_manifest_is_valid(tmp_path: Path) -> None:
    (block,) = re.findall(r"```yaml\n(schema: threenines\.fleet/1\n.*?)```", README, flags=re.DOTALL)
    manifest = tmp_path / "shop.yaml"
    manifest.write_text(block, encoding="utf-8")
    assert run(["check", str(manifest)]) == 0


def test_its_commands_exist() -> None:
    named = set(re.findall(r"(?:`|^)threenines ([a-z]+)", README, flags=re.MULTILINE))
    assert {"check", "verify", "report"} <= named
    assert named <= {entry.name for entry in commands.TABLE}


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\(([^)#]+)\)", README))))
def test_its_links_lead_somewhere(target: str) -> None:
    assert (ROOT / target).exists()
