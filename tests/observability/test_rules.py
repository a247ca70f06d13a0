"""Alerts and recorded figures: valid, tested, and each with a severity and a runbook that exists."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from infra.tools.paths import ToolMissing, tool_path

ROOT = Path(__file__).resolve().parents[2]
RULES = sorted((ROOT / "services" / "observability" / "rules").glob("*.yml"))


def alerts() -> list[dict[str, Any]]:
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if "alert" in rule]


def promtool(*arguments: str) -> subprocess.CompletedProcess[str]:
    try:
        program = tool_path("promtool")
    except ToolMissing:
        pytest.skip("no promtool here; `make setup` brings it")
    return subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)


def test_promtool_accepts_every_file() -> None:
    done = promtool("check", "rules", *map(str, RULES))
    assert done.returncode == 0, done.stdout + done.stderr


def test_alerts_fire_on_what_they_name_and_on_nothing_else() -> None:
    done = promtool("test", "rules", str(Path(__file__).with_name("rules_test.yml")))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("alert", alerts(), ids=lambda alert: str(alert["alert"]))
def test_every_alert_says_how_bad_it_is_and_what_to_do(alert: dict[str, Any]) -> None:
    assert alert["labels"]["severity"] in ("page", "ticket")
    assert alert["annotations"]["summary"]
    page, _, anchor = alert["annotations"]["runbook"].partition("#")
    headings = re.findall(r"^## (\S+)$", (ROOT / page).read_text(), flags=re.MULTILINE)
    assert alert["alert"] in headings
    assert anchor == alert["alert"].lower()


def test_the_alerts_that_the_stack_needs_are_there() -> None:
    names = {alert["alert"] for alert in alerts()}
    assert names >= {"AgentDown", "HostDown", "DiscoveryStale", "RestartStorm", "EtcdNoLeader", "LeaseLost"}
