"""Frames and messages between agents, hostd, zygote and gateway (docs/contracts.md, Wire).

A frame is a 4-byte big-endian length and that many bytes of msgpack. `FrameDecoder` is free of sockets: any
bytes in any pieces give messages or one `FrameError`, and it never holds more than it was given.
"""

from __future__ import annotations

from typing import Any, Final, TypeVar

import msgspec

from services.agent.errors import CallError, Code, FrameError

MAX_FRAME_BYTES: Final = 1 << 20
HEADER_BYTES: Final = 4

T = TypeVar("T")


class Request(msgspec.Struct, array_like=True, tag=0, frozen=True, gc=False):
    """Asks `agent` to run `method`. `deadline_ms` is what is left of the caller's budget when it is sent."""

    id: int
    agent: str
    method: str
    deadline_ms: int
    body: msgspec.Raw


class Reply(msgspec.Struct, array_like=True, tag=1, frozen=True, gc=False):
    """What the handler returned."""

    id: int
    body: msgspec.Raw


class Failure(msgspec.Struct, array_like=True, tag=2, frozen=True, gc=False):
    """Why there is no reply: a `Code` and one line for people."""

    id: int
    code: str
    message: str


Message = Request | Reply | Failure

NOTICE_ID: Final = 0
"""No request has this id: a `Failure` `draining` with it says that the server goes (see `goodbye`)."""

_encoder: Final = msgspec.msgpack.Encoder()
_decoder: Final[msgspec.msgpack.Decoder[Message]] = msgspec.msgpack.Decoder(Message)
_any_decoder: Final = msgspec.msgpack.Decoder()

NIL: Final = msgspec.Raw(_encoder.encode(None))


def pack(body: object) -> msgspec.Raw:
    """The body of a message. Raises `CallError` `bad-request` for what msgpack cannot say."""
    if body is None:
        return NIL
    try:
        return msgspec.Raw(_encoder.encode(body))
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise CallError(Code.BAD_REQUEST, f"body cannot be sent: {error}") from None


def unpack(body: msgspec.Raw) -> Any:
    """The body as builtins. Raises `CallError` `bad-request` when it is no msgpack."""
    try:
        return _any_decoder.decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError, MemoryError, TypeError) as error:
        raise CallError(Code.BAD_REQUEST, f"body cannot be read: {error}") from None


def unpack_as(body: msgspec.Raw, type_: type[T]) -> T:
    """The body as `type_`. Raises `CallError` `bad-request` naming the path of the first wrong field."""
    try:
        return msgspec.msgpack.decode(body, type=type_)
    except (msgspec.DecodeError, ValueError, RecursionError, MemoryError, TypeError) as error:
        raise CallError(Code.BAD_REQUEST, f"body cannot be read: {error}") from None


def encode(message: Message) -> bytes:
    """The frame of a message. Raises `CallError` `too-large` when it exceeds `MAX_FRAME_BYTES`."""
    payload = _encoder.encode(message)
    size = len(payload)
    if size > MAX_FRAME_BYTES:
        raise CallError(Code.TOO_LARGE, f"message of {size} bytes, at most {MAX_FRAME_BYTES} are allowed")
    return size.to_bytes(HEADER_BYTES, "big") + payload


def goodbye(who: str) -> bytes:
    """The frame by which a server asks its callers to send nothing more and to close when they are done."""
    return encode(Failure(NOTICE_ID, "draining", f"{who} stops"))


class FrameDecoder:
    """Turns a stream of bytes into messages. After a `FrameError` it refuses everything."""

    __slots__ = ("_broken", "_pending")

    def __init__(self) -> None:
        self._pending = bytearray()
        self._broken = False

    @property
    def pending_bytes(self) -> int:
        """Bytes of a frame that has begun and is not complete: what this decoder holds."""
        return len(self._pending)

    def feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        """The messages completed by `data`, in order. Raises `FrameError`."""
        if self._broken:
            raise FrameError("connection already failed")
        try:
            return self._feed(data)
        except FrameError:
            self._broken = True
            self._pending = bytearray()
            raise

    def _feed(self, data: bytes | bytearray | memoryview) -> list[Message]:
        pending = self._pending
        whole = len(data)
        if (
            not pending
            and HEADER_BYTES < whole <= HEADER_BYTES + MAX_FRAME_BYTES
            and int.from_bytes(data[:HEADER_BYTES], "big") == whole - HEADER_BYTES
        ):
            return [_decode(bytes(data[HEADER_BYTES:]))]  # what nearly every read brings: exactly one frame
        if pending:
            pending += data
            source: bytes | bytearray | memoryview = pending
        else:
            source = data
        messages: list[Message] = []
        start, end = 0, len(source)
        with memoryview(source) as view:
            while end - start >= HEADER_BYTES:
                size = int.from_bytes(view[start : start + HEADER_BYTES], "big")
                if not 0 < size <= MAX_FRAME_BYTES:
                    raise FrameError(f"length {size}, must be 1 to {MAX_FRAME_BYTES}")
                stop = start + HEADER_BYTES + size
                if stop > end:
                    break
                messages.append(_decode(bytes(view[start + HEADER_BYTES : stop])))
                start = stop
            rest = None if source is pending else bytes(view[start:])
        if rest is None:
            del pending[:start]
        elif rest:
            self._pending = bytearray(rest)
        return messages


def _decode(payload: bytes) -> Message:
    # The body stays a view of `payload`, which is why the caller hands over a copy of its own.
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, ValueError, RecursionError) as error:
        raise FrameError(f"undecodable message: {error}") from None
