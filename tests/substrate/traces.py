"""Everything by which a stack could be seen on this machine, asked without the substrate's own code."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path


def processes(stack: str) -> set[int]:
    """Living processes whose environment names the stack."""
    found = set()
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            environ = Path(f"/proc/{name}/environ").read_bytes().split(b"\0")
            state = Path(f"/proc/{name}/stat").read_bytes().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if f"THREENINES_STACK={stack}".encode() in environ and state != b"Z":
            found.add(int(name))
    return found


def links(stack: str) -> set[str]:
    """Links whose alias names the stack."""
    shown = subprocess.run(["ip", "-j", "link"], capture_output=True, text=True, check=False).stdout or "[]"
    return {link["ifname"] for link in json.loads(shown) if link.get("ifalias") == f"threenines:{stack}"}


def namespaces(stack: str) -> set[str]:
    folder = Path("/run/netns")
    return {path.name for path in folder.glob(f"3n-{stack}-*")} if folder.is_dir() else set()


def mounts(stack: str) -> set[str]:
    return {line for line in Path("/proc/self/mounts").read_text().splitlines() if f"3n-{stack}-" in line}


def groups(stack: str) -> set[str]:
    found = set()
    for line in Path("/proc/self/mounts").read_text().splitlines():
        _, place, kind, *_ = line.split()
        if kind == "cgroup2" and (Path(place) / "threenines" / stack).exists():
            found.add(place)
    return found


def runs(stack: str) -> set[str]:
    places = (Path("/run/threenines"), Path(f"/tmp/threenines-{os.geteuid()}"))
    return {str(place / stack) for place in places if (place / stack).exists()}


def of(stack: str) -> dict[str, set[str] | set[int]]:
    """What there is of the stack; empty when nothing is left."""
    looks = {
        "processes": processes(stack),
        "links": links(stack),
        "namespaces": namespaces(stack),
        "mounts": mounts(stack),
        "groups": groups(stack),
        "runs": runs(stack),
    }
    return {name: found for name, found in looks.items() if found}
