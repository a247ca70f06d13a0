"""The caller's end of one connection: many requests in flight, each with its deadline."""

from __future__ import annotations

import asyncio
import select
from pathlib import Path
from typing import Final

import msgspec

from services.agent.connection import Deadlines, FrameConnection, Scratch
from services.agent.errors import CallError, Code
from services.agent.wire import NOTICE_ID, Failure, Message, Reply, Request, encode

MAX_IN_FLIGHT: Final = 4096
"""As many as a gateway has on the way at all: its one link to a peer refuses none of them, also when the
crowds of many agents that were handed over at once wait for their answers."""


class Channel(FrameConnection):
    """Sends requests and matches their replies. Lost with calls in flight: they end `indeterminate`."""

    reads_while_stalled = True

    def __init__(self, scratch: Scratch, loop: asyncio.AbstractEventLoop, *, peer: str) -> None:
        super().__init__(scratch)
        self.peer = peer
        self._loop = loop
        self._waiting: dict[int, asyncio.Future[msgspec.Raw]] = {}
        self._deadlines = Deadlines(loop, self._expire)
        self._next_id = 0
        self._queued = 0
        self._hung_up: select.poll | None = None
        self._resumed = asyncio.Event()
        self._retiring = False
        self.answers = 0
        """Replies and failures received so far."""
        self.closed = loop.create_future()
        """Done when the connection is gone."""

    @property
    def in_flight(self) -> int:
        """Requests without an answer."""
        return len(self._waiting)

    @property
    def usable(self) -> bool:
        """True while new requests may be sent: open, and neither end is about to close it."""
        return self.open and not self._retiring

    def connected(self) -> None:
        transport = self.transport
        if transport.get_extra_info("sslcontext") is None:
            # Not every loop tells by the write itself that the other end is closed; ask before an idle
            # connection is used, so that what was not delivered is called so.
            self._hung_up = select.poll()
            self._hung_up.register(transport.get_extra_info("socket").fileno(), select.POLLRDHUP)

    async def request(self, agent: str, method: str, body: msgspec.Raw, *, timeout_s: float) -> msgspec.Raw:
        """The reply's body. Raises `CallError`: `unavailable` only when nothing was sent."""
        if self._transport is None or self._retiring:
            raise CallError(Code.UNAVAILABLE, f"no connection to {self.peer}")
        if not self._waiting and self._hung_up is not None and self._hung_up.poll(0):
            self.close()
            raise CallError(Code.UNAVAILABLE, f"{self.peer} has closed the connection")
        if len(self._waiting) + self._queued >= MAX_IN_FLIGHT:
            raise CallError(Code.OVERLOADED, f"{len(self._waiting)} calls to {self.peer} are in flight")
        due = self._loop.time() + timeout_s
        if self._stall_timer is not None:
            await self._wait_writable(timeout_s)
            timeout_s = max(0.001, due - self._loop.time())
        self._next_id = number = self._next_id + 1
        frame = encode(Request(number, agent, method, max(1, int(timeout_s * 1000)), body))
        waiter: asyncio.Future[msgspec.Raw] = self._loop.create_future()
        self._waiting[number] = waiter
        self._deadlines.add(number, due)
        try:
            if not self.send(frame):
                raise CallError(Code.UNAVAILABLE, f"{self.peer} has closed the connection")
            return await waiter
        finally:
            self._waiting.pop(number, None)
            self._deadlines.discard(number)
            self._close_if_done()

    async def _wait_writable(self, timeout_s: float) -> None:
        self._queued += 1
        try:
            async with asyncio.timeout(timeout_s):
                while not self.writable and self.open:
                    self._resumed.clear()
                    await self._resumed.wait()
        except TimeoutError:
            raise CallError(Code.UNAVAILABLE, f"{self.peer} does not read") from None
        finally:
            self._queued -= 1
        if not self.open:
            raise CallError(Code.UNAVAILABLE, f"no connection to {self.peer}")

    def resumed(self) -> None:
        self._resumed.set()

    def close_when_idle(self) -> None:
        """Closes as soon as the last request in flight has its answer."""
        self._retiring = True
        self._close_if_done()

    def _close_if_done(self) -> None:
        if self._retiring and not self._waiting:
            self.close()

    def received(self, message: Message) -> None:
        if isinstance(message, Request):
            self.abort(ConnectionAbortedError("a server sent a request"))
            return
        if message.id == NOTICE_ID:
            self.close_when_idle()
            return
        self.answers += 1
        waiter = self._waiting.pop(message.id, None)
        if waiter is None or waiter.done():
            return  # its caller gave up before
        match message:
            case Reply():
                waiter.set_result(message.body)
            case Failure():
                waiter.set_exception(CallError(message.code, message.message))

    def lost(self, cause: Exception | None) -> None:
        self._hung_up = None
        reason = f": {cause}" if cause is not None else ""
        for waiter in self._waiting.values():
            if not waiter.done():
                error = CallError(Code.INDETERMINATE, f"{self.peer} was lost before its answer{reason}")
                waiter.set_exception(error)
        self._waiting.clear()
        self._resumed.set()
        self._deadlines.close()
        if not self.closed.done():
            self.closed.set_result(None)

    def _expire(self, number: int) -> None:
        waiter = self._waiting.pop(number, None)
        if waiter is not None and not waiter.done():
            waiter.set_exception(CallError(Code.DEADLINE, f"no answer from {self.peer} in time"))


async def open_unix(path: Path, scratch: Scratch, *, timeout_s: float) -> Channel:
    """A channel to the server on `path`. Raises `CallError` `unavailable`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(timeout_s):
            _, channel = await loop.create_unix_connection(
                lambda: Channel(scratch, loop, peer=path.name), str(path)
            )
    except OSError as error:  # TimeoutError is one
        reason = error.strerror or type(error).__name__
        raise CallError(Code.UNAVAILABLE, f"cannot connect to {path.name}: {reason}") from None
    return channel
