"""Listening on a Unix socket so that a successor takes the path over without a gap."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

MAX_PATH_BYTES: Final = 107
BACKLOG: Final = 256


class UnixListener:
    """A listening socket on `path`, and the care not to remove a successor's."""

    def __init__(self, server: asyncio.Server, path: Path, inode: int) -> None:
        self._server = server
        self._path = path
        self._inode = inode

    def hide(self) -> None:
        """The path goes, unless somebody else has taken it; who has connected already is still accepted."""
        try:
            if self._path.stat().st_ino == self._inode:
                self._path.unlink()
        except FileNotFoundError:
            pass

    def close(self) -> None:
        """No new connections."""
        self.hide()
        self._server.close()


async def listen_unix(path: Path, factory: Callable[[], asyncio.BaseProtocol]) -> UnixListener:
    """Listens under a name of its own, then renames it to `path`. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{os.getpid():x}")
    for one in (path, temporary):
        if len(os.fsencode(one)) > MAX_PATH_BYTES:
            raise OSError(f"{one}: longer than the {MAX_PATH_BYTES} bytes that a socket's path may have")
    temporary.unlink(missing_ok=True)
    server = await asyncio.get_running_loop().create_unix_server(factory, str(temporary), backlog=BACKLOG)
    inode = temporary.stat().st_ino
    temporary.rename(path)
    return UnixListener(server, path, inode)
