"""What hostd keeps on its own disk, so that it can start and answer without etcd.

`identity.json` counts the lives of this hostd and bounds the numbers given out; `view.json` is the last view
of the whole stack: definitions, instances, and the etcd revision they are from.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from infra.topology import AgentSpec
from services.registry.model import Instance

INCARNATION_STEP = 1000
SEQ_STEP = 1_000_000
SAVE_DELAY_S = 0.5

T = TypeVar("T")


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """`life` counts starts of hostd on this host; `epoch` is the highest one it claimed;
    no incarnation at or above `incarnation_ceiling` has been given out."""

    life: int = 0
    epoch: int = 0
    incarnation_ceiling: int = 1


class CachedView(msgspec.Struct, frozen=True, kw_only=True):
    """The last good view."""

    revision: int = 0
    definitions: tuple[AgentSpec, ...] = ()
    instances: tuple[Instance, ...] = ()


class DiskCache:
    """Reads and writes the two files. One that cannot be read counts as missing; `trouble` says why."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._save: asyncio.TimerHandle | None = None
        self._saving: asyncio.Future[None] | None = None
        self._source: Callable[[], CachedView] | None = None
        self.trouble: str | None = None
        self.identity = Identity()

    def begin_life(self) -> Identity:
        """Loads the identity, counts this life, and writes it back before anything is given out."""
        last = self._read("identity.json", Identity) or Identity()
        self.identity = Identity(
            life=last.life + 1,
            epoch=last.epoch,
            incarnation_ceiling=last.incarnation_ceiling + INCARNATION_STEP,
        )
        self._write("identity.json", msgspec.json.encode(self.identity))
        return last

    def remember(self, *, epoch: int = 0, incarnation: int = 0) -> None:
        """Raises the bounds on disk where these numbers reach them."""
        ceiling = self.identity.incarnation_ceiling
        if epoch <= self.identity.epoch and incarnation < ceiling:
            return
        if incarnation >= ceiling:
            ceiling = incarnation + INCARNATION_STEP
        self.identity = Identity(
            life=self.identity.life, epoch=max(epoch, self.identity.epoch), incarnation_ceiling=ceiling
        )
        self._write("identity.json", msgspec.json.encode(self.identity))

    def load_view(self) -> CachedView | None:
        """The last view, None when there is none that can be read."""
        return self._read("view.json", CachedView)

    def save_view_soon(self, source: Callable[[], CachedView]) -> None:
        """Writes what `source` answers within `SAVE_DELAY_S`, off the event loop; many calls, one write."""
        self._source = source
        if self._save is None and self._saving is None:
            self._save = asyncio.get_running_loop().call_later(SAVE_DELAY_S, self._start_saving)

    async def close(self) -> None:
        """Writes what is due."""
        if self._save is not None:
            self._save.cancel()
            self._save = None
        if self._saving is not None:
            await asyncio.wait([self._saving])
        if self._source is not None:
            self._write("view.json", msgspec.json.encode(self._source()))
            self._source = None

    def _start_saving(self) -> None:
        self._save = None
        if self._source is None:
            return
        text = msgspec.json.encode(self._source())
        self._source = None
        self._saving = asyncio.get_running_loop().run_in_executor(None, self._write, "view.json", text)
        self._saving.add_done_callback(self._saved)

    def _saved(self, _: asyncio.Future[None]) -> None:
        self._saving = None
        if self._source is not None and self._save is None:
            self._save = asyncio.get_running_loop().call_later(SAVE_DELAY_S, self._start_saving)

    def _read(self, name: str, kind: type[T]) -> T | None:
        path = self._folder / name
        try:
            return read_json(path, kind)
        except (OSError, msgspec.DecodeError) as error:
            self.trouble = f"{path}: {error}"
            return None

    def _write(self, name: str, text: bytes) -> None:
        path = self._folder / name
        try:
            write_bytes(path, text)
            self.trouble = None
        except OSError as error:
            self.trouble = f"{path}: {error.strerror}"


def read_json(path: Path, kind: type[T]) -> T | None:
    """The file's content, None when there is no file. Raises OSError, msgspec.DecodeError."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None


def write_bytes(path: Path, text: bytes) -> None:
    """Replaces the file as a whole: a crash leaves the old one or the new one. Raises OSError."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with temporary.open("wb") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
