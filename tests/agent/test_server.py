"""An agent's server: what each request is answered, and what bounds hold."""

from __future__ import annotations

import asyncio
import gc
import logging
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from services.agent.channel import Channel, open_unix
from services.agent.connection import FrameConnection, Scratch
from services.agent.errors import CallError, Code
from services.agent.line import PLACES, Line, Patience
from services.agent.sdk import Agent, AgentDefinitionError, load_agent, method, methods_of
from services.agent.server import AgentServer, ServerState
from services.agent.wire import MAX_FRAME_BYTES, Failure, Message, Reply, Request, encode, pack, unpack
from tests.agent.kit import Worker, run_folder, serving, until


@pytest.fixture
async def server() -> AsyncIterator[AgentServer]:
    with run_folder() as run:
        async with serving(run) as server:
            yield server


@pytest.fixture
async def impatient(server: AgentServer) -> AgentServer:
    """Takes whoever finds it busy for one too many, and very soon."""
    server._line = Line(server._loop, 4, Patience(burst_s=0.0, standing_s=0.01), server._refuse_late)
    return server


@pytest.fixture
async def patient(server: AgentServer) -> AgentServer:
    """Refuses only whom its line has no room for."""
    places = PLACES * server.agent.concurrency
    server._line = Line(server._loop, places, Patience(burst_s=60.0), server._refuse_late)
    return server


@pytest.fixture
async def channel(server: AgentServer) -> AsyncIterator[Channel]:
    channel = await open_unix(server.path, Scratch(), timeout_s=5)
    yield channel
    channel.close()
    await channel.closed


def worker(server: AgentServer) -> Worker:
    assert isinstance(server.agent, Worker)
    return server.agent


async def ask(
    channel: Channel, method: str, body: object = None, timeout_s: float = 5, agent: str = "worker"
) -> object:
    return unpack(await channel.request(agent, method, pack(body), timeout_s=timeout_s))


ANSWERS = [
    ("work", {"numbers": [1, 2, 3]}, 6),
    ("quick", None, "at once"),
    ("add", 5, 5),
    ("_ping", None, {"incarnation": 1, "state": "up"}),
]
REFUSALS = [
    ("work", {"numbers": [1, "2"]}, Code.BAD_REQUEST, "$.numbers[1]"),
    ("work", {}, Code.BAD_REQUEST, "numbers"),
    ("work", None, Code.BAD_REQUEST, "work"),
    ("nothing", None, Code.NO_METHOD, "nothing"),
    ("on_start", None, Code.NO_METHOD, "on_start"),
    ("__init__", None, Code.NO_METHOD, "__init__"),
    ("boom", None, Code.HANDLER_ERROR, "RuntimeError: the reason"),
    ("sync_boom", None, Code.HANDLER_ERROR, "KeyError: 'missing'"),
    ("refuse", None, Code.BAD_REQUEST, "not today"),
    ("unspeakable", None, Code.HANDLER_ERROR, "reply"),
    ("huge", None, Code.TOO_LARGE, "2097"),
]


@pytest.mark.parametrize(("name", "body", "expected"), ANSWERS)
async def test_answers(channel: Channel, name: str, body: object, expected: object) -> None:
    assert await ask(channel, name, body) == expected


@pytest.mark.parametrize(("name", "body", "code", "part"), REFUSALS)
async def test_refusals_are_one_line_each(
    channel: Channel, server: AgentServer, name: str, body: object, code: Code, part: str
) -> None:
    with pytest.raises(CallError) as caught:
        await ask(channel, name, body)
    assert caught.value.code == code
    assert part in caught.value.message
    assert "\n" not in caught.value.message
    assert "Traceback" not in caught.value.message
    label = name if name in server.methods else "_other"
    assert server.metrics.calls(label, code) == 1
    assert await ask(channel, "quick") == "at once"  # the connection still serves


async def test_a_raising_handler_is_logged_with_its_traceback(
    channel: Channel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR), pytest.raises(CallError):
        await ask(channel, "boom")
    assert "RuntimeError: the reason" in caplog.text
    assert "kit.py" in caplog.text


async def test_a_request_for_somebody_else_is_refused(channel: Channel) -> None:
    with pytest.raises(CallError) as caught:
        await ask(channel, "quick", agent="other")
    assert caught.value.code == Code.NOT_FOUND


