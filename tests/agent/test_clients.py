"""Both clients by the same table: what is repeated, what is not, and where calls go."""

from __future__ import annotations

import asyncio
import socket
import sys
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from services.agent import repeats
from services.agent.blocking import BlockingClient
from services.agent.client import Client
from services.agent.errors import CallError, Code
from services.agent.wire import Failure, FrameDecoder, Reply, Request, encode, pack, unpack
from services.registry.model import InstanceState, Resolution, Role, Transport
from tests.agent.kit import FakeView, Worker, instance, run_folder, serving, until

Call = Callable[..., Awaitable[object]]


@dataclass
class Host:
    """A run folder, a view of it, and one of the two clients as an asynchronous function."""

    run: Path
    view: FakeView
    call: Call
    resolve: Callable[[str], Resolution]


@pytest.fixture(params=["async", "blocking"])
async def host(request: pytest.FixtureRequest) -> AsyncIterator[Host]:
    view = FakeView()
    with run_folder() as run:
        (run / "agents").mkdir()
        if request.param == "async":
            async with Client(run, "mainpc", open_view=view) as client:
                yield Host(run, view, client.call, client.resolve)
        else:
            with BlockingClient(run, "mainpc", open_view=view) as blocking:

                async def call(*arguments: object, **named: object) -> object:
                    return await asyncio.to_thread(blocking.call, *arguments, **named)  # type: ignore[arg-type]

                yield Host(run, view, call, blocking.resolve)


@dataclass
class Script:
    """A server that does with each request what the test says: "answer", "drop", "drain", "silent"."""

    path: Path
    steps: list[str]
    seen: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(self.path))
        self._listener.listen()
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._open:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
            connection.close()
        self.path.unlink(missing_ok=True)

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(connection)
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        decoder = FrameDecoder()
        while True:
            try:
                data = connection.recv(65536)
            except OSError:
                return
            if not data:
                return
            for request in decoder.feed(data):
                assert isinstance(request, Request)
                self.seen.append(request)
                match self.steps.pop(0) if self.steps else "answer":
                    case "answer":
                        connection.sendall(encode(Reply(request.id, pack(f"answer {len(self.seen)}"))))
                    case "drain":
                        connection.sendall(encode(Failure(request.id, Code.DRAINING, "going")))
                    case "drop":
                        connection.shutdown(socket.SHUT_RDWR)
                        return
                    case "garbage":
                        connection.sendall(b"\xff\xff\xff\xff")
                    case "silent":
                        pass
                    case code:
                        connection.sendall(encode(Failure(request.id, code, "said so")))


def script(host: Host, *steps: str, name: str = "agents/worker.sock") -> Script:
    host.view.put(instance())
    return Script(host.run / name, list(steps))


async def test_calls_reach_the_agent(host: Host) -> None:
    host.view.put(instance())
    async with serving(host.run):
        assert await host.call("worker", "work", {"numbers": [1, 2]}) == 3
        assert await asyncio.gather(*(host.call("worker", "quick") for _ in range(4))) == ["at once"] * 4
        with pytest.raises(CallError) as caught:
            await host.call("worker", "work", {"numbers": ["x"]})
        assert caught.value.code == Code.BAD_REQUEST


# What the server does with each request -> what the caller gets, and how often the server was asked.
REPEATS = [
    ("work", ["answer"], "answer 1", 1),
    ("work", ["drop", "answer"], "answer 2", 2),  # idempotent: once more
    ("work", ["drop", "drop", "answer"], Code.INDETERMINATE, 2),  # but not twice
    ("add", ["drop", "answer"], Code.INDETERMINATE, 1),
    ("add", ["garbage", "answer"], Code.INDETERMINATE, 1),
    ("add", ["drain", "answer"], "answer 2", 2),  # it did not run
    ("add", ["unavailable", "answer"], "answer 2", 2),
    ("work", ["overloaded", "answer"], "answer 2", 2),  # nothing was done
    ("add", ["overloaded", "unavailable", "answer"], "answer 3", 3),
    ("work", ["overloaded"] * 20, Code.OVERLOADED, 5),  # for good: it is told soon
    ("work", ["handler-error", "answer"], Code.HANDLER_ERROR, 1),
    ("work", ["deadline", "answer"], Code.DEADLINE, 1),
    ("work", ["silent", "answer"], Code.DEADLINE, 1),
]


@pytest.mark.parametrize(("method", "steps", "expected", "asked"), REPEATS)
async def test_what_is_repeated(
    host: Host, method: str, steps: list[str], expected: object, asked: int
) -> None:
    timeout_s = 0.2 if "silent" in steps else 5.0
    with script(host, *steps) as server:
        if isinstance(expected, Code):
            with pytest.raises(CallError) as caught:
                await host.call("worker", method, timeout_s=timeout_s)
            assert caught.value.code == expected
        else:
            assert await host.call("worker", method, timeout_s=timeout_s) == expected
        assert len(server.seen) == asked


