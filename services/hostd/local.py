"""`hostd.sock`: agents of this host register, and ask when their snapshot cannot be read."""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from services.agent.connection import FrameConnection, Scratch
from services.agent.errors import CallError, Code
from services.agent.hostd_link import Deregistration, Registration
from services.agent.wire import Failure, Message, Reply, Request, encode, pack, unpack_as
from services.hostd.agents import Supervisor
from services.hostd.view import View
from services.registry.model import Instance

MAX_CONNECTIONS = 4096
MAX_CALLS = 64  # of one connection at once


class ResolveRequest(msgspec.Struct, frozen=True):
    """Body of `resolve`."""

    name: str


class Listing(msgspec.Struct, frozen=True):
    """Answer of `list`."""

    agents: list[Instance]
    revision: int
    stale: bool


Handler = Callable[[msgspec.Raw, int], Awaitable[object]]


class LocalServer:
    """Answers framed requests; a caller's mistake costs that caller its connection at most."""

    def __init__(
        self, path: Path, supervisor: Supervisor, view: View, metrics: Callable[[], Awaitable[str]]
    ) -> None:
        self._path = path
        self._supervisor = supervisor
        self._view = view
        self._metrics = metrics
        self._server: asyncio.Server | None = None
        self.scratch = Scratch()
        self.connections: set[FrameConnection] = set()
        self._handlers: dict[str, Handler] = {
            "_ping": self._ping,
            "_metrics": self._answer_metrics,
            "register": self._register,
            "deregister": self._deregister,
            "resolve": self._resolve,
            "list": self._list,
        }

    def add(self, method: str, handler: Handler) -> None:
        """One more method. The handler gets the body and the caller's process id."""
        self._handlers[method] = handler

    async def start(self) -> None:
        """Listens; a predecessor's socket is replaced without a gap."""
        temporary = self._path.with_name(f".hostd.{os.getpid():x}")
        temporary.unlink(missing_ok=True)
        self._server = await asyncio.get_running_loop().create_unix_server(
            lambda: _LocalConnection(self), str(temporary), backlog=1024
        )
        temporary.rename(self._path)

    async def stop(self) -> None:
        """Closes everything; agents register again with the next hostd."""
        if self._server is not None:
            self._server.close()
        for connection in list(self.connections):
            connection.close()

    async def answer(self, request: Request, pid: int) -> bytes:
        """The frame that answers a request of the process `pid`."""
        handler = self._handlers.get(request.method)
        try:
            if handler is None:
                raise CallError(Code.NO_METHOD, f"hostd has no method {request.method[:64]}")
            return encode(Reply(request.id, pack(await handler(request.body, pid))))
        except CallError as error:
            return encode(Failure(request.id, error.code, error.message))

    async def _ping(self, body: msgspec.Raw, pid: int) -> object:
        return {"incarnation": os.getpid(), "state": "up"}

    async def _answer_metrics(self, body: msgspec.Raw, pid: int) -> object:
        return await self._metrics()

    async def _register(self, body: msgspec.Raw, pid: int) -> object:
        await self._supervisor.register(unpack_as(body, Registration), pid)
        return None

    async def _deregister(self, body: msgspec.Raw, pid: int) -> object:
        farewell = unpack_as(body, Deregistration)
        # It comes on a connection of its own, from the same process.
        self._supervisor.deregister(farewell.name, farewell.incarnation, pid)
        return None

    async def _resolve(self, body: msgspec.Raw, pid: int) -> object:
        name = unpack_as(body, ResolveRequest).name
        try:
            return self._view.resolve(name)
        except KeyError:
            raise CallError(Code.NOT_FOUND, f"no agent {name[:64]!r} is registered") from None

    async def _list(self, body: msgspec.Raw, pid: int) -> object:
        return Listing(self._view.instances(), self._view.revision, self._view.stale)


class _LocalConnection(FrameConnection):
    def __init__(self, server: LocalServer) -> None:
        super().__init__(server.scratch)
        self._server = server
        self._pid = 0
        self._calls: set[asyncio.Task[None]] = set()

    def connected(self) -> None:
        if len(self._server.connections) >= MAX_CONNECTIONS:
            self.abort(ConnectionAbortedError(f"more than {MAX_CONNECTIONS} connections"))
            return
        self._server.connections.add(self)
        peer = self.transport.get_extra_info("socket")
        credentials = peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        self._pid = struct.unpack("3i", credentials)[0]

    def received(self, message: Message) -> None:
        if not isinstance(message, Request):
            self.abort(ConnectionAbortedError("a peer sent a reply to a server"))
        elif len(self._calls) >= MAX_CALLS:
            text = f"{MAX_CALLS} requests of this connection are in flight"
            self.send(encode(Failure(message.id, Code.OVERLOADED, text)))
        else:
            task = asyncio.get_running_loop().create_task(self._answer(message))
            self._calls.add(task)
            task.add_done_callback(self._calls.discard)

    def lost(self, cause: Exception | None) -> None:
        self._server.connections.discard(self)

    async def _answer(self, request: Request) -> None:
        frame = await self._server.answer(request, self._pid)
        self.send(frame)