async def test_a_handler_that_never_returns_is_cancelled_and_its_caller_told(server: AgentServer) -> None:
    # Without a deadline of its own at the caller's end: the answer is the server's.
    raw = await collect(server.path)
    raw.send(encode(Request(9, "worker", "block", 30, pack(None))))
    await until(lambda: len(raw.messages) == 1)
    (answer,) = raw.messages
    assert isinstance(answer, Failure)
    assert (answer.id, answer.code) == (9, Code.DEADLINE)
    assert server.metrics.calls("block", Code.DEADLINE) == 1
    await until(lambda: worker(server).cancelled == 1)
    raw.close()


async def test_no_time_left_runs_nothing(server: AgentServer, channel: Channel) -> None:
    waiter = asyncio.get_running_loop().create_future()
    channel._waiting[77] = waiter
    channel.send(encode(Request(77, "worker", "add", 0, pack(5))))
    with pytest.raises(CallError) as caught:
        await waiter
    assert caught.value.code == Code.DEADLINE
    assert worker(server).total == 0


async def test_a_handler_that_will_not_be_cancelled_keeps_its_place(
    impatient: AgentServer, channel: Channel
) -> None:
    server = impatient
    for _ in range(worker(server).concurrency):
        with pytest.raises(CallError) as caught:
            await ask(channel, "stubborn", timeout_s=0.02)
        assert caught.value.code == Code.DEADLINE
    await until(lambda: worker(server).cancelled >= worker(server).concurrency)
    with pytest.raises(CallError) as caught:
        await ask(channel, "work", {"numbers": []})
    assert caught.value.code == Code.OVERLOADED
    assert await ask(channel, "_ping") == {"incarnation": 1, "state": "up"}


async def test_concurrency_is_bounded_and_who_is_overloaded_says_so(
    impatient: AgentServer, channel: Channel
) -> None:
    server = impatient
    blocked = [asyncio.create_task(ask(channel, "block", timeout_s=60)) for _ in range(4)]
    await worker(server).entered.wait()
    await asyncio.sleep(0)
    with pytest.raises(CallError) as caught:
        await ask(channel, "add", 1, timeout_s=60)
    assert (caught.value.code, caught.value.definite) == (Code.OVERLOADED, True)
    worker(server).release.set()
    assert await asyncio.gather(*blocked) == ["released"] * 4
    assert await ask(channel, "add", 10) == 10
    assert await ask(channel, "_ping") == {"incarnation": 1, "state": "up"}


async def test_a_burst_waits_in_line_for_its_turn(patient: AgentServer, channel: Channel) -> None:
    server = patient
    places = PLACES * worker(server).concurrency
    blocked = [asyncio.create_task(ask(channel, "block", timeout_s=60)) for _ in range(4)]
    await worker(server).entered.wait()
    waiting = [asyncio.create_task(ask(channel, "add", 1, timeout_s=60)) for _ in range(places)]
    await until(lambda: len(server._line) == places)
    assert f"threenines_agent_waiting {places:.1f}" in str(await ask(channel, "_metrics"))
    with pytest.raises(CallError) as caught:  # at once: there is no room
        await ask(channel, "add", 1, timeout_s=60)
    assert caught.value.code == Code.OVERLOADED
    assert worker(server).total == 0
    worker(server).release.set()
    assert await asyncio.gather(*blocked) == ["released"] * 4
    assert await asyncio.gather(*waiting) == list(range(1, places + 1)), "each once, in order"
    assert server.metrics.calls("add", Code.OVERLOADED) == 1


async def test_a_call_in_line_is_refused_before_its_time_is_up_and_never_begun() -> None:
    """Its caller hears that nothing was done, while it listens."""
    with run_folder() as run:
        (run / "agents").mkdir()
        async with serving(run, patience=Patience(burst_s=60, share=0.002)) as server:
            channel = await open_unix(server.path, Scratch(), timeout_s=5)
            blocked = [asyncio.create_task(ask(channel, "block", timeout_s=60)) for _ in range(4)]
            await worker(server).entered.wait()
            with pytest.raises(CallError) as caught:
                await ask(channel, "add", 1, timeout_s=60)
            assert (caught.value.code, caught.value.definite) == (Code.OVERLOADED, True)
            worker(server).release.set()
            await asyncio.gather(*blocked)
            assert worker(server).total == 0
            channel.close()