# Where another host may take an agent over, a call waits for as long as it has time.
HELD_BACK = [
    (["unavailable", "draining", "unavailable", "answer"], "answer 4", 4),
    (["draining", "overloaded", "overloaded", "answer"], "answer 4", 4),  # it came back with all the others
    (["draining", *["overloaded"] * 6, "answer"], "answer 8", 8),
    (["overloaded", "draining", "answer"], "answer 3", 3),
    (["overloaded"] * 20, Code.OVERLOADED, 5),  # nobody held it back
    (["draining", "handler-error", "answer"], Code.HANDLER_ERROR, 2),
]


@pytest.mark.parametrize(("steps", "expected", "asked"), HELD_BACK)
async def test_what_is_held_back_where_agents_move(
    host: Host, steps: list[str], expected: object, asked: int
) -> None:
    (host.run / "fence").touch()
    with script(host, *steps) as server:
        if isinstance(expected, Code):
            with pytest.raises(CallError) as caught:
                await host.call("worker", "add")
            assert caught.value.code == expected
        else:
            assert await host.call("worker", "add") == expected
        assert len(server.seen) == asked


async def test_a_refused_call_waits_no_longer_than_it_has_time(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "FIRST_BACK_OFF_S", 1e9)
    monkeypatch.setattr(repeats, "LAST_BACK_OFF_S", 1e9)
    (host.run / "fence").touch()
    for steps in (["overloaded"], ["draining", "overloaded"]):
        with script(host, *steps, "answer") as server:
            with pytest.raises(CallError) as caught:
                await host.call("worker", "add")
            assert (caught.value.code, len(server.seen)) == (Code.OVERLOADED, len(steps))


async def test_callers_of_an_overloaded_agent_ask_again_for_a_share_of_their_calls(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "FIRST_BACK_OFF_S", 1e-3)
    with script(host, *["overloaded"] * 100) as server:
        for _ in range(8):
            with pytest.raises(CallError) as caught:
                await host.call("worker", "add")
            assert caught.value.code == Code.OVERLOADED
        assert len(server.seen) == 8 + repeats.ALLOWED


async def test_after_a_deadline_the_next_answer_is_the_right_one(host: Host) -> None:
    with script(host, "silent", "answer") as server:
        with pytest.raises(CallError):
            await host.call("worker", "add", timeout_s=0.1)
        assert await host.call("worker", "add") == "answer 2"
        assert 0 < server.seen[0].deadline_ms <= 100


async def test_an_unknown_name(host: Host) -> None:
    with pytest.raises(CallError) as caught:
        await host.call("nobody", "work")
    assert (caught.value.code, caught.value.definite) == (Code.NOT_FOUND, True)
    with pytest.raises(CallError):
        host.resolve("nobody")


@pytest.mark.parametrize("state", [s for s in InstanceState if s is not InstanceState.UP])
async def test_only_who_is_up_is_called(host: Host, state: InstanceState) -> None:
    host.view.put(instance(state=state))
    with pytest.raises(CallError) as caught:
        await host.call("worker", "work")
    assert (caught.value.code, caught.value.definite) == (Code.UNAVAILABLE, True)


async def test_nobody_listens(host: Host) -> None:
    host.view.put(instance())
    with pytest.raises(CallError) as caught:
        await host.call("worker", "work")
    assert (caught.value.code, caught.value.definite) == (Code.UNAVAILABLE, True)


async def test_a_new_incarnation_is_followed(host: Host) -> None:
    host.view.put(instance(incarnation=1))
    async with serving(host.run, incarnation=1):
        assert (await host.call("worker", "_ping"))["incarnation"] == 1  # type: ignore[index]
        async with serving(host.run, incarnation=2):
            host.view.put(instance(incarnation=2))
            assert (await host.call("worker", "_ping"))["incarnation"] == 2  # type: ignore[index]
    async with serving(host.run, incarnation=3):  # the view has not heard of it yet
        assert (await host.call("worker", "_ping"))["incarnation"] == 3  # type: ignore[index]


@pytest.mark.parametrize(
    "changes", [{"host": "pc2"}, {"transport": Transport.HTTP, "port": 8100}], ids=["other host", "a program"]
)
async def test_what_is_not_here_goes_through_the_gateway(host: Host, changes: dict[str, Any]) -> None:
    with script(host, "answer", name="gateway.sock") as gateway:
        host.view.put(instance(**changes))
        assert await host.call("worker", "work", [1]) == "answer 1"
        assert (gateway.seen[0].agent, gateway.seen[0].method) == ("worker", "work")
        assert unpack(gateway.seen[0].body) == [1]


async def test_the_standby_is_called_only_without_a_primary(host: Host) -> None:
    with script(host, name="gateway.sock") as gateway, script(host) as local:
        here = instance(role=Role.STANDBY)
        host.view.put(here, instance(host="pc2"))
        await host.call("worker", "work")
        assert (len(gateway.seen), len(local.seen)) == (1, 0)
        host.view.put(here)
        await host.call("worker", "work")
        assert (len(gateway.seen), len(local.seen)) == (1, 1)


