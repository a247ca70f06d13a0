"""What the peers run on, brought into `.tools/peers`: nothing is installed system-wide or started.

keepalived and PostgreSQL are Debian's packages, unpacked; Patroni and psycopg come from PyPI into an
environment of their own, pinned by `requirements.lock` beside this file. Redis and etcd are the project's.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from infra.tools.children import Children
from infra.tools.debian import Apt, library_folders
from infra.tools.errors import SetupError
from infra.tools.paths import TOOLS_ROOT

ROOT = TOOLS_ROOT / "peers"
PACKAGES = ("keepalived", "postgresql-15", "postgresql-client-15")
LOCK = Path(__file__).with_name("requirements.lock")


@dataclass(frozen=True, slots=True)
class Tools:
    """Where the peers' programs are."""

    keepalived: Path
    postgres: Path
    """The folder of PostgreSQL's programs."""
    python: Path
    """The interpreter with Patroni and psycopg."""
    libraries: str
    """LD_LIBRARY_PATH of the unpacked programs."""


def bring() -> Tools:
    """Everything, brought if it is not there. Raises SetupError."""
    tree, venv, stamp = ROOT / "tree", ROOT / "venv", ROOT / "stamp"
    wanted = hashlib.sha256(
        b"\n".join((LOCK.read_bytes(), " ".join(PACKAGES).encode(), str(ROOT).encode(), sys.version.encode()))
    ).hexdigest()
    if not stamp.exists() or stamp.read_text() != wanted:
        shutil.rmtree(ROOT, ignore_errors=True)
        ROOT.mkdir(parents=True)
        children = Children(TOOLS_ROOT / "log")
        _unpack(children, tree)
        where = "peers.python"
        children.run(where, [sys.executable, "-m", "venv", venv])
        install = ["-m", "pip", "install", "--quiet", "--require-hashes", "-r", str(LOCK)]
        children.run(where, [str(venv / "bin" / "python"), *install])
        stamp.write_text(wanted)
    return Tools(
        keepalived=_one(tree, "usr/sbin/keepalived"),
        postgres=_one(tree, "usr/lib/postgresql/15/bin/postgres").parent,
        python=venv / "bin" / "python",
        libraries=os.pathsep.join(str(folder) for folder in library_folders(tree)),
    )


def _unpack(children: Children, tree: Path) -> None:
    """As the project's own Debian tools are brought: with the libraries that this system lacks."""
    where = "peers.debian"
    if shutil.which("apt-get") is None:
        raise SetupError(where, "this system has no apt-get", "run the comparison on Debian 12")
    files = ROOT / "files"
    files.mkdir()
    apt = Apt(children, ROOT / "apt")
    try:
        try:
            apt.download(where, [*PACKAGES, *apt.libraries(where, PACKAGES, False)], files, False)
        except SetupError:
            apt.refresh(where)
            apt.download(where, [*PACKAGES, *apt.libraries(where, PACKAGES, True)], files, True)
        for file in sorted(files.glob("*.deb")):
            children.run(where, ["dpkg-deb", "-x", file, tree])
    finally:
        shutil.rmtree(files, ignore_errors=True)
        shutil.rmtree(apt.private, ignore_errors=True)


def _one(tree: Path, name: str) -> Path:
    path = tree / name
    if not path.is_file():
        raise SetupError("peers", f"Debian's packages have no {name}", "run the comparison on Debian 12")
    return path