async def test_who_stops_sends_those_in_line_away(patient: AgentServer, channel: Channel) -> None:
    server = patient
    blocked = [asyncio.create_task(ask(channel, "block", timeout_s=60)) for _ in range(4)]
    await worker(server).entered.wait()
    waiting = [asyncio.create_task(ask(channel, "add", 1, timeout_s=60)) for _ in range(3)]
    await until(lambda: len(server._line) == 3)
    stopping = asyncio.create_task(server.stop())
    answers = await asyncio.gather(*waiting, return_exceptions=True)
    assert [answer.code for answer in answers if isinstance(answer, CallError)] == [Code.DRAINING] * 3
    assert not any(call.done() for call in blocked)
    worker(server).release.set()
    assert await asyncio.gather(*blocked) == ["released"] * 4
    channel.close()
    await stopping
    assert worker(server).total == 0


async def test_answers_come_in_any_order(server: AgentServer, channel: Channel) -> None:
    slow = asyncio.create_task(ask(channel, "block"))
    await worker(server).entered.wait()
    assert await ask(channel, "add", 1) == 1
    assert not slow.done()
    worker(server).release.set()
    assert await slow == "released"


class Collector(FrameConnection):
    """A peer that keeps what it is sent and heeds nothing."""

    def __init__(self) -> None:
        super().__init__(Scratch())
        self.messages: list[Message] = []

    def received(self, message: Message) -> None:
        self.messages.append(message)


async def collect(path: Path) -> Collector:
    _, connection = await asyncio.get_running_loop().create_unix_connection(Collector, str(path))
    return connection


async def test_drain_lets_calls_end_and_refuses_new_ones() -> None:
    with run_folder() as run:
        async with serving(run) as server:
            channel = await open_unix(server.path, Scratch(), timeout_s=5)
            deaf = await collect(server.path)
            slow = asyncio.create_task(ask(channel, "block"))
            await worker(server).entered.wait()
            stopping = asyncio.create_task(server.stop())
            await until(lambda: server.state is ServerState.DRAINING)
            assert not server.path.exists()
            await until(lambda: not channel.usable)  # it heard the good-bye, and still waits for its answer
            with pytest.raises(CallError) as caught:
                await ask(channel, "add", 1)
            assert caught.value.code == Code.UNAVAILABLE
            for number, name in ((1, "_ping"), (2, "add")):  # sent by one who has not heard it
                deaf.send(encode(Request(number, "worker", name, 1000, pack(1))))
            await until(lambda: len(deaf.messages) == 3)
            notice, pong, refusal = deaf.messages
            assert isinstance(notice, Failure)
            assert (notice.id, notice.code) == (0, Code.DRAINING)
            assert isinstance(pong, Reply)
            assert unpack(pong.body) == {"incarnation": 1, "state": "draining"}
            assert isinstance(refusal, Failure)
            assert (refusal.id, refusal.code) == (2, Code.DRAINING)
            worker(server).release.set()
            assert await slow == "released"
            await stopping
            assert worker(server).events == ["start", "stop"]
            await channel.closed


async def test_a_drain_ends_although_a_call_does_not() -> None:
    with run_folder() as run:
        async with serving(run, drain_limit_s=0.05) as server:
            channel = await open_unix(server.path, Scratch(), timeout_s=5)
            slow = asyncio.create_task(ask(channel, "block"))
            await worker(server).entered.wait()
            await server.stop()
            with pytest.raises(CallError) as caught:
                await slow
            assert (caught.value.code, caught.value.definite) == (Code.INDETERMINATE, False)


async def test_a_successor_takes_the_socket_over() -> None:
    with run_folder() as run:
        async with serving(run, incarnation=1) as old, serving(run, incarnation=2) as new:
            assert old.path == new.path
            await old.stop()
            assert new.path.exists()
            channel = await open_unix(new.path, Scratch(), timeout_s=5)
            assert await ask(channel, "_ping") == {"incarnation": 2, "state": "up"}
            channel.close()


async def test_a_nested_call_gets_what_is_left_of_the_budget(server: AgentServer, channel: Channel) -> None:
    seen: list[float] = []

    class Recorder:
        async def call(
            self, agent: str, method: str, body: object = None, *, timeout_s: float = 5.0
        ) -> object:
            seen.append(timeout_s)
            return None

        async def close(self) -> None:
            pass

    server.agent.connect(Recorder())
    await ask(channel, "chain", 60.0, timeout_s=2)
    await ask(channel, "chain", 0.5, timeout_s=2)
    assert 0 < seen[0] <= 2
    assert seen[1] == 0.5


