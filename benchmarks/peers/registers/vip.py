"""Behind a virtual address: one TCP connection to it, lines of JSON; a lost connection is made anew."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any


class VipRegister:
    """Settings: `address`, `port`."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._address, self._port = settings["address"], int(settings["port"])
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def add(self, client: str, n: int) -> str:
        return str((await self._ask({"client": client, "add": n}))["server"])

    async def kept(self, client: str) -> set[int]:
        return set((await self._ask({"client": client}))["kept"])

    async def drop(self) -> None:
        if self._streams is not None:
            self._streams[1].transport.abort()
            self._streams = None

    async def _ask(self, question: dict[str, object]) -> Any:
        if self._streams is None:
            self._streams = await asyncio.open_connection(self._address, self._port, limit=1 << 24)
        reader, writer = self._streams
        writer.write(json.dumps(question).encode() + b"\n")
        line = await reader.readline()
        if not line.endswith(b"\n"):
            raise ConnectionError("the server closed the connection")
        return json.loads(line)
