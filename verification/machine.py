"""What a run ran on and with what, for `run.json`."""

from __future__ import annotations

import os
import platform
import subprocess
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

LIBRARIES = ("threenines", "locust", "msgspec", "scipy", "numpy", "pulumi", "uvloop", "aiohttp", "supervisor")
ROOT = Path(__file__).resolve().parent.parent
GIT_TIMEOUT_S = 10.0


@dataclass(frozen=True)
class Commit:
    """The commit of the source and whether it was changed since; None where there is no repository."""

    sha: str | None
    dirty: bool


def commit(root: Path = ROOT) -> Commit:
    """The commit that this source stands at."""
    sha = _git(root, "rev-parse", "HEAD")
    if not sha:
        return Commit(None, False)
    return Commit(sha, bool(_git(root, "status", "--porcelain", "--untracked-files=no")))


def versions() -> dict[str, str]:
    """Python and the libraries that matter to a measurement."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, str]:
    """Processors, memory, kernel."""
    pages, page_bytes = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
    return {
        "cpus": str(len(os.sched_getaffinity(0))),
        "processor": _processor(),
        "memory": f"{pages * page_bytes / 2**30:.1f} GiB",
        "kernel": platform.release(),
        "system": platform.system(),
    }


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass  # the architecture is all that is known then
    return platform.machine()


def _git(root: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments],
            capture_output=True,
            text=True,
            timeout=GIT_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