@pytest.mark.parametrize(
    ("code", "outer"), [(Code.NOT_FOUND, Code.HANDLER_ERROR), (Code.DEADLINE, Code.INDETERMINATE)]
)
async def test_a_dependency_failure_stays_as_certain_as_it_was(
    server: AgentServer, channel: Channel, code: Code, outer: Code
) -> None:
    class Failing:
        async def call(
            self, agent: str, method: str, body: object = None, *, timeout_s: float = 5.0
        ) -> object:
            raise CallError(code, "elsewhere")

        async def close(self) -> None:
            pass

    server.agent.connect(Failing())
    with pytest.raises(CallError) as caught:
        await ask(channel, "chain", 1.0)
    assert caught.value.code == outer


async def test_metrics_are_prometheus_text(channel: Channel) -> None:
    from prometheus_client.parser import text_string_to_metric_families

    await ask(channel, "add", 1)
    with pytest.raises(CallError):
        await ask(channel, "nobody-has-this")
    text = await ask(channel, "_metrics")
    assert isinstance(text, str)
    families = {family.name: family for family in text_string_to_metric_families(text)}
    calls = {tuple(sorted(s.labels.items())): s.value for s in families["threenines_agent_calls"].samples}
    assert calls[(("method", "add"), ("outcome", "ok"))] == 1
    assert calls[(("method", "_other"), ("outcome", "no-method"))] == 1
    for name in (
        "threenines_agent_call_seconds",
        "threenines_agent_up",
        "threenines_agent_resident_bytes",
        "threenines_agent_cpu_seconds",
        "threenines_agent_state_items",
    ):
        assert families[name].samples, name
    seconds = [
        s for s in families["threenines_agent_call_seconds"].samples if s.labels.get("method") == "add"
    ]
    assert next(s.value for s in seconds if s.name.endswith("_count")) == 1
    assert next(s.value for s in seconds if s.labels.get("le") == "+Inf") == 1


async def test_describe_and_collect(channel: Channel) -> None:
    description = await ask(channel, "_describe")
    assert isinstance(description, dict)
    assert description["name"] == "worker"
    assert set(description["idempotent"]) == {"quick", "work"}
    assert {"add", "block", "work"} <= set(description["methods"])
    ring: list[object] = []
    ring.append(ring)
    del ring
    gc.disable()
    try:
        assert isinstance(await ask(channel, "_collect"), int)
    finally:
        gc.enable()


# Hostile peers.


async def closes(connection: socket.socket) -> bytes:
    """What the server still says before it closes."""
    loop = asyncio.get_running_loop()
    got = b""
    try:
        async with asyncio.timeout(20):
            while data := await loop.sock_recv(connection, 65536):
                got += data
    except ConnectionResetError:
        pass
    return got


def dial(path: Path) -> socket.socket:
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(path))
    connection.setblocking(False)
    return connection


@pytest.mark.parametrize(
    "garbage",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        bytes(4),
        b"\x7f\xff\xff\xff",
        (5).to_bytes(4, "big") + b"hello",
        encode(Reply(1, pack(1))),
    ],
)
async def test_garbage_closes_its_connection_and_no_other(
    server: AgentServer, channel: Channel, garbage: bytes
) -> None:
    connection = dial(server.path)
    connection.send(garbage)
    assert await closes(connection) == b""
    connection.close()
    assert await ask(channel, "quick") == "at once"


async def test_an_unfinished_frame_is_closed_after_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    class Impatient(FrameConnection):
        def __init__(self) -> None:
            super().__init__(Scratch(), frame_time_limit_s=0.05)
            self.cause: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        def received(self, message: Message) -> None:
            pass

        def lost(self, cause: Exception | None) -> None:
            self.cause.set_result(cause)

    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    _, connection = await loop.create_unix_connection(Impatient, sock=ours)
    theirs.send(encode(Reply(1, pack(None))) + b"\x00\x00\x10\x00\x93")
    assert "not finished" in str(await asyncio.wait_for(connection.cause, 10))
    theirs.close()


