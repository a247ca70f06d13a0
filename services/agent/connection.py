"""One connection that speaks frames, on asyncio: what clients, servers and the gateway share.

Bounds: a peer holds at most one unfinished frame here and has `FRAME_TIME_LIMIT_S` to finish it; a peer that
does not read makes us stop reading from it, and is cut off when `OUTBOUND_LIMIT_BYTES` wait for it or after
`STALL_TIME_LIMIT_S` without progress.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, cast

from services.agent.errors import FrameError
from services.agent.wire import FrameDecoder, Message

FRAME_TIME_LIMIT_S: Final = 10.0
STALL_TIME_LIMIT_S: Final = 10.0
OUTBOUND_LIMIT_BYTES: Final = 8 << 20
HIGH_WATER_BYTES: Final = 256 << 10
_SCRATCH_BYTES: Final = 64 << 10


class Scratch:
    """The receive buffer that all connections of one event loop share.

    Sound because a loop asks for the buffer, fills it and hands it over without running anything between,
    and the decoder copies what it keeps.
    """

    __slots__ = ("view",)

    def __init__(self, size_bytes: int = _SCRATCH_BYTES) -> None:
        self.view = memoryview(bytearray(size_bytes))


class FrameConnection(asyncio.BufferedProtocol):
    """Override `received` and `lost`; `send` frames made by `wire.encode`."""

    reads_while_stalled = False
    """True for the asking end: were both ends to stop reading, neither would ever go on."""

    def __init__(
        self,
        scratch: Scratch,
        *,
        frame_time_limit_s: float = FRAME_TIME_LIMIT_S,
        stall_time_limit_s: float = STALL_TIME_LIMIT_S,
        outbound_limit_bytes: int = OUTBOUND_LIMIT_BYTES,
    ) -> None:
        self._scratch = scratch.view
        self._decoder = FrameDecoder()
        self._frame_time_limit_s = frame_time_limit_s
        self._stall_time_limit_s = stall_time_limit_s
        self._outbound_limit_bytes = outbound_limit_bytes
        self._transport: asyncio.Transport | None = None
        self._frame_timer: asyncio.TimerHandle | None = None
        self._frames_done = 0
        self._stall_timer: asyncio.TimerHandle | None = None
        self._cause: Exception | None = None

    # To be overridden.

    def connected(self) -> None:
        """The connection stands."""

    def received(self, message: Message) -> None:
        """One message came."""
        raise NotImplementedError

    def lost(self, cause: Exception | None) -> None:
        """The connection is gone; `cause` is None after an orderly end."""

    def resumed(self) -> None:
        """The peer reads again: `writable` is True."""

    # For the users of a connection.

    @property
    def open(self) -> bool:
        """True while frames can be sent."""
        return self._transport is not None and not self._transport.is_closing()

    @property
    def writable(self) -> bool:
        """False while the peer reads too slowly: senders that can wait should."""
        return self.open and self._stall_timer is None

    @property
    def transport(self) -> asyncio.Transport:
        """The transport below; only while connected."""
        assert self._transport is not None
        return self._transport

    def send(self, frame: bytes) -> bool:
        """Queues one frame. False when it was certainly not delivered whole.

        That is: the connection is closed, was found closed by this very write, or is cut off here because the
        peer does not read.
        """
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        transport.write(frame)
        if transport.is_closing():
            return False  # asyncio's transports write at once, so this frame met the closed end
        if self._stall_timer is not None and transport.get_write_buffer_size() > self._outbound_limit_bytes:
            self.abort(ConnectionAbortedError(f"peer left {self._outbound_limit_bytes} bytes unread"))
            return False
        return True

    def close(self) -> None:
        """Sends what is queued, then closes."""
        if self._transport is not None:
            self._transport.close()

    def abort(self, cause: Exception) -> None:
        """Closes at once, dropping what is queued."""
        if self._transport is not None and self._cause is None:
            self._cause = cause
            self._transport.abort()

    # asyncio's side.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(high=HIGH_WATER_BYTES)
        self.connected()

    def connection_lost(self, exc: Exception | None) -> None:
        for timer in (self._frame_timer, self._stall_timer):
            if timer is not None:
                timer.cancel()
        self._frame_timer = self._stall_timer = None
        self._transport = None
        self.lost(self._cause or exc)

    def get_buffer(self, sizehint: int) -> memoryview:
        return self._scratch

    def buffer_updated(self, nbytes: int) -> None:
        try:
            messages = self._decoder.feed(self._scratch[:nbytes])
        except FrameError as error:
            self.abort(error)
            return
        for message in messages:
            self.received(message)
        if self._decoder.pending_bytes:
            self._frames_done += len(messages)
            if self._frame_timer is None:
                self._watch_frame()

    def eof_received(self) -> bool:
        return False

    def pause_writing(self) -> None:
        transport = self.transport
        if transport.is_reading() and not self.reads_while_stalled:
            transport.pause_reading()
        self._watch_stall(transport.get_write_buffer_size())

    def resume_writing(self) -> None:
        if self._stall_timer is not None:
            self._stall_timer.cancel()
            self._stall_timer = None
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
            self.resumed()

    def _watch_frame(self) -> None:
        loop = asyncio.get_running_loop()
        self._frame_timer = loop.call_later(self._frame_time_limit_s, self._check_frame, self._frames_done)

    def _check_frame(self, frames_done: int) -> None:
        self._frame_timer = None
        if not self._decoder.pending_bytes or not self.open:
            return
        if self._frames_done == frames_done:
            self.abort(FrameError(f"frame not finished within {self._frame_time_limit_s:g} s"))
        else:
            self._watch_frame()

    def _watch_stall(self, queued_bytes: int) -> None:
        loop = asyncio.get_running_loop()
        self._stall_timer = loop.call_later(self._stall_time_limit_s, self._check_stall, queued_bytes)

    def _check_stall(self, queued_bytes: int) -> None:
        if not self.open:
            return
        now_queued = self.transport.get_write_buffer_size()
        if now_queued >= queued_bytes:
            self.abort(TimeoutError(f"peer read nothing for {self._stall_time_limit_s:g} s"))
        else:
            self._watch_stall(now_queued)


class Deadlines:
    """Many deadlines, one timer: expires the keys of a table whose time has come.

    `expire(key)` is called once per key. Adding a key whose deadline is not the earliest costs a dictionary
    entry, which is what makes a deadline on every call affordable.
    """

    __slots__ = ("_armed_at", "_at", "_expire", "_loop", "_timer")

    def __init__(self, loop: asyncio.AbstractEventLoop, expire: Callable[[Any], None]) -> None:
        self._loop = loop
        self._expire = expire
        self._at: dict[Any, float] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._armed_at = 0.0

    def add(self, key: Any, at: float) -> None:
        """`key` expires when the loop's clock reaches `at` (seconds)."""
        self._at[key] = at
        if self._timer is None:
            self._arm(at)
        elif at < self._armed_at:
            self._timer.cancel()
            self._arm(at)

    def discard(self, key: Any) -> None:
        """`key` is done in time."""
        self._at.pop(key, None)

    def close(self) -> None:
        """Forgets everything."""
        self._at.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, at: float) -> None:
        self._armed_at = at
        self._timer = self._loop.call_at(at, self._sweep)

    def _sweep(self) -> None:
        self._timer = None
        now = self._loop.time()
        due = [key for key, at in self._at.items() if at <= now]
        for key in due:
            del self._at[key]
        if self._at:
            self._arm(min(self._at.values()))
        for key in due:
            self._expire(key)
