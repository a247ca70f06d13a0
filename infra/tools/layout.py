"""Where the set-up keeps things, below one root (a checkout, or a folder of a test)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Layout:
    """The paths of one checkout."""

    root: Path

    @property
    def pyproject(self) -> Path:
        """Holds the pin table."""
        return self.root / "pyproject.toml"

    @property
    def modules(self) -> Path:
        """One folder per Go tool, with go.mod and go.sum."""
        return self.root / "infra" / "tools"

    @property
    def venv(self) -> Path:
        """The virtual environment."""
        return self.root / ".venv"

    @property
    def tools(self) -> Path:
        """Everything that is brought and is not Python."""
        return self.root / ".tools"

    @property
    def bin(self) -> Path:
        """The programs."""
        return self.tools / "bin"

    @property
    def debian(self) -> Path:
        """Unpacked packages, a tree per unit."""
        return self.tools / "debian"

    @property
    def go(self) -> Path:
        """The Go toolchain, where the machine has none."""
        return self.tools / "go"

    @property
    def stamps(self) -> Path:
        """A file per finished step."""
        return self.tools / "stamps"

    @property
    def logs(self) -> Path:
        """What the steps' programs printed."""
        return self.tools / "log"

    @property
    def scratch(self) -> Path:
        """Half-made things; removed at the start of every set-up."""
        return self.tools / "tmp"

    @property
    def lock(self) -> Path:
        """Held by the set-up that runs."""
        return self.tools / "lock"

    def stamp(self, step: str) -> Path:
        """The stamp of a step."""
        return self.stamps / f"{step}.json"
