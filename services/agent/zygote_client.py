"""The asyncio side of `zygote.sock`: asks for forks and receives the children's pidfds."""

from __future__ import annotations

import asyncio
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import msgspec

from infra.topology import AgentSpec
from services.agent.errors import CallError, Code, FrameError
from services.agent.wire import Failure, FrameDecoder, Reply, Request, encode, pack, unpack_as
from services.agent.zygote_messages import FDS_PER_MESSAGE, Exit, Forked, ForkRequest, Running

TIMEOUT_S: Final = 5.0
_READ_BYTES: Final = 64 << 10
Descriptors = list[int]  # spelled out here: inside the class `list` is a method
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Child:
    """A running agent. Who receives it owns `pidfd` and closes it. `forked_ns` is 0 when not known."""

    name: str
    pid: int
    incarnation: int
    forked_ns: int
    pidfd: int


class ZygoteClient:
    """One question after the other, each on a connection of its own: a zygote may be replaced at any time.

    Errors: `CallError`; `unavailable` when no zygote serves, `indeterminate` when it went while it was asked
    (asking `fork` again with the same incarnation is safe).
    """

    def __init__(self, path: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._path = path
        self._timeout_s = timeout_s

    async def fork(self, spec: AgentSpec, incarnation: int, env: dict[str, str]) -> Child:
        """Starts an agent; a repeat for an incarnation that runs answers with it."""
        forked, pidfds = await self._ask("fork", ForkRequest(spec, incarnation, env), Forked)
        if len(pidfds) != 1:
            _close(pidfds)
            raise CallError(Code.INDETERMINATE, f"zygote forked {spec.name} and passed no pidfd")
        return Child(spec.name, forked.pid, incarnation, forked.forked_ns, pidfds[0])

    async def list(self) -> list[Child]:
        """Every agent that runs on this host, adopted ones included."""
        running, pidfds = await self._ask("list", None, tuple[Running, ...])
        if len(running) != len(pidfds):
            _close(pidfds)
            raise CallError(
                Code.INDETERMINATE, f"zygote named {len(running)} agents, passed {len(pidfds)} pidfds"
            )
        return [
            Child(agent.name, agent.pid, agent.incarnation, 0, pidfd)
            for agent, pidfd in zip(running, pidfds, strict=True)
        ]

    async def exits(self) -> tuple[Exit, ...]:
        """The last of the zygote's children that ended, oldest first."""
        exits, pidfds = await self._ask("exits", None, tuple[Exit, ...])
        _close(pidfds)
        return exits

    async def _ask(self, method: str, body: object, answer: type[T]) -> tuple[T, Descriptors]:
        loop = asyncio.get_running_loop()
        pidfds: Descriptors = []
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.setblocking(False)
        sent = False
        try:
            async with asyncio.timeout(self._timeout_s):
                await loop.sock_connect(connection, str(self._path))
                frame = encode(Request(1, "zygote", method, int(self._timeout_s * 1000), pack(body)))
                sent = True
                await loop.sock_sendall(connection, frame)
                raw = await self._receive(connection, pidfds)
            return unpack_as(raw, answer), pidfds
        except (OSError, FrameError, TimeoutError) as error:
            _close(pidfds)
            code = Code.INDETERMINATE if sent else Code.UNAVAILABLE
            raise CallError(code, f"zygote: {method}: {str(error) or type(error).__name__}") from None
        except BaseException:
            _close(pidfds)
            raise
        finally:
            connection.close()

    async def _receive(self, connection: socket.socket, pidfds: Descriptors) -> msgspec.Raw:
        decoder = FrameDecoder()
        while True:
            await _readable(connection)
            try:
                data, fds, _, _ = socket.recv_fds(connection, _READ_BYTES, FDS_PER_MESSAGE)
            except BlockingIOError:
                continue
            for fd in fds:
                os.set_inheritable(fd, False)
            pidfds += fds
            if not data:
                raise ConnectionResetError("went before its answer")
            for message in decoder.feed(data):
                match message:
                    case Reply():
                        return message.body
                    case Failure():
                        raise CallError(message.code, message.message)
                    case Request():
                        raise FrameError("a server sent a request")


async def _readable(connection: socket.socket) -> None:
    # asyncio has no recvmsg; waiting is all that is needed of it.
    loop = asyncio.get_running_loop()
    ready = asyncio.Event()
    loop.add_reader(connection, ready.set)
    try:
        await ready.wait()
    finally:
        loop.remove_reader(connection)


def _close(pidfds: Descriptors) -> None:
    for pidfd in pidfds:
        os.close(pidfd)
    pidfds.clear()
