"""Files that are either whole or absent, and locks between sessions. Errors say what to do."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from infra.substrates.base import SubstrateError

LOCK_PATIENCE_S = 120.0
_LOCK_LOOK_S = 0.01
_patience_s = LOCK_PATIENCE_S
UNIX_PATH_MAX_BYTES = 107
"""Longest path of a Unix socket (sockaddr_un.sun_path without its closing zero, unix(7))."""


def explain(error: OSError, path: Path) -> SubstrateError:
    """A SubstrateError that names the place, what the system refused there, and the mend."""
    where = str(error.filename or path)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return SubstrateError(where, "no space left on its device", "free some or choose another state_dir")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return SubstrateError(where, "it cannot be written", "make it writable or choose another state_dir")
    if error.errno == errno.ENAMETOOLONG:
        return SubstrateError(where, "its path is too long", "choose a shorter state_dir")
    return SubstrateError(where, (error.strerror or str(error)).lower(), "look at that path")


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turns an OSError of the block into a SubstrateError about `path`."""
    try:
        yield
    except OSError as error:
        raise explain(error, path) from error


def make_folder(path: Path, mode: int = 0o700) -> Path:
    """The folder `path`, with its parents, closed to others. Raises SubstrateError."""
    with explained(path):
        path.mkdir(mode=mode, parents=True, exist_ok=True)
    return path


def write_atomic(path: Path, content: bytes | str, mode: int = 0o600) -> None:
    """Replaces `path` by a complete file: synced, then renamed. Raises SubstrateError; nothing is left."""
    data = content.encode() if isinstance(content, str) else content
    with explained(path):
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
                os.fchmod(file.fileno(), mode)
            Path(temporary).replace(path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def remove_tree(path: Path) -> None:
    """Removes a folder and what is in it, if it is there. Raises SubstrateError."""
    with explained(path), contextlib.suppress(FileNotFoundError):
        shutil.rmtree(path)


@contextlib.contextmanager
def lock_patience(seconds: float) -> Iterator[None]:
    """How long this process waits for locks meanwhile, in all its threads.

    For those who heal: the one who holds a lock may stand still, and must then be ended instead of awaited.
    """
    global _patience_s
    before, _patience_s = _patience_s, seconds
    try:
        yield
    finally:
        _patience_s = before


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Holds the lock file `path` alone: against other threads, processes and sessions.

    Raises SubstrateError when somebody else holds it for too long: a session that stands still, say.
    """
    make_folder(path.parent)
    with explained(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        patience_s = _patience_s
        end = time.monotonic() + patience_s
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= end:
                    what = f"another session has held it for {patience_s:g} s"
                    raise SubstrateError(str(path), what, "end that session") from None
                time.sleep(_LOCK_LOOK_S)
        yield
    finally:
        os.close(handle)


def tail(path: Path, lines: int, since_byte: int = 0, most_bytes: int = 1 << 18) -> str:
    """The last `lines` lines of a text file after `since_byte`; "" when there is none."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            start = since_byte if since_byte <= size else 0  # rotated meanwhile
            file.seek(max(start, size - most_bytes))
            text = file.read().decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise explain(error, path) from error
    return "\n".join(text.splitlines()[-lines:])
