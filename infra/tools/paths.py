"""Where the tools are that are not Python, and the environment that Pulumi needs.

What the substrates ask: `tool_path("etcd")` gives the program to start, `tool_environment()` the
variables under which Pulumi finds its launchers and our provider module.
"""

from __future__ import annotations

import os
import shutil
import sys
from functools import lru_cache
from pathlib import Path

from infra.tools.pins import Pin, read_pins
from infra.tools.versions import accepts, probe_version

PROJECT_ROOT = Path(__file__).resolve().parents[2]
PYPROJECT = PROJECT_ROOT / "pyproject.toml"
TOOLS_ROOT = PROJECT_ROOT / ".tools"
BIN = TOOLS_ROOT / "bin"
VENV = PROJECT_ROOT / ".venv"


class ToolMissing(LookupError):
    """A tool is neither in `.tools/bin` nor, in a fitting version, on PATH."""

    def __init__(self, name: str, what: str = "is not there") -> None:
        self.name = name
        self.where = "tools"
        self.what = f"{name} {what}"
        self.mend = "run make setup"
        super().__init__(f"{self.where}: {self.what}; {self.mend}")


def tool_path(name: str) -> Path:
    """The program called `name`: ours in `.tools/bin`, else one of a fitting version on PATH.

    Raises ToolMissing, whose text says what to run.
    """
    ours = BIN / name
    if ours.is_file() and os.access(ours, os.X_OK):
        return ours
    pin = _pins().get(name)
    if pin is None:
        raise ToolMissing(name, "is no tool of this project")
    found = find_on_path(pin)
    if found is None:
        raise ToolMissing(name, f"{pin.accept} is neither in .tools/bin nor on PATH")
    return found


@lru_cache(maxsize=1)
def _pins() -> dict[str, Pin]:
    return {pin.name: pin for pin in read_pins(PYPROJECT)}


def find_on_path(pin: Pin) -> Path | None:
    """A program on PATH, outside `.tools/bin`, that answers with a version in the pin's range."""
    for candidate in pin.names_on_path:
        found = shutil.which(candidate, path=foreign_path())
        if found is None:
            continue
        version = probe_version(Path(found), pin.version_args)
        if version is not None and accepts(pin.accept, version):
            return Path(found)
    return None


def foreign_path() -> str:
    """PATH without our own folder of tools, and with the places that a non-root PATH omits."""
    parts = [p for p in os.environ.get("PATH", os.defpath).split(os.pathsep) if p and Path(p) != BIN]
    return os.pathsep.join(dict.fromkeys([*parts, "/usr/sbin", "/sbin"]))


def tool_environment() -> dict[str, str]:
    """A copy of this process's environment in which Pulumi works without downloads.

    The engine finds our launchers first on PATH, the launchers find this interpreter, and the provider's
    module can be imported from the project root.
    """
    env = dict(os.environ)
    parts = [p for p in env.get("PATH", os.defpath).split(os.pathsep) if p]
    env["PATH"] = os.pathsep.join(dict.fromkeys([str(BIN), *parts]))
    env["PULUMI_PYTHON_CMD"] = sys.executable
    env.pop("PULUMI_RUNTIME_VIRTUALENV", None)
    env["PULUMI_SKIP_UPDATE_CHECK"] = "1"
    env["PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION"] = "1"
    search = [p for p in env.get("PYTHONPATH", "").split(os.pathsep) if p]
    env["PYTHONPATH"] = os.pathsep.join(dict.fromkeys([str(PROJECT_ROOT), *search]))
    return env
