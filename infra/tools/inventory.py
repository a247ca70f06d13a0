"""What this machine has and lacks: every tool with its version, and what the user is able to do here.

Facts only; `threenines doctor` shows them.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from infra.tools.launchers import LANGUAGE, PROVIDER, official_language_host
from infra.tools.layout import Layout
from infra.tools.paths import find_on_path, foreign_path
from infra.tools.pins import Pin, read_pins
from infra.tools.stamps import read_stamp
from infra.tools.versions import Version, accepts, format_version, probe_version

MEND = "make setup"
LEAST_FREE_BYTES = 1_000_000_000
"""A stack's state, histories and reports need about this much."""
_REQUIREMENT = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)")


class Level(StrEnum):
    """Whether the harness works without it: `required`, or only in a lesser way: `wanted`."""

    REQUIRED = "required"
    WANTED = "wanted"


@dataclass(frozen=True, slots=True)
class Tool:
    """One tool: what is wanted, what was found, and `mend`: what brings it, empty when all is well."""

    name: str
    wanted: str
    found: str | None
    path: str | None
    source: str
    ok: bool
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Ability:
    """Something about the machine or the user: what was found, in words, and whether that is enough."""

    name: str
    found: str
    ok: bool
    level: Level
    mend: str = ""


@dataclass(frozen=True, slots=True)
class Inventory:
    """Everything `threenines doctor` tells."""

    tools: tuple[Tool, ...]
    abilities: tuple[Ability, ...]

    @property
    def complete(self) -> bool:
        """Whether nothing that is required is missing."""
        return all(t.ok for t in self.tools) and all(
            a.ok for a in self.abilities if a.level is Level.REQUIRED
        )


def take_inventory(layout: Layout) -> Inventory:
    """Ask every tool for its version and look at the machine. Raises SetupError for a wrong pin table."""
    pins = read_pins(layout.pyproject)
    with ThreadPoolExecutor(max_workers=8) as pool:
        tools = tuple(pool.map(lambda pin: examine_tool(layout, pin), pins))
    return Inventory((*tools, *_launchers(layout), examine_packages(layout)), _abilities(layout))


def examine_tool(layout: Layout, pin: Pin) -> Tool:
    """The tool in `.tools/bin`, else one on PATH; not ok when it does not answer with a fitting version."""
    ours = layout.bin / pin.name
    if ours.exists():
        return judge_tool(pin, ours, probe_version(ours, pin.version_args), _origin(layout, pin, ours))
    found = find_on_path(pin)
    if found is not None:
        return judge_tool(pin, found, probe_version(found, pin.version_args), "PATH")
    unfit = next((p for n in pin.names_on_path if (p := shutil.which(n, path=foreign_path()))), None)
    if unfit is not None:
        return judge_tool(pin, Path(unfit), probe_version(Path(unfit), pin.version_args), "PATH")
    return judge_tool(pin, None, None, pin.source.value)


def judge_tool(pin: Pin, path: Path | None, version: Version | None, source: str) -> Tool:
    """Whether what was found serves."""
    ok = path is not None and version is not None and accepts(pin.accept, version)
    shown = str(path) if path is not None else None
    return Tool(pin.name, pin.accept, format_version(version), shown, source, ok, "" if ok else MEND)


def _origin(layout: Layout, pin: Pin, ours: Path) -> str:
    stamp = read_stamp(layout.stamp(f"tools.{pin.folder}"))
    taken = stamp.notes.get(f"{pin.name} from") if stamp else None
    package = stamp.notes.get(f"package {pin.package}") if stamp else None
    if taken:
        return "PATH"
    return f"{pin.source} {package}" if package else pin.source.value


