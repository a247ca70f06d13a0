"""The virtual environment: made once, filled from the hash-pinned lock, the project itself editable."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.tools.children import Children, error_of
from infra.tools.errors import SetupError

OLDEST_PYTHON = (3, 11)
PACKAGE_PROGRAMS = ("python", "pytest", "mypy", "ruff", "lint-imports", "locust", "supervisord")
"""Programs whose presence stands for the locked packages."""


@dataclass(frozen=True, slots=True)
class PythonEnv:
    """The virtual environment of the project at `root`."""

    root: Path
    venv: Path

    @property
    def python(self) -> Path:
        """Its interpreter."""
        return self.venv / "bin" / "python"

    @property
    def unfinished(self) -> Path:
        """Stands while packages are being installed; whatever it was left in is made anew."""
        return self.venv / ".installing"

    @property
    def lock(self) -> Path:
        """The list of packages, with hashes."""
        return self.root / "requirements.lock"

    def package_inputs(self) -> Mapping[str, str | bytes]:
        """What decides which packages are installed, for the stamp."""
        return {"lock": self.lock.read_bytes(), "venv": str(self.venv)}

    def project_inputs(self) -> Mapping[str, str | bytes]:
        """What decides how the project itself is installed, for the stamp."""
        table = tomllib.loads((self.root / "pyproject.toml").read_text(encoding="utf-8"))
        parts = {
            "build-system": table.get("build-system"),
            "project": table.get("project"),
            "setuptools": table.get("tool", {}).get("setuptools"),
        }
        return {
            "pyproject": json.dumps(parts, sort_keys=True),
            "venv": str(self.venv),
            "root": str(self.root),
        }

    def package_programs(self) -> tuple[Path, ...]:
        """The files that vouch for the packages."""
        return tuple(self.venv / "bin" / name for name in PACKAGE_PROGRAMS)

    def usable(self) -> bool:
        """Whether the environment is whole: its interpreter starts, is new enough and has pip."""
        if self.unfinished.exists():
            return False
        probe = f"import sys, pip; sys.exit(sys.version_info[:2] < {OLDEST_PYTHON})"
        try:
            answer = subprocess.run(
                [str(self.python), "-c", probe],
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=60,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            return False
        return answer.returncode == 0

    def _pip(self) -> list[str | Path]:
        return [self.python, "-m", "pip", "--no-input", "--disable-pip-version-check"]

    def create(self, children: Children) -> str:
        """Make the environment, or keep one that works."""
        where = "python.venv"
        if self.usable():
            return "kept"
        try:
            if self.venv.exists():
                shutil.rmtree(self.venv)
            children.run(where, [sys.executable, "-m", "venv", self.venv])
        except OSError as error:
            raise error_of(where, error) from error
        if not self.usable():
            raise SetupError(
                where, f"the new {self.venv} does not start", "check that python3 has its venv and pip"
            )
        return f"Python {sys.version_info.major}.{sys.version_info.minor}.{sys.version_info.micro}"

    def install_packages(self, children: Children) -> str:
        """Install what the lock says, each file checked by its hash; bytecode comes with the imports."""
        where = "python.packages"
        pip = self._pip()
        self.unfinished.touch()
        try:
            children.run(
                where,
                [*pip, "install", "--no-compile", "--progress-bar=off", "--require-hashes", "-r", self.lock],
            )
        except SetupError:  # pip failed by itself and took back what it had begun
            self.unfinished.unlink()
            raise
        self.unfinished.unlink()
        children.run(where, [*pip, "check"])
        pins = sum("==" in line for line in self.lock.read_text(encoding="utf-8").splitlines())
        return f"{pins} pinned packages"

    def install_project(self, children: Children) -> str:
        """Install the project editable, so that its packages import from anywhere."""
        pip = self._pip()
        mode = ["--no-deps", "--no-build-isolation", "--config-settings", "editable_mode=compat"]
        children.run("python.project", [*pip, "install", *mode, "-e", self.root])
        return "editable"


def require_python(version: tuple[int, int]) -> None:
    """Raise SetupError when the interpreter that runs the set-up is too old."""
    if version < OLDEST_PYTHON:
        raise SetupError(
            "python",
            f"this is Python {version[0]}.{version[1]}, 3.11 or newer is needed",
            "run make setup PYTHON=python3.11 (or newer)",
        )
