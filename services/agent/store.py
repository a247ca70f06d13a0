"""`self.state` behind hostd: a write counts when etcd has acknowledged it, under the epoch of its owner.

Reads come from this process, which holds everything: as long as it owns the agent, nobody else writes. A
write whose outcome is unknown makes the copy unsure; it is loaded anew before it is used again.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Protocol

import msgspec

from services.agent.errors import CallError, Code
from services.agent.state import MAX_ITEMS, Value

WRITE_LIMIT_S: Final = 2.0
MAX_WRITES_AT_ONCE: Final = 16


class StateWrite(msgspec.Struct, frozen=True):
    """Body of hostd's `state-write`: values in msgpack. `epoch`: the one the writer serves at."""

    name: str
    incarnation: int
    epoch: int
    puts: dict[str, bytes]
    deletes: tuple[str, ...] = ()


class StateRead(msgspec.Struct, frozen=True):
    """Body of hostd's `state-read`."""

    name: str
    incarnation: int


class StateContent(msgspec.Struct, frozen=True):
    """All acknowledged state as of a revision of the store, least recently written first."""

    revision: int
    items: tuple[tuple[str, bytes], ...]


class Backing(Protocol):
    """hostd, or a fake. Raises CallError: `fenced` (not performed), `unavailable`, `indeterminate`."""

    async def write(self, write: StateWrite) -> int:
        """The revision at which the store has it."""

    async def read(self, read: StateRead) -> StateContent:
        """Linearizable."""


class StoreState:
    """The state of one agent; see `services.agent.state.State`.

    `check` raises CallError `fenced` unless this process may act now, and answers the epoch.
    """

    def __init__(
        self,
        name: str,
        incarnation: int,
        backing: Backing,
        check: Callable[[], int],
        touched: Callable[[], None],
        max_items: int = MAX_ITEMS,
    ) -> None:
        """`touched` is called before anything is sent that may have an effect."""
        self._name = name
        self._incarnation = incarnation
        self._backing = backing
        self._check = check
        self._touched = touched
        self._max_items = max_items
        self._items: OrderedDict[str, Value] = OrderedDict()
        self._sure = False
        self._lock = asyncio.Lock()
        self.revision = 0
        """Up to which revision of the store this copy was loaded."""

    async def load(self) -> int:
        """Takes everything that was acknowledged so far from the store. Raises CallError."""
        async with self._lock:
            return await self._load()

    def forget(self) -> None:
        """Somebody else may write from now on."""
        self._sure = False
        self._items.clear()

    async def get(self, key: str) -> Value:
        await self._certain()
        value = self._items.get(key)
        if key in self._items:
            self._items.move_to_end(key)
        self._check()  # after the read: at that instant this process was the owner
        return value

    async def keys(self, prefix: str = "") -> list[str]:
        await self._certain()
        found = [key for key in self._items if key.startswith(prefix)]
        self._check()
        return found

    async def put(self, key: str, value: Value) -> None:
        async with self._lock:
            epoch = await self._own()
            oldest = next(iter(self._items)) if self._is_full(key) else None
            await self._write(
                epoch, {key: msgspec.msgpack.encode(value)}, () if oldest is None else (oldest,)
            )
            if oldest is not None:
                del self._items[oldest]
            self._items[key] = value
            self._items.move_to_end(key)

    async def delete(self, key: str) -> bool:
        async with self._lock:
            epoch = await self._own()
            if key not in self._items:
                return False
            await self._write(epoch, {}, (key,))
            del self._items[key]
            return True

    def __len__(self) -> int:
        return len(self._items)

    def _is_full(self, key: str) -> bool:
        return key not in self._items and len(self._items) >= self._max_items

    async def _own(self) -> int:
        self._check()
        if not self._sure:
            await self._load()
        return self._check()

    async def _certain(self) -> None:
        self._check()
        if not self._sure:
            await self.load()
            self._check()

    async def _load(self) -> int:
        content = await self._backing.read(StateRead(self._name, self._incarnation))
        self._items = OrderedDict((key, msgspec.msgpack.decode(raw)) for key, raw in content.items)
        self.revision = content.revision
        self._sure = True
        return self.revision

    async def _write(self, epoch: int, puts: dict[str, bytes], deletes: tuple[str, ...]) -> None:
        write = StateWrite(self._name, self._incarnation, epoch, puts, deletes)
        try:
            self._sure = False  # until the answer: a cancelled write is one without an answer
            await self._backing.write(write)
        except CallError as error:
            if error.code in (Code.FENCED, Code.UNAVAILABLE):
                self._sure = True  # not performed
                raise
            self._touched()
            raise
        except BaseException:
            self._touched()
            raise
        self._sure = True
        self._touched()
