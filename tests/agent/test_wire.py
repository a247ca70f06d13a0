"""Frames: a table, a naive oracle, and any bytes in any pieces."""

from __future__ import annotations

import tracemalloc
from itertools import pairwise

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.agent.errors import DEFINITE, CallError, Code, FrameError
from services.agent.wire import (
    MAX_FRAME_BYTES,
    Failure,
    FrameDecoder,
    Message,
    Reply,
    Request,
    encode,
    pack,
    unpack,
    unpack_as,
)

bodies = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.text(max_size=40)
    | st.binary(max_size=40),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=10,
)
ids = st.integers(0, 2**63 - 1)
messages = st.one_of(
    st.builds(
        Request, ids, st.text(max_size=70), st.text(max_size=70), st.integers(-1, 2**40), bodies.map(pack)
    ),
    st.builds(Reply, ids, bodies.map(pack)),
    st.builds(Failure, ids, st.sampled_from(list(Code)).map(str), st.text(max_size=100)),
)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    """`data` cut at `cuts` (taken modulo its length)."""
    marks = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(marks)]


def naive(data: bytes) -> tuple[list[Message], bool]:
    """The oracle: the whole stream at once. Messages before the first fault, and whether there is one."""
    found: list[Message] = []
    while len(data) >= 4:
        size = int.from_bytes(data[:4], "big")
        if size == 0 or size > MAX_FRAME_BYTES:
            return found, True
        if len(data) < 4 + size:
            break
        try:
            found.append(msgspec.msgpack.decode(data[4 : 4 + size], type=Message))
        except (ValueError, RecursionError):
            return found, True
        data = data[4 + size :]
    return found, False


def plain(message: Message) -> bytes:
    return msgspec.msgpack.encode(message)


@given(st.lists(messages, max_size=8), st.lists(st.integers(0, 10**6), max_size=12))
def test_messages_survive_any_chunking(sent: list[Message], cuts: list[int]) -> None:
    decoder = FrameDecoder()
    got = [one for piece in pieces(b"".join(map(encode, sent)), cuts) for one in decoder.feed(piece)]
    assert [plain(one) for one in got] == [plain(one) for one in sent]
    assert decoder.pending_bytes == 0


@given(
    st.lists(st.binary(max_size=60) | messages.map(encode), max_size=6).map(b"".join),
    st.lists(st.integers(0, 10**6), max_size=12),
)
@example(b"\x00\x00\x00\x00", [])
@example(b"\xff\xff\xff\xff", [2])
@example(b"\x00\x00\x00\x05\x93\x01\x01\xa1\xff", [])  # a text that is no UTF-8
@example(b"\x00\x00\x00\x03\x93\x01\x01", [])  # a message cut short inside its frame
@example((4).to_bytes(4, "big") + b"\x93\x01\x01\xc0" + b"\x00\x10\x00\x01", [5])
@example((3 + 5000).to_bytes(4, "big") + b"\x93\x01\x01" + b"\x91" * 4999 + b"\xc0", [])  # nested deeply
def test_any_bytes_give_messages_or_frame_error(data: bytes, cuts: list[int]) -> None:
    expected, faulty = naive(data)
    decoder = FrameDecoder()
    got: list[Message] = []
    failed = False
    fed = 0
    for piece in pieces(data, cuts):
        fed += len(piece)
        try:
            got += decoder.feed(piece)
        except FrameError:
            failed = True
            break
        assert decoder.pending_bytes <= fed
    assert failed == faulty
    if not failed:
        assert [plain(one) for one in got] == [plain(one) for one in expected]
    else:
        assert decoder.pending_bytes == 0
        with pytest.raises(FrameError):
            decoder.feed(b"")


@pytest.mark.parametrize("size", [0, MAX_FRAME_BYTES + 1, 2**31, 2**32 - 1])
def test_a_wrong_length_is_refused_by_its_four_bytes(size: int) -> None:
    with pytest.raises(FrameError, match=str(size)):
        FrameDecoder().feed(size.to_bytes(4, "big"))


def test_a_lying_length_allocates_nothing() -> None:
    decoders = [FrameDecoder() for _ in range(200)]
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        for decoder in decoders:
            decoder.feed(MAX_FRAME_BYTES.to_bytes(4, "big") + b"\x93")
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert max(after, peak) - before < 200 * 1024  # not 200 MiB


def test_a_lying_array_in_a_body_is_a_bad_request() -> None:
    for lie in (b"\xdd\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff", b"\xc6\xff\xff\xff\xff"):
        with pytest.raises(CallError) as caught:
            unpack(msgspec.Raw(lie))
        assert caught.value.code == Code.BAD_REQUEST


def test_bodies_outlive_the_buffer_they_came_in() -> None:
    buffer = bytearray(encode(Reply(7, pack({"text": "x" * 500}))))
    view = memoryview(buffer)
    (message,) = FrameDecoder().feed(view)
    buffer[:] = bytes(len(buffer))
    assert isinstance(message, Reply)
    assert unpack(message.body) == {"text": "x" * 500}


def test_the_largest_frame_passes_and_the_next_is_too_large() -> None:
    overhead = len(encode(Reply(1, pack(bytes(MAX_FRAME_BYTES // 2))))) - 4 - MAX_FRAME_BYTES // 2
    frame = encode(Reply(1, pack(bytes(MAX_FRAME_BYTES - overhead))))
    assert len(frame) == 4 + MAX_FRAME_BYTES
    assert len(FrameDecoder().feed(frame)) == 1
    with pytest.raises(CallError) as caught:
        encode(Reply(1, pack(bytes(MAX_FRAME_BYTES - overhead + 1))))
    assert caught.value.code == Code.TOO_LARGE


@pytest.mark.parametrize(
    ("code", "definite"),
    [(code, code not in (Code.DEADLINE, Code.INDETERMINATE)) for code in Code] + [("of-the-future", False)],
)
def test_which_codes_are_definite(code: str, definite: bool) -> None:
    assert CallError(code, "x").definite is definite
    assert (code in DEFINITE) is definite


def test_a_wrong_field_is_named_by_its_path() -> None:
    with pytest.raises(CallError, match=r"\$\[1\]"):
        unpack_as(pack([1, "two"]), list[int])


def test_what_msgpack_cannot_say_is_a_bad_request() -> None:
    for body in (object(), 2**70, {object(): 1}):
        with pytest.raises(CallError) as caught:
            pack(body)
        assert caught.value.code == Code.BAD_REQUEST
