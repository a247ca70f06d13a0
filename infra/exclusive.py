"""One harness on a stack at a time: a lock that ends with its holder, however that ends.

`verify`, `chaos run` and `down` take it; who comes second is told who holds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from infra.plan import Environment
from infra.substrates.base import SubstrateError
from infra.substrates.files import explained, make_folder
from infra.substrates.layout import Layout

LOCK = "harness.lock"
_PATIENCE_S = 0.5


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who works with the stack: its process, what it does ("verify"), since when (ISO 8601 UTC)."""

    pid: int
    purpose: str
    since: str


class Occupied(SubstrateError):
    """Another harness holds the stack. `holder` is None when it has not said yet who it is."""

    def __init__(self, stack: str, holder: Holder | None) -> None:
        who = f"process {holder.pid} ({holder.purpose}) since {holder.since}" if holder else "another harness"
        pid = f" (process {holder.pid})" if holder else ""
        super().__init__(f"stack {stack}", f"{who} works with it", f"wait for its end or end it{pid}")
        self.holder = holder


@contextlib.contextmanager
def exclusive(environment: Environment, purpose: str) -> Iterator[None]:
    """Holds the stack for the block, against every other session.

    Raises Occupied when another one holds it, SubstrateError when the lock cannot be had at all.
    """
    path = _path(environment)
    make_folder(path.parent)
    with explained(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        if not _taken(handle):
            raise Occupied(environment.stack, _read(path))
        since = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        with explained(path):
            os.ftruncate(handle, 0)
            os.pwrite(handle, msgspec.json.encode(Holder(pid=os.getpid(), purpose=purpose, since=since)), 0)
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                os.ftruncate(handle, 0)
    finally:
        os.close(handle)


def holder(environment: Environment) -> Holder | None:
    """Who holds the stack at present, None when nobody does. Raises SubstrateError."""
    path = _path(environment)
    if not path.exists():
        return None
    with explained(path):
        handle = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        return None if _taken(handle) else _read(path)
    finally:
        os.close(handle)


def _path(environment: Environment) -> Path:
    return Layout(environment).state / LOCK


def _taken(handle: int) -> bool:
    """Takes the lock; waits out somebody who only looks."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(0.02)
        else:
            return True


def _read(path: Path) -> Holder | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Holder)
    except (OSError, msgspec.MsgspecError):
        return None  # it is being written at this moment
