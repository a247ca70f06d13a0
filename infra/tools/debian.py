"""Tools that come as Debian packages: downloaded and unpacked into our own folder, never installed.

No root is needed and no service is started. apt checks the packages' signatures and hashes. When the
system has no package lists (or stale ones), a private copy is fetched next to the tools.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.tools.children import Children, error_of
from infra.tools.errors import SetupError
from infra.tools.pins import Pin, Unit
from infra.tools.stamps import link_atomically, write_atomically
from infra.tools.versions import Version, accepts, format_version, probe_version

_INSTALL_LINE = re.compile(r"^Inst (\S+) ", re.MULTILINE)
_PACKAGE_FILE = re.compile(r"^(?P<name>[^_]+)_(?P<version>[^_]+)_[^_]+\.deb$")
_LIBRARY = re.compile(r"^(?!libjs-)lib\S+$|^lua-\S+$")

LAUNCHER = """#!/bin/sh
# Starts {program} with the libraries that came beside it.
LD_LIBRARY_PATH={libraries}${{LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}}
export LD_LIBRARY_PATH
exec {program} "$@"
"""


@dataclass(frozen=True, slots=True)
class Apt:
    """apt without its system state where that is of no use: `private` holds lists and caches of our own."""

    children: Children
    private: Path

    def options(self, own_lists: bool) -> list[str]:
        """Command-line options for apt-get."""
        options = ["-q", "-o", "APT::Sandbox::User=root" if os.geteuid() == 0 else "Debug::NoLocking=1"]
        if own_lists:
            lists, cache = self.private / "lists", self.private / "cache"
            for folder in (lists / "partial", cache / "archives" / "partial"):
                folder.mkdir(parents=True, exist_ok=True)
            options += ["-o", f"Dir::State::Lists={lists}", "-o", f"Dir::Cache={cache}"]
        return options

    def refresh(self, where: str) -> None:
        """Fetch private package lists."""
        self.children.run(where, ["apt-get", *self.options(True), "update"], env=apt_environment())

    def libraries(self, where: str, packages: Sequence[str], own_lists: bool) -> tuple[str, ...]:
        """The shared libraries that an installation of `packages` would bring to this system."""
        argv = ["apt-get", *self.options(own_lists), "--simulate", "--no-install-recommends", "install"]
        return libraries_of(self.children.run(where, [*argv, *packages], env=apt_environment()))

    def download(self, where: str, packages: Sequence[str], target: Path, own_lists: bool) -> None:
        """Download the packages' files into `target`."""
        argv = ["apt-get", *self.options(own_lists), "download", *packages]
        self.children.run(where, argv, cwd=target, env=apt_environment())


def apt_environment() -> dict[str, str]:
    """Answers in English, questions never."""
    return {**os.environ, "LC_ALL": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}


def libraries_of(simulation: str) -> tuple[str, ...]:
    """The libraries among the packages that `apt-get --simulate install` would install."""
    return tuple(name for name in _INSTALL_LINE.findall(simulation) if _LIBRARY.match(name))


def unit_inputs(unit: Unit, root: Path) -> Mapping[str, str | bytes]:
    """Everything that decides what is unpacked, for the stamp; the root, because launchers name it."""
    keys = ("package", "file", "want", "accept")
    inputs = {f"{pin.name}.{key}": getattr(pin, key) for pin in unit.pins for key in keys}
    return {**inputs, "root": str(root), "launcher": LAUNCHER}


def unpack_unit(
    children: Children, unit: Unit, tree: Path, bin_folder: Path, apt: Apt, scratch: Path
) -> tuple[Mapping[str, Version], Mapping[str, str]]:
    """Bring the packages of `unit` under `tree` and its programs into `bin_folder`.

    Returns each program's version and each package's full version. Raises SetupError.
    """
    where = f"tools.{unit.name}"
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        wanted = ", ".join(f"{pin.name} {pin.accept}" for pin in unit.pins)
        raise SetupError(where, "this system has no apt-get and no dpkg-deb", f"put {wanted} on PATH")
    packages = tuple(dict.fromkeys(pin.package for pin in unit.pins))
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        files = scratch / "files"
        files.mkdir(parents=True)
        _download(apt, where, packages, files)
        fresh = scratch / "tree"
        notes: dict[str, str] = {}
        for file in sorted(files.glob("*.deb")):
            children.run(where, ["dpkg-deb", "-x", file, fresh])
            match = _PACKAGE_FILE.match(file.name)
            if match:
                notes[match["name"]] = match["version"].replace("%3a", ":")
        _check(where, unit, fresh)
        tree.parent.mkdir(parents=True, exist_ok=True)
        if tree.exists():
            tree.rename(scratch / "old")
        fresh.rename(tree)
        versions = {}
        for pin in unit.pins:
            _expose(pin, tree, bin_folder / pin.name)
            versions[pin.name] = _fitting_version(where, pin, bin_folder / pin.name, {})
        return versions, notes
    except OSError as error:
        raise error_of(where, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
        shutil.rmtree(apt.private, ignore_errors=True)


def _download(apt: Apt, where: str, packages: Sequence[str], files: Path) -> None:
    """With the system's lists when they serve, else with private ones."""
    try:
        apt.download(where, [*packages, *apt.libraries(where, packages, False)], files, False)
    except SetupError:
        apt.refresh(where)
        apt.download(where, [*packages, *apt.libraries(where, packages, True)], files, True)


def library_folders(tree: Path) -> tuple[Path, ...]:
    """The folders of an unpacked tree that hold shared libraries."""
    found = {file.parent for file in tree.rglob("*.so*") if file.is_file()}
    return tuple(sorted(found))


def _check(where: str, unit: Unit, tree: Path) -> None:
    """Every program of the unit must answer before the tree gets its final name."""
    libraries = os.pathsep.join(str(folder) for folder in library_folders(tree))
    for pin in unit.pins:
        _fitting_version(where, pin, tree / pin.file, {"LD_LIBRARY_PATH": libraries} if libraries else {})


def _fitting_version(where: str, pin: Pin, program: Path, extra: Mapping[str, str]) -> Version:
    version = probe_version(program, pin.version_args, {**os.environ, **extra} if extra else None)
    if version is None or not accepts(pin.accept, version):
        raise SetupError(
            where,
            f"the package {pin.package} has {pin.name} {format_version(version)}, wanted is {pin.accept}",
            f"put a {pin.name} of that range on PATH, or use a newer Debian",
        )
    return version


def _expose(pin: Pin, tree: Path, target: Path) -> None:
    folders = library_folders(tree)
    if folders:
        libraries = os.pathsep.join(str(folder) for folder in folders)
        write_atomically(target, LAUNCHER.format(program=tree / pin.file, libraries=libraries), mode=0o755)
    else:
        link_atomically(target, tree / pin.file)
