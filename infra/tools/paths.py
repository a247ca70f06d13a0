"""Where the tools are that are not Python, and the environment that Pulumi needs.

What the substrates ask: `tool_path("etcd")` gives the program to start, `tool_environment()` the
variables under which Pulumi finds its launchers and our provider module.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

PROJECT_ROOT = Path(__file__).resolve().parents[2]
TOOLS_ROOT = PROJECT_ROOT / ".tools"
BIN = TOOLS_ROOT / "bin"
VENV = PROJECT_ROOT / ".venv"


class ToolMissing(LookupError):
    """A tool is neither in `.tools/bin` nor, in a fitting version, on PATH."""

    def __init__(self, name: str) -> None:
        super().__init__(f"tools: {name} is not there; run make setup")
        self.name = name


def tool_path(name: str) -> Path:
    """The program called `name`: ours in `.tools/bin`, else the one on PATH.

    Raises ToolMissing, whose text says what to run.
    """
    ours = BIN / name
    if ours.is_file() and os.access(ours, os.X_OK):
        return ours
    found = shutil.which(name)
    if found is None:
        raise ToolMissing(name)
    return Path(found)


def tool_environment() -> dict[str, str]:
    """A copy of this process's environment in which Pulumi works without downloads."""
    env = dict(os.environ)
    parts = [str(BIN), *(p for p in env.get("PATH", "").split(os.pathsep) if p and p != str(BIN))]
    env["PATH"] = os.pathsep.join(parts)
    env["PULUMI_PYTHON_CMD"] = sys.executable
    env["PULUMI_SKIP_UPDATE_CHECK"] = "1"
    env["PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"] = "true"
    paths = [str(PROJECT_ROOT), *(p for p in env.get("PYTHONPATH", "").split(os.pathsep) if p)]
    env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys(paths))
    return env
