"""A client on a host: `python -m benchmarks.peers.client JSON`, told by one JSON argument what to do.

Writes a line per operation to standard output and ends when its input does. It runs under the interpreter
of the system that it uses, so it imports nothing but the standard library and that system's register.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sys
import time
from collections.abc import Mapping
from typing import Any

from benchmarks.peers.registers import OPERATION_S, Register, open_register

PERIOD_S = 0.025
READ_LIMIT_S = 30.0
READ_S = 5.0


def now_ns() -> int:
    """CLOCK_BOOTTIME, which all hosts of this machine share."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


async def write_for_ever(register: Register, client: str, offset_s: float) -> None:
    """A write every PERIOD_S; while one is waited for, those that would have been due are left out."""
    loop = asyncio.get_running_loop()
    begun, n = loop.time() + offset_s, 0
    due = begun
    while True:
        await asyncio.sleep(max(0.0, due - loop.time()))
        n += 1
        server, error, invoked_ns = None, "", now_ns()
        try:
            async with asyncio.timeout(OPERATION_S):
                server = await register.add(client, n)
        except Exception as problem:  # whatever a system's library raises: it was not acknowledged
            error = f"{type(problem).__name__}: {problem}"[:200]
        ended_ns = now_ns()
        _say(
            client=client,
            n=n,
            invoked_ns=invoked_ns,
            ended_ns=ended_ns,
            ok=server and True,
            server=server,
            error=error,
        )
        if server is None:
            with contextlib.suppress(Exception):
                async with asyncio.timeout(OPERATION_S):
                    await register.drop()
        due = max(due + PERIOD_S, begun + PERIOD_S * int((loop.time() - begun) / PERIOD_S))


async def read_all(register: Register, clients: list[str]) -> None:
    """Says once for every client what the system holds. Tries again until it answers."""
    async with asyncio.timeout(READ_LIMIT_S):
        for client in clients:
            while True:
                try:
                    async with asyncio.timeout(READ_S):
                        kept = await register.kept(client)
                    break
                except Exception:  # as above
                    with contextlib.suppress(Exception):
                        await register.drop()
                    await asyncio.sleep(0.1)
            _say(client=client, kept=sorted(kept))


async def until_end_of_input() -> None:
    """Returns when standard input is closed, by our parent or by its end."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    await reader.read()


async def run(order: Mapping[str, Any]) -> None:
    """What `order` says: `{"system", "settings", "client", "offset_s"}`, or `"read"`: a list of clients."""
    register = open_register(order["system"], order["settings"])
    if "read" in order:
        await read_all(register, order["read"])
        return
    writing = asyncio.create_task(write_for_ever(register, order["client"], order["offset_s"]))
    ending = asyncio.create_task(until_end_of_input())
    await asyncio.wait({writing, ending}, return_when=asyncio.FIRST_COMPLETED)
    if writing.done():
        writing.result()


def _say(**line: object) -> None:
    sys.stdout.write(json.dumps(line) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(run(json.loads(sys.argv[1])))
    sys.stdout.flush()
    # Connections to dead hosts may hold up an orderly end, and there is nothing left to lose.
    import os

    os._exit(0)
