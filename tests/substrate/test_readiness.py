from __future__ import annotations

import os
import socket

import pytest

from infra.substrates.readiness import holder, listeners, telling_line


def listening(address: str) -> socket.socket:
    return socket.create_server((address, 0))


@pytest.mark.parametrize(
    ("bound", "asked", "seen"),
    [
        ("127.77.120.11", ("127.77.120.11",), True),
        ("127.77.120.11", ("10.1.1.1", "127.77.120.11"), True),
        ("127.77.120.11", ("127.77.120.12",), False),
        ("0.0.0.0", ("127.77.120.12",), True),
    ],
)
def test_sees_who_listens_where(bound: str, asked: tuple[str, ...], seen: bool) -> None:
    with listening(bound) as server:
        port = server.getsockname()[1]
        found = listeners(os.getpid(), port, asked)
        assert bool(found) is seen
        if seen:
            assert found == {os.fstat(server.fileno()).st_ino}
            who = holder(found)
            assert who is not None
            assert who[0] == os.getpid()
    assert not listeners(os.getpid(), port, asked)


def test_a_connection_is_no_listener() -> None:
    with listening("127.77.120.13") as server, socket.create_connection(server.getsockname()) as client:
        assert not listeners(os.getpid(), client.getsockname()[1], (client.getsockname()[0],))


@pytest.mark.parametrize(
    ("log", "line"),
    [
        ("", ""),
        ("starting\nserving\n", "serving"),
        ("starting\nbind: Address already in use\nbye\n", "bind: Address already in use"),
        (
            '{"level":"fatal","msg":"discovery failed","error":"no quorum","stack":"x"}',
            "discovery failed: no quorum",
        ),
        (
            "write: no space left on device\npanic: cannot save\ngo.uber.org/zap.(*Logger).Panic(0x1)",
            "write: no space left on device",
        ),
        ('{"level":"error"}', '{"level":"error"}'),
        ("[error]", "[error]"),
        ("x error " + "y" * 500, ("x error " + "y" * 500)[:300]),
    ],
)
def test_the_telling_line_of_a_log(log: str, line: str) -> None:
    assert telling_line(log) == line
