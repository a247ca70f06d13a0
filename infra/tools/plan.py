"""The plan of the set-up: which steps there are, in which order, and what vouches for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from infra.tools.children import Children, require_free_space
from infra.tools.debian import Apt, unit_inputs, unpack_unit
from infra.tools.errors import SetupError
from infra.tools.golang import Go, bring_toolchain, build_inputs, build_tool, fetch_modules, oldest_go
from infra.tools.launchers import launcher_texts, official_language_host, write_launchers
from infra.tools.layout import Layout
from infra.tools.paths import find_on_path
from infra.tools.pins import Pin, Source, Unit, group_units, read_pins
from infra.tools.python_env import PythonEnv
from infra.tools.stamps import Stamp, digest_inputs, link_atomically, read_stamp, stamp_outputs, write_stamp
from infra.tools.steps import Step
from infra.tools.system import NEEDS, bring_system, is_root, missing_packages
from infra.tools.versions import format_version, probe_version

GO_SPACE_BYTES = 5_000_000_000
"""What the Go caches grow by while Pulumi is built (measured: 3.8 GB) and the programs themselves."""
PYTHON_SPACE_BYTES = 1_500_000_000
DEBIAN_SPACE_BYTES = 500_000_000


def plan_setup(layout: Layout, children: Children) -> tuple[Step, ...]:
    """Every step for the checkout of `layout`. Raises SetupError when the pin table is wrong."""
    units = group_units(read_pins(layout.pyproject))
    root = is_root()
    return (
        Step(
            "system", lambda: not missing_packages(NEEDS, root), partial(bring_system, children, NEEDS, root)
        ),
        *_python_steps(layout, children),
        *tool_steps(layout, children, units),
        _launcher_step(layout),
    )


def tool_steps(layout: Layout, children: Children, units: tuple[Unit, ...]) -> tuple[Step, ...]:
    """The steps that bring `units`. Raises SetupError when a module lacks its files."""
    built = tuple(unit for unit in units if unit.source is Source.GO)
    unpacked = (unit for unit in units if unit.source is Source.DEBIAN)
    return (
        *_go_steps(layout, children, built),
        *(_debian_step(layout, children, unit) for unit in unpacked),
    )


def _stamped(
    layout: Layout,
    name: str,
    inputs: Callable[[], Mapping[str, str | bytes]],
    bring: Callable[[], tuple[str, tuple[Path, ...], Mapping[str, str]]],
    after: tuple[str, ...],
) -> Step:
    """A step that is ready when its stamp vouches for it, and writes the stamp when all else is done.

    `bring` returns what came in words, the files that it left, and notes for the stamp.
    """

    def digest() -> str:
        try:
            return digest_inputs(inputs())
        except OSError as error:
            what = f"{error.filename} cannot be read"
            raise SetupError(name, what, "restore it from the repository") from error

    def ready() -> bool:
        stamp = read_stamp(layout.stamp(name))
        return stamp is not None and stamp.vouches_for(digest())

    def run() -> str:
        before = digest()
        layout.stamp(name).unlink(missing_ok=True)
        words, files, notes = bring()
        write_stamp(layout.stamp(name), Stamp(name, before, stamp_outputs(files), notes))
        return words

    return Step(name, ready, run, after)


def _python_steps(layout: Layout, children: Children) -> tuple[Step, ...]:
    env = PythonEnv(layout.root, layout.venv)

    def packages() -> tuple[str, tuple[Path, ...], Mapping[str, str]]:
        require_free_space("python.packages", layout.venv, PYTHON_SPACE_BYTES)
        return env.install_packages(children), env.package_programs(), {}

    def project() -> tuple[str, tuple[Path, ...], Mapping[str, str]]:
        return env.install_project(children), (layout.venv / "bin" / "threenines",), {}

    names = ("python.packages", "python.project")
    return (
        Step("python.venv", lambda: False, partial(env.create, children), ("system",), (*names, "tools.go")),
        _stamped(layout, "python.packages", env.package_inputs, packages, ("python.venv",)),
        _stamped(layout, "python.project", env.project_inputs, project, ("python.packages",)),
    )


def _go_steps(layout: Layout, children: Children, units: tuple[Unit, ...]) -> tuple[Step, ...]:
    """The builds, one at a time (each uses every processor); the largest last, its sources fetched first."""
    if not units:
        return ()
    go = Go(oldest_go(layout.modules, units), layout.go / "bin" / "go")
    lock = layout.modules / "go" / "requirements.lock"
    largest, *others = units
    steps = [_go_step(layout, children, go, unit) for unit in (*reversed(others), largest)]
    names = tuple(step.name for step in steps)
    chained = [
        Step(step.name, step.ready, step.bring, ("tools.go", *names[:number][-1:], *step.after))
        for number, step in enumerate(steps)
    ]
    sources = f"{names[-1]}.sources"
    final = chained[-1]
    chained[-1] = Step(final.name, final.ready, final.bring, (*final.after, sources))

    def fetch() -> str:
        found = None if _on_path(largest) else go.find()
        if found is None:
            return "not needed"
        return fetch_modules(children, found, largest.pins[0], layout.modules / largest.name)

    def toolchain() -> str:
        if all(_on_path(unit) for unit in units):
            return "not needed"
        require_free_space("tools.go", Path.home(), GO_SPACE_BYTES)
        python = PythonEnv(layout.root, layout.venv).python
        return bring_toolchain(children, python, lock, layout.go, layout.scratch / "go")

    return (
        Step("tools.go", lambda: go.find() is not None, toolchain, ("python.venv",), names),
        Step(sources, lambda: False, fetch, ("tools.go",), names[-1:]),
        *chained,
    )


def _go_step(layout: Layout, children: Children, go: Go, unit: Unit) -> Step:
    module = layout.modules / unit.name

    def bring() -> tuple[str, tuple[Path, ...], Mapping[str, str]]:
        taken = _take_from_path(layout, unit)
        if taken is not None:
            return taken
        require_free_space(f"tools.{unit.name}", Path.home(), GO_SPACE_BYTES // 5)
        command = go.find()
        if command is None:
            what = f"Go {go.minimum} or newer is not there"
            raise SetupError(f"tools.{unit.name}", what, "install it, or run make setup again")
        notes = {}
        for pin in unit.pins:
            version = build_tool(children, command, pin, module, layout.bin / pin.name)
            notes[pin.name] = format_version(version) or ""
        words = ", ".join(f"{name} {version}" for name, version in notes.items())
        return f"{words}, built", tuple(layout.bin / name for name in notes), notes

    return _stamped(layout, f"tools.{unit.name}", partial(build_inputs, unit, module), bring, ())


def _debian_step(layout: Layout, children: Children, unit: Unit) -> Step:
    def bring() -> tuple[str, tuple[Path, ...], Mapping[str, str]]:
        taken = _take_from_path(layout, unit)
        if taken is not None:
            return taken
        require_free_space(f"tools.{unit.name}", layout.tools, DEBIAN_SPACE_BYTES)
        tree = layout.debian / unit.name
        apt = Apt(children, layout.scratch / f"{unit.name}.apt")
        versions, packages = unpack_unit(children, unit, tree, layout.bin, apt, layout.scratch / unit.name)
        programs = {name: format_version(version) or "" for name, version in versions.items()}
        files = (*(layout.bin / pin.name for pin in unit.pins), *(tree / pin.file for pin in unit.pins))
        text = ", ".join(f"{name} {version}" for name, version in programs.items())
        notes = {**programs, **{f"package {name}": version for name, version in packages.items()}}
        return f"{text}, unpacked", files, notes

    return _stamped(layout, f"tools.{unit.name}", partial(unit_inputs, unit, layout.root), bring, ("system",))


def _launcher_step(layout: Layout) -> Step:
    def texts() -> Mapping[str, str]:
        return launcher_texts(layout.root, layout.venv / "bin" / "python", official_language_host())

    def bring() -> tuple[str, tuple[Path, ...], Mapping[str, str]]:
        written = texts()
        write_launchers(layout.bin, written)
        return ", ".join(written), tuple(layout.bin / name for name in written), {}

    return _stamped(layout, "tools.launchers", lambda: dict(texts()), bring, ("python.project",))


def _on_path(unit: Unit) -> Mapping[Pin, Path] | None:
    """Where the unit's programs are on PATH, when all of them are, in versions that fit."""
    found = {}
    for pin in unit.pins:
        path = find_on_path(pin)
        if path is None:
            return None
        found[pin] = path
    return found


def _take_from_path(layout: Layout, unit: Unit) -> tuple[str, tuple[Path, ...], Mapping[str, str]] | None:
    """Use what the machine has: links in our folder, so that one place holds every program."""
    found = _on_path(unit)
    if found is None:
        return None
    notes = {}
    for pin, path in found.items():
        link_atomically(layout.bin / pin.name, path)
        notes[pin.name] = format_version(probe_version(path, pin.version_args)) or ""
        notes[f"{pin.name} from"] = str(path)
    words = ", ".join(f"{pin.name} {notes[pin.name]} of {path}" for pin, path in found.items())
    return words, tuple(layout.bin / pin.name for pin in found), notes
