"""What the operating system must have: looked for, installed when root, else the line to run is printed."""

from __future__ import annotations

import importlib
import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.tools.children import Children
from infra.tools.debian import apt_environment
from infra.tools.errors import SetupError
from infra.tools.paths import foreign_path


@dataclass(frozen=True, slots=True)
class SystemNeed:
    """A package of the distribution, how to see that it is there, and what cannot be done without it."""

    package: str
    present: Callable[[], bool]
    purpose: str
    root_only: bool = False


def has_program(name: str) -> bool:
    """Whether a program is on PATH or among the administrators' programs."""
    return shutil.which(name, path=foreign_path()) is not None


def has_ensurepip() -> bool:
    """Whether this Python can make an environment with pip in it (Debian keeps that apart)."""
    importlib.invalidate_caches()
    return importlib.util.find_spec("ensurepip") is not None


def has_certificates() -> bool:
    """Whether the system has its list of certificate authorities."""
    return any(
        Path(file).is_file()
        for file in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt")
    )


NEEDS: tuple[SystemNeed, ...] = (
    SystemNeed("python3-venv", has_ensurepip, "make the environment"),
    SystemNeed("ca-certificates", has_certificates, "check the registries' certificates"),
    SystemNeed("iproute2", lambda: has_program("ip"), "give each host a network namespace", root_only=True),
    SystemNeed(
        "util-linux", lambda: has_program("nsenter"), "start units in a host's namespace", root_only=True
    ),
    SystemNeed("procps", lambda: has_program("ps"), "list a host's processes", root_only=True),
)


def missing_packages(needs: Sequence[SystemNeed], root: bool) -> tuple[SystemNeed, ...]:
    """The needs that are not met; those that serve root alone are no needs of another user."""
    return tuple(need for need in needs if (root or not need.root_only) and not need.present())


def install_line(needs: Sequence[SystemNeed]) -> str:
    """What a person would type."""
    return "sudo apt-get install --no-install-recommends " + " ".join(need.package for need in needs)


def bring_system(children: Children, needs: Sequence[SystemNeed], root: bool) -> str:
    """Install what is missing. Raises SetupError with the line to run when this user may not."""
    where = "system"
    missing = missing_packages(needs, root)
    if not missing:
        return "complete"
    names = ", ".join(f"{need.package} (to {need.purpose})" for need in missing)
    if not root or shutil.which("apt-get") is None:
        raise SetupError(where, f"missing: {names}", f"run {install_line(missing)}")
    packages = [need.package for need in missing]
    install = ["apt-get", "-q", "-y", "--no-install-recommends", "install", *packages]
    try:
        children.run(where, install, env=apt_environment())
    except SetupError:
        children.run(where, ["apt-get", "-q", "update"], env=apt_environment())
        children.run(where, install, env=apt_environment())
    still = missing_packages(needs, root)
    if still:
        what = f"{still[0].package} is installed but does not serve"
        raise SetupError(where, what, f"run {install_line(still)}")
    return f"installed {', '.join(packages)}"


def is_root() -> bool:
    """Whether this process may install packages and make network namespaces."""
    return os.geteuid() == 0
