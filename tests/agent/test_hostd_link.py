"""Registration with hostd: at the start, again after hostd came back, and the good-bye."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from services.agent.connection import FrameConnection, Scratch
from services.agent.errors import Code
from services.agent.hostd_link import HostdLink, registration
from services.agent.sockets import listen_unix
from services.agent.wire import Failure, Message, Reply, Request, encode, pack, unpack
from tests.agent.kit import run_folder, serving, until


class FakeHostd:
    """hostd's socket: keeps what it is told; refuses the first `refusals` requests."""

    def __init__(self, refusals: int = 0) -> None:
        self.told: list[tuple[str, dict[str, object]]] = []
        self.refusals = refusals
        self.connections: list[FrameConnection] = []

    @asynccontextmanager
    async def listening(self, run: Path) -> AsyncIterator[FakeHostd]:
        listener = await listen_unix(run / "hostd.sock", lambda: _Connection(self))
        try:
            yield self
        finally:
            listener.close()
            for connection in self.connections:
                connection.close()


class _Connection(FrameConnection):
    def __init__(self, hostd: FakeHostd) -> None:
        super().__init__(Scratch())
        self._hostd = hostd
        hostd.connections.append(self)

    def received(self, message: Message) -> None:
        assert isinstance(message, Request)
        if self._hostd.refusals > 0:
            self._hostd.refusals -= 1
            self.send(encode(Failure(message.id, Code.UNAVAILABLE, "not yet")))
            return
        self._hostd.told.append((message.method, unpack(message.body)))
        self.send(encode(Reply(message.id, pack(None))))


async def test_registers_when_hostd_comes_comes_back_and_goes() -> None:
    with run_folder() as run:
        async with serving(run, incarnation=3) as server:
            link = HostdLink(run / "hostd.sock", registration(server.describe(), 4711), Scratch())
            link.start()  # hostd is away
            await asyncio.sleep(0)
            async with FakeHostd().listening(run) as first:
                await asyncio.wait_for(link.registered.wait(), 20)
                ((method, body),) = first.told
                assert method == "register"
                assert (body["name"], body["incarnation"], body["pid"]) == ("worker", 3, 4711)
                assert set(body["idempotent"]) == {"quick", "work"}  # type: ignore[call-overload]
            await until(lambda: not link.registered.is_set())
            async with FakeHostd(refusals=2).listening(run) as second:
                await asyncio.wait_for(link.registered.wait(), 20)
                await link.stop()
                assert [method for method, _ in second.told] == ["register", "deregister"]
                assert second.told[1][1] == {"name": "worker", "incarnation": 3}


async def test_stops_although_hostd_is_away() -> None:
    with run_folder() as run:
        async with serving(run) as server:
            link = HostdLink(run / "hostd.sock", registration(server.describe(), 1), Scratch())
            link.start()
            await link.stop()
            assert not link.registered.is_set()