def _launchers(layout: Layout) -> tuple[Tool, ...]:
    provider = layout.bin / PROVIDER
    official = official_language_host()
    language = official or layout.bin / LANGUAGE
    return tuple(
        Tool(
            name=name,
            wanted="present",
            found="present" if os.access(path, os.X_OK) else None,
            path=str(path) if path.exists() else None,
            source=source,
            ok=os.access(path, os.X_OK),
            mend="" if os.access(path, os.X_OK) else MEND,
        )
        for name, path, source in (
            (PROVIDER, provider, "ours"),
            (LANGUAGE, language, "PATH" if official else "ours"),
        )
    )


def examine_packages(layout: Layout) -> Tool:
    """Whether the environment holds what `requirements.lock` pins."""
    from importlib import metadata

    pinned = locked_versions(layout.root / "requirements.lock")
    wrong = []
    for name, version in pinned.items():
        try:
            found: str | None = metadata.version(name)
        except metadata.PackageNotFoundError:
            found = None
        if found != version:
            wrong.append(f"{name} {found or 'missing'}")
    ok = bool(pinned) and not wrong
    shown = f"{len(pinned) - len(wrong)} of {len(pinned)}" + (f" ({', '.join(wrong[:3])})" if wrong else "")
    return Tool("python packages", f"{len(pinned)} pinned", shown, sys.prefix, "pypi", ok, "" if ok else MEND)


def locked_versions(lock: Path) -> dict[str, str]:
    """Package and version of every line of a lock file that has no marker (those depend on the platform)."""
    try:
        lines = lock.read_text(encoding="utf-8").splitlines()
    except OSError:
        return {}
    matches = (_REQUIREMENT.match(line) for line in lines if ";" not in line)
    return {match["name"]: match["version"] for match in matches if match}


def _abilities(layout: Layout) -> tuple[Ability, ...]:
    free = shutil.disk_usage(layout.root).free
    version = sys.version_info
    return (
        Ability("python", f"{version[0]}.{version[1]}.{version[2]}", version >= (3, 11), Level.REQUIRED),
        examine_namespaces(),
        examine_run_folder(Path("/run")),
        Ability(
            "free disk",
            f"{free / 1e9:.1f} GB",
            free >= LEAST_FREE_BYTES,
            Level.REQUIRED,
            "" if free >= LEAST_FREE_BYTES else f"free {LEAST_FREE_BYTES / 1e9:.0f} GB under {layout.root}",
        ),
        examine_cores(len(os.sched_getaffinity(0))),
    )


def examine_cores(cores: int) -> Ability:
    """The processors that this process may use; the figures of the project are for two."""
    mend = "" if cores >= 2 else "give the machine two cores: figures are measured on two"
    return Ability("cores", str(cores), not mend, Level.WANTED, mend)


def examine_namespaces() -> Ability:
    """Whether hosts can be network namespaces: tried with one that vanishes with its only process."""
    name = "network namespaces"
    unshare = shutil.which("unshare", path=foreign_path())
    have_ip = shutil.which("ip", path=foreign_path()) is not None
    mend = "run as root for hosts with addresses of their own; loopback addresses serve until then"
    if unshare is None or not have_ip:
        lacking = "unshare (util-linux)" if unshare is None else "ip (iproute2)"
        return Ability(name, f"no: {lacking} is missing", False, Level.WANTED, f"install {lacking}")
    try:
        tried = subprocess.run(
            [unshare, "--net", "true"], capture_output=True, stdin=subprocess.DEVNULL, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return Ability(name, "no: they cannot be tried", False, Level.WANTED, mend)
    ok = tried.returncode == 0 and os.geteuid() == 0
    return Ability(
        name, "yes" if ok else "no: this user may not make them", ok, Level.WANTED, "" if ok else mend
    )


def examine_run_folder(folder: Path) -> Ability:
    """Whether sockets and namespaces can have their place in `/run`."""
    ok = folder.is_dir() and os.access(folder, os.W_OK)
    mend = "" if ok else "run as root; the state directory serves until then"
    return Ability(f"{folder} writable", "yes" if ok else "no", ok, Level.WANTED, mend)
