"""Checks that nothing of the stack is left: no process of our tools, no network namespace of our hosts.

Exit status: 0 clean, 1 something is left (each thing on a line).
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
HOSTS = ("mainpc", "pc2", "witness")
SERVED = ("/.tools/bin/", "/.tools/debian/", "services.", "infra.substrates", "supervisord")


def leftovers(proc: Path = Path("/proc"), namespaces: Path = Path("/run/netns")) -> list[str]:
    """What is left, a line each."""
    found = []
    for folder in proc.iterdir():
        if not folder.name.isdigit() or int(folder.name) in {os.getpid(), os.getppid()}:
            continue
        try:
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
        except OSError:
            continue
        if str(ROOT) in command and any(part in command for part in SERVED):
            found.append(f"process {folder.name}: {command[:150]}")
    if namespaces.is_dir():
        names = (entry.name for entry in namespaces.iterdir())
        found += [f"network namespace {name}" for name in names if any(host in name for host in HOSTS)]
    return sorted(found)


def main() -> int:
    """Print what is left, if anything."""
    found = leftovers()
    for thing in found:
        print(f"threenines: left behind: {thing}", file=sys.stderr)
    if not found:
        print("nothing is left running")
    return 1 if found else 0


if __name__ == "__main__":
    raise SystemExit(main())