async def test_a_broken_snapshot_leaves_the_last_good_answer(host: Host) -> None:
    with script(host) as server:
        await host.call("worker", "add")
        host.view.broken = True
        assert await host.call("worker", "add") == "answer 2"
        assert host.resolve("worker").stale
        assert len(server.seen) == 2


async def test_without_any_answer_hostd_is_asked(host: Host) -> None:
    host.view.broken = True
    with pytest.raises(CallError) as caught:
        await host.call("worker", "add")
    assert caught.value.code == Code.UNAVAILABLE

    answer = Resolution(
        name="worker", revision=1, generation=1, stale=False, age_ms=0.0, instances=(instance(),)
    )
    with script(host), HostdScript(host.run / "hostd.sock", answer) as hostd:
        assert await host.call("worker", "add") == "answer 1"
        assert hostd.asked == ["worker"]
        assert await host.call("worker", "add") == "answer 2"
        assert hostd.asked == ["worker"]  # remembered


async def test_an_old_answer_that_fails_is_confirmed_by_hostd(host: Host) -> None:
    with script(host):
        await host.call("worker", "add")
    host.view.broken = True
    moved = instance(host="pc2")
    answer = Resolution(name="worker", revision=2, generation=2, stale=False, age_ms=0.0, instances=(moved,))
    with (
        HostdScript(host.run / "hostd.sock", answer) as hostd,
        Script(host.run / "gateway.sock", []) as gateway,
    ):
        assert await host.call("worker", "work") == "answer 1"
        assert hostd.asked == ["worker"]
        assert len(gateway.seen) == 1


class HostdScript(Script):
    """hostd as far as `resolve` goes."""

    def __init__(self, path: Path, answer: Resolution) -> None:
        super().__init__(path, [])
        self.answer = answer
        self.asked: list[str] = []

    def _serve(self, connection: socket.socket) -> None:
        decoder = FrameDecoder()
        while data := connection.recv(65536):
            for request in decoder.feed(data):
                assert isinstance(request, Request)
                self.asked.append(unpack(request.body)["name"])
                connection.sendall(encode(Reply(request.id, pack(self.answer))))


async def test_closing_ends_what_is_in_flight() -> None:
    view = FakeView()
    view.put(instance())
    with run_folder() as run:
        async with serving(run) as server:
            client = Client(run, "mainpc", open_view=view)
            call = asyncio.create_task(client.call("worker", "block"))
            assert isinstance(server.agent, Worker)
            await server.agent.entered.wait()
            await client.close()
            with pytest.raises(CallError) as caught:
                await call
            assert caught.value.code in (Code.INDETERMINATE, Code.UNAVAILABLE)
            with pytest.raises(CallError):
                await client.call("worker", "quick")
            await until(lambda: len(server._connections) == 0)


async def test_many_threads_share_a_blocking_client() -> None:
    view = FakeView()
    view.put(instance())
    with run_folder() as run:
        async with serving(run) as server:
            with BlockingClient(run, "mainpc", open_view=view) as client:

                def many() -> list[object]:
                    return [client.call("worker", "quick") for _ in range(50)]

                answers = await asyncio.gather(*(asyncio.to_thread(many) for _ in range(4)))
                assert answers == [["at once"] * 50] * 4
                assert len(server._connections) <= 4
                assert server.metrics.calls("quick", "ok") == 200


async def test_a_client_needs_to_know_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("THREENINES_RUN", raising=False)
    for make in (Client, BlockingClient):
        with pytest.raises(CallError, match="THREENINES_RUN"):
            make()


GEVENT = """
from gevent import monkey; monkey.patch_all()
import gevent, sys
from pathlib import Path
from services.agent.blocking import BlockingClient
from tests.agent.kit import FakeView, instance
view = FakeView(); view.put(instance())
with BlockingClient(Path(sys.argv[1]), "mainpc", open_view=view) as client:
    blocked = [gevent.spawn(client.call, "worker", "block") for _ in range(3)]
    gevent.sleep(0)
    print([client.call("worker", "quick") for _ in range(3)], flush=True)
    try:
        client.call("worker", "block", timeout_s=0.1)
    except Exception as error:
        print(error.code, flush=True)
    sys.stdin.readline()
    gevent.joinall(blocked)
    print([greenlet.value for greenlet in blocked])
"""


async def test_greenlets_share_a_blocking_client() -> None:
    with run_folder() as run:
        async with serving(run) as server:
            assert isinstance(server.agent, Worker)
            process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-c",
                GEVENT,
                str(run),
                stdin=asyncio.subprocess.PIPE,
                stdout=asyncio.subprocess.PIPE,
            )
            assert process.stdout is not None
            assert await process.stdout.readline() == b"['at once', 'at once', 'at once']\n"
            assert await process.stdout.readline() == b"deadline\n"
            server.agent.release.set()
            answer, _ = await process.communicate(b"\n")
            assert answer == b"['released', 'released', 'released']\n"
            assert process.returncode == 0
