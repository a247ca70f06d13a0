"""Writes `requirements.lock` anew: `make lock`. Needs the network; the result is committed.

The lock serves every platform and Python that the project allows, has a hash for every file, and
names no index: each user's own settings say where packages come from.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from infra.tools.errors import EXIT_CANNOT_WORK
from infra.tools.paths import PROJECT_ROOT
from infra.tools.stamps import write_atomically

HEADER = """\
# Every Python package of the project and of its development, pinned with hashes.
# Made from pyproject.toml by `make lock`; not edited by hand.
"""
RESOLVER = "uv==0.13.9"
_OPTIONS = ("--extra=dev", "--generate-hashes", "--universal", "--python-version=3.11")
_QUIET = ("--no-emit-index-url", "--no-emit-find-links", "--no-annotate", "--no-header", "-q")


def main(upgrade: bool) -> int:
    """Resolve in a scratch environment; `upgrade` takes the newest versions, else locked ones are kept."""
    lock = PROJECT_ROOT / "requirements.lock"
    with tempfile.TemporaryDirectory() as scratch:
        python = Path(scratch) / "venv" / "bin" / "python"
        draft = Path(scratch) / "requirements.lock"
        if lock.exists() and not upgrade:
            draft.write_text(lock.read_text(encoding="utf-8"), encoding="utf-8")
        compile_lock = [
            python,
            "-m",
            "uv",
            "pip",
            "compile",
            "pyproject.toml",
            *_OPTIONS,
            *_QUIET,
            "-o",
            draft,
        ]
        for argv in (
            [sys.executable, "-m", "venv", python.parents[1]],
            [python, "-m", "pip", "install", "--quiet", RESOLVER],
            compile_lock,
        ):
            done = subprocess.run([str(part) for part in argv], cwd=PROJECT_ROOT, check=False)
            if done.returncode != 0:
                what = f"{Path(str(argv[0])).name} ended with status {done.returncode}"
                print(f"threenines: lock: {what}; see above", file=sys.stderr)
                return EXIT_CANNOT_WORK
        write_atomically(lock, HEADER + draft.read_text(encoding="utf-8"))
    return 0


if __name__ == "__main__":
    raise SystemExit(main("--upgrade" in sys.argv[1:]))
