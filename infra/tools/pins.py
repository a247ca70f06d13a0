"""The pin table: which tools, in which versions, from where. Its one place is `[tool.threenines.tools]`.

A *pin* is a program; a *unit* is what is built or unpacked in one go (`prometheus` and `promtool` come
in one package). Only the standard library is used: the set-up reads this before anything is installed.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from infra.tools.errors import SetupError
from infra.tools.versions import accepts, parse_version


class Source(StrEnum):
    """Where a tool comes from when none that fits is on PATH."""

    GO = "go"
    DEBIAN = "debian"


@dataclass(frozen=True, slots=True)
class Pin:
    """One program.

    `want` is the version we build (Go) or the oldest one that we take (Debian); `accept` the range in which
    a program on PATH is used instead. `package` is the Go package or the Debian package, `folder` the unit
    it belongs to, `file` the program's path inside the unpacked package, `stamp_version` the linker's
    `NAME={version}` that makes the program tell its version.
    """

    name: str
    source: Source
    want: str
    accept: str
    package: str
    folder: str
    module: str = ""
    file: str = ""
    tags: str = ""
    stamp_version: str = ""
    version_args: tuple[str, ...] = ("--version",)

    @property
    def names_on_path(self) -> tuple[str, ...]:
        """The names under which others install it: ours, and the distribution's."""
        return tuple(dict.fromkeys((self.name, Path(self.file).name if self.file else self.name)))


@dataclass(frozen=True, slots=True)
class Unit:
    """The pins that come together, under the name of their folder."""

    name: str
    source: Source
    pins: tuple[Pin, ...]


_KEYS = frozenset(Pin.__dataclass_fields__) - {"name"}


def read_pins(pyproject: Path) -> tuple[Pin, ...]:
    """Every pin of `pyproject`, in its order. Raises SetupError naming the key that is wrong."""
    where = f"{pyproject.name} [tool.threenines.tools]"
    try:
        table = tomllib.loads(pyproject.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SetupError(where, f"cannot be read ({error})", "restore it from the repository") from error
    tools = table.get("tool", {}).get("threenines", {}).get("tools", {})
    if not isinstance(tools, dict) or not tools:
        raise SetupError(where, "the table is missing", "restore the file from the repository")
    return tuple(_pin(where, name, entry) for name, entry in tools.items())


def _pin(where: str, name: str, entry: object) -> Pin:
    if not isinstance(entry, Mapping):
        raise SetupError(where, f"{name} is not a table", f"write [tool.threenines.tools.{name}]")
    unknown = sorted(set(entry) - _KEYS)
    if unknown:
        mend = f"use one of {', '.join(sorted(_KEYS))}"
        raise SetupError(where, f"{name} has the unknown key {unknown[0]}", mend)
    for key in ("source", "want", "accept", "package"):
        if not isinstance(entry.get(key), str):
            raise SetupError(where, f"{name} lacks the text {key}", "add it")
    try:
        source = Source(entry["source"])
    except ValueError:
        raise SetupError(where, f"{name} comes from {entry['source']!r}", "use go or debian") from None
    want = parse_version(entry["want"])
    try:
        fitting = want is not None and accepts(entry["accept"], want)
    except ValueError as error:
        raise SetupError(where, f"{name}: {error}", "write for example '>=3.6,<4'") from None
    if not fitting:
        raise SetupError(where, f"{name} wants {entry['want']}, which its own accept refuses", "widen accept")
    texts = {key: str(entry[key]) for key in ("module", "file", "tags", "stamp_version") if key in entry}
    return Pin(
        name=name,
        source=source,
        want=entry["want"],
        accept=entry["accept"],
        package=entry["package"],
        folder=str(entry.get("folder", name)),
        version_args=tuple(str(argument) for argument in entry.get("version_args", ("--version",))),
        **texts,
    )


def group_units(pins: tuple[Pin, ...]) -> tuple[Unit, ...]:
    """The units in the order of their first pin. Raises SetupError when a folder mixes sources."""
    folders: dict[str, list[Pin]] = {}
    for pin in pins:
        folders.setdefault(pin.folder, []).append(pin)
    units = []
    for folder, members in folders.items():
        if len({pin.source for pin in members}) > 1:
            raise SetupError("pyproject.toml", f"the folder {folder} has several sources", "split it")
        units.append(Unit(folder, members[0].source, tuple(members)))
    return tuple(units)
