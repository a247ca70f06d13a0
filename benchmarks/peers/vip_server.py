"""The server behind the virtual address: sets of numbers in memory, copied to the other host.

`python -m benchmarks.peers.vip_server HOST PEER PORT`. keepalived moves an address and keeps no data, so
this is as much as a small service of its kind does by itself: a write is acknowledged when the peer has it
too, or when the peer does not answer. It takes what the peer has when it starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

PEER_S = 0.05
RETRY_S = 0.5
CATCH_UP_S, CATCH_UP_TRIES = 1.0, 5


class Replica:
    """One of two; `peer` is the other's address."""

    def __init__(self, host: str, peer: str, port: int) -> None:
        self._host, self._peer, self._port = host, peer, port
        self._sets: dict[str, set[int]] = {}
        self._link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._lock = asyncio.Lock()
        self._not_before = 0.0

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, of a client or of the peer."""
        with contextlib.suppress(ConnectionError, json.JSONDecodeError):
            while line := await reader.readline():
                writer.write(json.dumps(await self._answer(json.loads(line))).encode() + b"\n")
                await writer.drain()
        writer.close()

    async def catch_up(self) -> None:
        """Takes over what the peer has; one that refuses, or does not answer for long, has nothing for us."""
        for _ in range(CATCH_UP_TRIES):
            try:
                async with asyncio.timeout(CATCH_UP_S):
                    reader, writer = await asyncio.open_connection(self._peer, self._port, limit=1 << 26)
                    writer.write(b'{"all": true}\n')
                    answer = json.loads(await reader.readline())
                    writer.close()
            except (ConnectionRefusedError, ValueError):
                return
            except OSError:  # TimeoutError is one
                continue
            for client, numbers in answer["all"].items():
                self._sets.setdefault(client, set()).update(numbers)
            return

    async def _answer(self, question: dict[str, object]) -> dict[str, object]:
        if "all" in question:
            return {"all": {client: sorted(numbers) for client, numbers in self._sets.items()}}
        client = str(question["client"])
        mine = self._sets.setdefault(client, set())
        n = question.get("copy", question.get("add"))
        if n is None:
            return {"kept": sorted(mine)}
        assert isinstance(n, int)
        mine.add(n)
        if "add" in question:
            await self._copy({"client": client, "copy": n})
        return {"server": self._host}

    async def _copy(self, question: dict[str, object]) -> None:
        """Gives the peer a number, as far as it answers."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if self._link is None and loop.time() < self._not_before:
                return
            try:
                async with asyncio.timeout(PEER_S):
                    if self._link is None:
                        self._link = await asyncio.open_connection(self._peer, self._port)
                    reader, writer = self._link
                    writer.write(json.dumps(question).encode() + b"\n")
                    if await reader.readline():
                        return
            except OSError:  # gone, or too slow
                pass
            if self._link is not None:
                self._link[1].transport.abort()
                self._link = None
            self._not_before = loop.time() + RETRY_S


async def main(host: str, peer: str, port: int) -> None:
    """Serves on every address of the host: the virtual one comes and goes."""
    replica = Replica(host, peer, port)
    await replica.catch_up()
    server = await asyncio.start_server(replica.serve, "0.0.0.0", port, limit=1 << 26)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
