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
from services.agent.wellness import elsewhere

WRITE_LIMIT_S: Final = 2.0
CHANGED: Final = "changed"
"""A value is not the one that was to be replaced: an earlier write without an answer came through late."""
TRIES: Final = 3


class StateWrite(msgspec.Struct, frozen=True):
    """Body of hostd's `state-write`: values in msgpack. `epoch`: the one the writer serves at; `replaces`:
    the revision that wrote each key so far (0: there is none)."""

    name: str
    incarnation: int
    epoch: int
    puts: dict[str, bytes]
    deletes: tuple[str, ...] = ()
    replaces: dict[str, int] = {}


class StateRead(msgspec.Struct, frozen=True):
    """Body of hostd's `state-read`."""

    name: str
    incarnation: int


class StateContent(msgspec.Struct, frozen=True):
    """All acknowledged state as of a revision of the store, least recently written first: key, value and the
    revision that wrote it."""

    revision: int
    items: tuple[tuple[str, bytes, int], ...]


class Backing(Protocol):
    """hostd, or a fake. Raises CallError: `fenced`, `unavailable` and `CHANGED` (not performed),
    `indeterminate`."""

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
        self._written: dict[str, int] = {}
        self._sure = False
        self._lock = asyncio.Lock()
        self.revision = 0
        """Up to which revision of the store this copy was loaded."""

    async def load(self, content: StateContent | None = None) -> int:
        """Takes everything that was acknowledged so far: `content`, where that is no older than what this
        copy once was, else from the store. Raises CallError."""
        async with self._lock:
            if content is None or content.revision < self.revision:
                return await self._load()
            return self._take(content)

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
        packed = msgspec.msgpack.encode(value)
        with elsewhere():
            await self._put(key, value, packed)

    async def _put(self, key: str, value: Value, packed: bytes) -> None:
        async with self._lock:
            for _ in range(TRIES):
                epoch = await self._own()
                oldest = next(iter(self._items)) if self._is_full(key) else None
                if await self._write(epoch, {key: packed}, () if oldest is None else (oldest,)):
                    self._items[key] = value
                    self._items.move_to_end(key)
                    return
        raise self._contended()

    async def delete(self, key: str) -> bool:
        with elsewhere():
            return await self._delete(key)

    async def _delete(self, key: str) -> bool:
        async with self._lock:
            for _ in range(TRIES):
                epoch = await self._own()
                if key not in self._items:
                    return False
                if await self._write(epoch, {}, (key,)):
                    return True
        raise self._contended()

    def __len__(self) -> int:
        return len(self._items)

    def _contended(self) -> CallError:
        return CallError(Code.UNAVAILABLE, f"the state of {self._name} changes under its owner's hands")

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
            with elsewhere():
                async with self._lock:
                    if not self._sure:  # a write was under way, and has its answer now
                        await self._load()
            self._check()

    async def _load(self) -> int:
        return self._take(await self._backing.read(StateRead(self._name, self._incarnation)))

    def _take(self, content: StateContent) -> int:
        self._items = OrderedDict((key, msgspec.msgpack.decode(raw)) for key, raw, _ in content.items)
        self._written = {key: revision for key, _, revision in content.items}
        self.revision = content.revision
        self._sure = True
        return self.revision

    async def _write(self, epoch: int, puts: dict[str, bytes], deletes: tuple[str, ...]) -> bool:
        """False: not performed, and the copy has to be loaded anew."""
        replaces = {key: self._written.get(key, 0) for key in (*puts, *deletes)}
        write = StateWrite(self._name, self._incarnation, epoch, puts, deletes, replaces)
        try:
            self._sure = False  # until the answer: a cancelled write is one without an answer
            revision = await self._backing.write(write)
        except CallError as error:
            if error.code == CHANGED:
                return False
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
        for key in deletes:
            self._items.pop(key, None)
            self._written.pop(key, None)
        self._written.update(dict.fromkeys(puts, revision))
        return True
