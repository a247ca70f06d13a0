"""The server behind the virtual address: sets of numbers in memory, copied to the other host.

`python -m benchmarks.peers.vip_server HOST PEER PORT`. keepalived moves an address and keeps no data, so
this is as much as a small service of its kind does by itself: a write is acknowledged when the peer has it
too, or when the peer does not answer; then the peer gets it later. It takes what the peer has when it starts.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys

PEER_S = 0.1
RETRY_S = 0.5
CATCH_UP_S, CATCH_UP_TRIES = 1.0, 5


class Replica:
    """One of two; `peer` is the other's address."""

    def __init__(self, host: str, peer: str, port: int) -> None:
        self._host, self._peer, self._port = host, peer, port
        self._sets: dict[str, set[int]] = {}
        self._link: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None
        self._uncopied: list[tuple[str, int]] = []
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
        if "copies" in question:
            copies = question["copies"]
            assert isinstance(copies, list)
            for client, n in copies:
                self._sets.setdefault(client, set()).add(n)
            return {"copied": len(copies)}
        client = str(question["client"])
        mine = self._sets.setdefault(client, set())
        if "add" not in question:
            return {"kept": sorted(mine)}
        n = question["add"]
        assert isinstance(n, int)
        mine.add(n)
        self._uncopied.append((client, n))
        await self._copy()
        return {"server": self._host}

    async def _copy(self) -> None:
        """Gives the peer what it has not confirmed yet, as far as it answers."""
        loop = asyncio.get_running_loop()
        async with self._lock:
            if not self._uncopied or (self._link is None and loop.time() < self._not_before):
                return
            copies = list(self._uncopied)
            try:
                async with asyncio.timeout(PEER_S):
                    if self._link is None:
                        self._link = await asyncio.open_connection(self._peer, self._port)
                    reader, writer = self._link
                    writer.write(json.dumps({"copies": copies}).encode() + b"\n")
                    if await reader.readline():
                        del self._uncopied[: len(copies)]
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