async def test_a_peer_that_does_not_read_is_cut_off_with_bounded_memory() -> None:
    class Talker(FrameConnection):
        def __init__(self) -> None:
            super().__init__(Scratch(), outbound_limit_bytes=1 << 20, stall_time_limit_s=60)
            self.cause: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        def received(self, message: Message) -> None:
            pass

        def lost(self, cause: Exception | None) -> None:
            self.cause.set_result(cause)

    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    _, talker = await loop.create_unix_connection(Talker, sock=ours)
    frame = encode(Reply(1, pack(bytes(64 << 10))))
    sent = 0
    while talker.send(frame):
        sent += len(frame)
        assert sent < 16 << 20
    assert "unread" in str(await asyncio.wait_for(talker.cause, 10))
    theirs.close()


async def test_a_stalled_peer_is_cut_off_after_its_time() -> None:
    class Talker(FrameConnection):
        def __init__(self) -> None:
            super().__init__(Scratch(), stall_time_limit_s=0.05)
            self.cause: asyncio.Future[Exception | None] = asyncio.get_running_loop().create_future()

        def received(self, message: Message) -> None:
            pass

        def lost(self, cause: Exception | None) -> None:
            self.cause.set_result(cause)

    ours, theirs = socket.socketpair()
    loop = asyncio.get_running_loop()
    _, talker = await loop.create_unix_connection(Talker, sock=ours)
    while talker.writable:
        talker.send(encode(Reply(1, pack(bytes(256 << 10)))))
    assert not talker.transport.is_reading()  # it takes no more questions from who does not hear answers
    assert "read nothing" in str(await asyncio.wait_for(talker.cause, 10))
    theirs.close()


async def test_many_large_calls_at_once_wait_for_the_peer_instead_of_failing(channel: Channel) -> None:
    numbers = list(range(50_000))
    calls = [ask(channel, "work", {"numbers": numbers}) for _ in range(40)]
    answers = await asyncio.gather(*calls, return_exceptions=True)
    codes = {answer.code for answer in answers if isinstance(answer, CallError)}
    assert codes <= {Code.OVERLOADED}  # the agent's own bound; none is lost or refused on the way
    assert answers.count(sum(numbers)) >= 4


async def test_a_megabyte_goes_both_ways(server: AgentServer, channel: Channel) -> None:
    numbers = list(range(200_000))
    assert await ask(channel, "work", {"numbers": numbers}) == sum(numbers)
    with pytest.raises(CallError) as caught:
        await ask(channel, "work", {"numbers": numbers * 2})
    assert caught.value.code == Code.TOO_LARGE
    assert MAX_FRAME_BYTES == 1 << 20


# Definitions.


class NoType(Agent):
    @method()
    async def untyped(self, request): ...  # type: ignore[no-untyped-def]


class TwoArguments(Agent):
    @method()
    async def two(self, a: int, b: int) -> None: ...


class Hidden(Agent):
    @method()
    async def _secret(self) -> None: ...


class UnknownType(Agent):
    @method()
    async def odd(self, request: "Nowhere") -> None: ...  # type: ignore[name-defined]  # noqa: F821, UP037


@pytest.mark.parametrize("cls", [NoType, TwoArguments, Hidden, UnknownType])
def test_a_wrong_definition_names_its_handler(cls: type[Agent]) -> None:
    with pytest.raises(AgentDefinitionError, match=cls.__name__):
        methods_of(cls)


@pytest.mark.parametrize(
    "handler",
    ["", "services.agent.reference", "nowhere:Agent", "services.agent.reference:Nobody", "json:JSONDecoder"],
)
def test_a_wrong_handler_is_named(handler: str) -> None:
    with pytest.raises(AgentDefinitionError, match=f"{handler!r}"):
        load_agent(handler)


async def test_a_call_that_expires_before_its_first_step_is_no_call_in_flight(
    server: AgentServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its task is cancelled before any of it runs, so no `finally` of it does either."""
    loop = asyncio.get_running_loop()
    at_once = SimpleNamespace(
        add=lambda call, _due: loop.call_soon(server._expire, call),
        discard=lambda call: None,
        close=lambda: None,
    )
    monkeypatch.setattr(server, "_deadlines", at_once)
    raw = await collect(server.path)
    raw.send(encode(Request(9, "worker", "block", 30, pack(None))))
    await until(lambda: len(raw.messages) == 1)
    (answer,) = raw.messages
    assert isinstance(answer, Failure)
    assert answer.code == Code.DEADLINE
    assert worker(server).cancelled == 0, "it has begun"
    assert server._idle.is_set()
    raw.close()
