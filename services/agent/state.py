"""What an agent remembers between calls, behind an interface that a store on the host can take over."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final, Protocol

MAX_ITEMS: Final = 1024

Value = None | bool | int | float | str | bytes | list["Value"] | dict[str, "Value"]


class State(Protocol):
    """Keyed values of one agent. Asynchronous because a store may stand behind it."""

    async def get(self, key: str) -> Value:
        """The value, or None when there is none."""

    async def put(self, key: str, value: Value) -> None:
        """Keeps `value`; may forget the least recently used one for it."""

    async def delete(self, key: str) -> bool:
        """True when there was a value."""

    async def keys(self, prefix: str = "") -> list[str]:
        """The keys that start with `prefix`, least recently used first."""

    def __len__(self) -> int:
        """Number of values held."""
        ...


class MemoryState:
    """State in this process: bounded, least recently used out first, lost with the process."""

    def __init__(self, max_items: int = MAX_ITEMS) -> None:
        if max_items < 1:
            raise ValueError("max_items must be at least 1")
        self._max_items = max_items
        self._items: OrderedDict[str, Value] = OrderedDict()

    async def get(self, key: str) -> Value:
        if key not in self._items:
            return None
        self._items.move_to_end(key)
        return self._items[key]

    async def put(self, key: str, value: Value) -> None:
        self._items[key] = value
        self._items.move_to_end(key)
        if len(self._items) > self._max_items:
            self._items.popitem(last=False)

    async def delete(self, key: str) -> bool:
        return self._items.pop(key, None) is not None

    async def keys(self, prefix: str = "") -> list[str]:
        return [key for key in self._items if key.startswith(prefix)]

    def __len__(self) -> int:
        return len(self._items)
