"""Two gateways over real mutual TLS: which way a call takes, and what is told when the way is gone."""

from __future__ import annotations

import asyncio
import os
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest

from infra.pki import Authority, Leaf
from services.agent.channel import Channel, open_unix
from services.agent.client import Client
from services.agent.connection import Scratch
from services.agent.errors import CallError, Code
from services.agent.line import PLACES, Patience
from services.agent.wire import Request, encode, pack, unpack
from services.gateway.config import GatewayConfig, HostEntry, Peer, Ports
from services.gateway.server import Gateway, ListenError
from services.registry.model import Instance, InstanceState, Transport
from tests.agent.kit import FakeView, Worker, instance, run_folder, serving, until

ADDRESS = {"mainpc": "127.0.0.1", "pc2": "127.0.0.2"}


def free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Certificates of both hosts, an operator, and a host of this name in another stack's authority."""
    folder = tmp_path_factory.mktemp("pki")
    ours, foreign = Authority(folder / "ours", "test"), Authority(folder / "foreign", "other")
    for name, authority, common_name in (
        ("mainpc", ours, "host:mainpc"),
        ("pc2", ours, "host:pc2"),
        ("operator", ours, "operator"),
        ("stranger", ours, "host:stranger"),
        ("foreign", foreign, "host:mainpc"),
    ):
        place = folder / name
        place.mkdir()
        authority.ensure_leaf(Leaf(place / "host.pem", place / "host.key"), common_name, (name, "localhost"))
        (place / "ca.pem").write_bytes(authority.ensure())
    return folder


class Relay:
    """What stands between two hosts: can be cut (closed), or go silent (nothing passes, nothing closes)."""

    def __init__(self, address: str, port: int) -> None:
        self._target = (address, port)
        self._pairs: set[asyncio.StreamWriter] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self.port = 0

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]

    async def cut(self) -> None:
        self._server.close()
        for writer in self._pairs:
            writer.transport.abort()

    def silence(self) -> None:
        self._flowing.clear()

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_connection(*self._target)
        except OSError:
            writer.close()
            return
        self._pairs |= {writer, far_writer}
        await asyncio.gather(self._pump(reader, far_writer), self._pump(far_reader, writer))
        self._pairs -= {writer, far_writer}

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                await self._flowing.wait()
                writer.write(data)
        except OSError:
            pass
        writer.close()


@dataclass
class Side:
    """One host: its folder, its view, its gateway, and a channel of a local caller."""

    run: Path
    view: FakeView
    gateway: Gateway
    channel: Channel

    async def ask(self, agent: str, method: str, body: object = None, timeout_s: float = 5) -> object:
        return unpack(await self.channel.request(agent, method, pack(body), timeout_s=timeout_s))

    def calls(self, peer: str, direction: str, outcome: str) -> float:
        labels = {"peer": peer, "direction": direction, "outcome": outcome}
        return self.gateway.metrics.registry.get_sample_value("threenines_gateway_calls_total", labels) or 0


@dataclass
class Pair:
    mainpc: Side
    pc2: Side
    relay: Relay


@pytest.fixture
async def pair(authority: Path) -> AsyncIterator[Pair]:
    async with AsyncExitStack() as stack:
        ports = {host: free_port(address) for host, address in ADDRESS.items()}
        relay = Relay(ADDRESS["pc2"], ports["pc2"])
        await relay.start()
        sides = {}
        for host, other in (("mainpc", "pc2"), ("pc2", "mainpc")):
            run = stack.enter_context(run_folder())
            dial = ("127.0.0.1", relay.port) if other == "pc2" else (ADDRESS[other], ports[other])
            config = GatewayConfig(
                host=host,
                address=ADDRESS[host],
                local="127.0.0.1",
                run=str(run),
                pki=str(authority / host),
                hosts=tuple(HostEntry(name, address) for name, address in ADDRESS.items()),
                peers=(Peer(other, *dial),),
                ports=Ports(gateway=ports[host]),
            )
            view = FakeView()
            gateway = Gateway(config, open_view=view)
            await gateway.start()
            stack.push_async_callback(gateway.stop)
            channel = await open_unix(run / "gateway.sock", Scratch(), timeout_s=5)
            stack.callback(channel.close)
            sides[host] = Side(run, view, gateway, channel)
        pair = Pair(sides["mainpc"], sides["pc2"], relay)
        for side, other in ((pair.mainpc, "pc2"), (pair.pc2, "mainpc")):
            async with asyncio.timeout(20):
                await side.gateway.link(other).stands.wait()
        yield pair
        await relay.cut()


def everywhere(pair: Pair, *instances: Instance) -> None:
    for side in (pair.mainpc, pair.pc2):
        side.view.put(*instances)


async def test_a_call_reaches_the_other_host(pair: Pair) -> None:
    everywhere(pair, instance(host="pc2"))
    async with serving(pair.pc2.run):
        assert await pair.mainpc.ask("worker", "work", {"numbers": [1, 2]}) == 3
        assert pair.mainpc.calls("pc2", "out", "ok") == 1
        assert pair.pc2.calls("mainpc", "in", "ok") == 1
        async with Client(pair.mainpc.run, "mainpc", open_view=pair.mainpc.view) as client:
            assert await client.call("worker", "work", {"numbers": [3, 4]}) == 7


async def test_refusals_come_back_as_they_are(pair: Pair) -> None:
    everywhere(pair, instance(host="pc2"))
    async with serving(pair.pc2.run):
        for method, body, code in (
            ("work", {"numbers": ["x"]}, Code.BAD_REQUEST),
            ("nothing", None, Code.NO_METHOD),
            ("boom", None, Code.HANDLER_ERROR),
            ("huge", None, Code.TOO_LARGE),
        ):
            with pytest.raises(CallError) as caught:
                await pair.mainpc.ask("worker", method, body)
            assert caught.value.code == code


async def test_many_calls_share_the_link_in_any_order(pair: Pair) -> None:
    everywhere(pair, instance(host="pc2"))
    async with serving(pair.pc2.run) as server:
        assert isinstance(server.agent, Worker)
        slow = asyncio.create_task(pair.mainpc.ask("worker", "block"))
        await server.agent.entered.wait()
        answers = [await pair.mainpc.ask("worker", "work", {"numbers": [n, n]}) for n in range(20)]
        assert answers == [2 * n for n in range(20)]
        assert not slow.done()
        server.agent.release.set()
        assert await slow == "released"
        assert len(server._connections) == 1
        assert len(pair.pc2.gateway._callers) == 2  # the local channel of this test, and one link


async def test_a_burst_from_the_other_host_waits_and_what_finds_no_room_is_asked_again(pair: Pair) -> None:
    everywhere(pair, instance(host="pc2"))
    async with (
        serving(pair.pc2.run, patience=Patience(burst_s=600.0)) as server,
        Client(pair.mainpc.run, "mainpc", open_view=pair.mainpc.view) as client,
    ):
        agent = server.agent
        assert isinstance(agent, Worker)
        full = (1 + PLACES) * agent.concurrency
        crowd = [asyncio.create_task(client.call("worker", "block", timeout_s=600.0)) for _ in range(full)]
        await until(lambda: len(server._calls) + len(server._line) == full)
        one_more = asyncio.create_task(client.call("worker", "work", {"numbers": [1]}, timeout_s=600.0))
        await until(lambda: pair.mainpc.calls("pc2", "out", "overloaded") == 1)
        agent.release.set()
        assert await asyncio.gather(*crowd) == ["released"] * full
        assert await one_more == 1


async def test_a_local_agent_is_reached_too(pair: Pair) -> None:
    pair.mainpc.view.put(instance())
    async with serving(pair.mainpc.run):
        assert await pair.mainpc.ask("worker", "quick") == "at once"
        assert pair.mainpc.calls("mainpc", "local", "ok") == 1


async def test_a_call_from_a_peer_is_never_sent_on(pair: Pair) -> None:
    pair.mainpc.view.put(instance(host="pc2"))
    pair.pc2.view.put(instance(host="mainpc"))  # each believes it is at the other's
    with pytest.raises(CallError) as caught:
        await pair.mainpc.ask("worker", "quick")
    assert (caught.value.code, caught.value.definite) == (Code.UNAVAILABLE, True)


@pytest.mark.parametrize("name", ["nobody", "../../etc/passwd", "", "X" * 500])
async def test_a_name_that_nobody_has(pair: Pair, name: str) -> None:
    with pytest.raises(CallError) as caught:
        await pair.mainpc.ask(name, "quick")
    assert caught.value.code == Code.NOT_FOUND


async def test_nobody_listens_at_the_other_end(pair: Pair) -> None:
    everywhere(pair, instance(host="pc2"))
    with pytest.raises(CallError) as caught:
        await pair.mainpc.ask("worker", "quick")
    assert caught.value.code == Code.UNAVAILABLE


async def test_a_cut_link_leaves_nothing_unsaid(pair: Pair) -> None:
    everywhere(pair, instance(host="pc2"))
    async with serving(pair.pc2.run) as server:
        assert isinstance(server.agent, Worker)
        on_the_way = asyncio.create_task(pair.mainpc.ask("worker", "block"))
        await server.agent.entered.wait()
        await pair.relay.cut()
        with pytest.raises(CallError) as caught:
            await on_the_way
        assert (caught.value.code, caught.value.definite) == (Code.INDETERMINATE, False)
        await until(lambda: not pair.mainpc.gateway.link("pc2").stands.is_set())
        with pytest.raises(CallError) as caught:
            await pair.mainpc.ask("worker", "quick")
        assert (caught.value.code, caught.value.definite) == (Code.UNAVAILABLE, True)
        assert pair.mainpc.calls("pc2", "out", "indeterminate") == 1
        assert pair.mainpc.calls("pc2", "out", "unavailable") == 1


async def test_a_silent_link_ends_calls_by_their_deadline_and_is_given_up(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.link.PING_LIMIT_S", 0.1)
    everywhere(pair, instance(host="pc2"))
    async with serving(pair.pc2.run):
        assert await pair.mainpc.ask("worker", "quick") == "at once"
        pair.relay.silence()
        with pytest.raises(CallError) as caught:
            await pair.mainpc.ask("worker", "quick", timeout_s=0.2)
        assert caught.value.code == Code.DEADLINE
        link_up = pair.mainpc.gateway.metrics.registry.get_sample_value
        await until(lambda: link_up("threenines_gateway_link_up", {"peer": "pc2"}) == 0)


async def test_who_waits_on_a_link_that_went_silent_is_told_long_before_the_deadline(
    pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.gateway.link.PING_LIMIT_S", 0.2)
    everywhere(pair, instance(host="pc2"))
    async with serving(pair.pc2.run) as server:
        assert isinstance(server.agent, Worker)
        on_the_way = asyncio.create_task(pair.mainpc.ask("worker", "block", timeout_s=600))
        await server.agent.entered.wait()
        pair.relay.silence()
        with pytest.raises(CallError) as caught:
            await on_the_way
        assert (caught.value.code, caught.value.definite) == (Code.INDETERMINATE, False)


async def test_the_budget_is_forwarded(pair: Pair) -> None:
    everywhere(pair, instance(host="pc2"))
    async with serving(pair.pc2.run) as server:
        with pytest.raises(CallError) as caught:
            await pair.mainpc.ask("worker", "block", timeout_s=0.1)
        assert caught.value.code == Code.DEADLINE
        await until(lambda: server.agent.cancelled == 1)  # type: ignore[attr-defined]


async def test_pings_and_metrics(pair: Pair) -> None:
    assert (await pair.mainpc.ask("gateway", "_ping"))["state"] == "up"  # type: ignore[index]
    metrics = pair.mainpc.gateway.metrics.registry.get_sample_value
    await until(lambda: (metrics("threenines_gateway_link_rtt_seconds_count", {"peer": "pc2"}) or 0) >= 1)
    text = await pair.mainpc.ask("gateway", "_metrics")
    assert isinstance(text, str)
    for line in ('threenines_gateway_link_up{peer="pc2"} 1.0', 'threenines_gateway_in_flight{peer="pc2"}'):
        assert line in text
    with pytest.raises(CallError) as caught:
        await pair.mainpc.ask("gateway", "nothing")
    assert caught.value.code == Code.NO_METHOD


async def test_a_drain_refuses_and_lets_calls_end(pair: Pair) -> None:
    everywhere(pair, instance(host="pc2"))
    async with serving(pair.pc2.run) as server:
        assert isinstance(server.agent, Worker)
        on_the_way = asyncio.create_task(pair.mainpc.ask("worker", "block"))
        await server.agent.entered.wait()
        stopping = asyncio.create_task(pair.mainpc.gateway.stop())
        await until(lambda: pair.mainpc.gateway._draining)
        with pytest.raises(CallError) as caught:
            await pair.mainpc.ask("worker", "quick")
        assert caught.value.code in (Code.DRAINING, Code.UNAVAILABLE)  # told so, or has heard the good-bye
        server.agent.release.set()
        assert await on_the_way == "released"
        await stopping


# Who may come in.


@pytest.mark.parametrize("who", ["operator", "stranger", "foreign", None])
async def test_only_hosts_of_this_stack_come_in(pair: Pair, authority: Path, who: str | None) -> None:
    context = ssl.create_default_context(cafile=str(authority / "pc2" / "ca.pem"))
    if who is not None:
        context.load_cert_chain(str(authority / who / "host.pem"), str(authority / who / "host.key"))
    config = pair.pc2.gateway.config
    answer = b""
    try:
        reader, writer = await asyncio.open_connection(
            config.address, config.ports.gateway, ssl=context, server_hostname="pc2"
        )
        writer.write(encode(Request(1, "gateway", "_ping", 1000, pack(None))))
        answer = await asyncio.wait_for(reader.read(100), 10)
        writer.close()
    except (OSError, ssl.SSLError):
        pass
    assert answer == b""
    assert pair.pc2.gateway.link("mainpc").stands.is_set()


async def test_a_gateway_of_another_name_is_not_trusted(pair: Pair, authority: Path) -> None:
    from services.gateway.link import PeerLink
    from services.gateway.metrics import GatewayMetrics
    from services.gateway.tls import client_context

    config = pair.pc2.gateway.config
    metrics = GatewayMetrics()
    peer = Peer("mainpc", config.address, config.ports.gateway)  # it is pc2 that answers there
    link = PeerLink(peer, client_context(authority / "mainpc"), Scratch(), metrics)
    with pytest.raises((OSError, CallError)):
        await link._dial()


# Programs.


@contextmanager
def echo_program(port: int) -> Iterator[None]:
    environment = {**os.environ, "HOST": "127.0.0.1", "PORT": str(port)}
    command = [sys.executable, "-m", "services.agent.examples.http_echo"]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE)
    assert process.stdout is not None
    try:
        process.stdout.readline()
        yield
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


PROGRAM_ANSWERS = [
    ("echo", {"a": [1, None, "ü"]}, {"a": [1, None, "ü"]}),
    ("upper", {"text": "loud"}, {"text": "LOUD"}),
    ("_ping", None, {"incarnation": 4, "state": "up"}),
    ("upper", {"tex": 1}, Code.BAD_REQUEST),
    ("nothing", None, Code.NO_METHOD),
    ("../health", None, Code.NO_METHOD),
    ("echo", {"huge": "x" * (1 << 20)}, Code.TOO_LARGE),
]


async def test_a_program_is_called_by_http_from_both_hosts(pair: Pair) -> None:
    port = free_port("127.0.0.1")
    everywhere(pair, instance("echo", host="pc2", transport=Transport.HTTP, port=port, incarnation=4))
    with echo_program(port):
        for side in (pair.pc2, pair.mainpc):
            for method, body, expected in PROGRAM_ANSWERS:
                if isinstance(expected, Code):
                    with pytest.raises(CallError) as caught:
                        await side.ask("echo", method, body)
                    assert caught.value.code == expected
                else:
                    assert await side.ask("echo", method, body) == expected
    with pytest.raises(CallError) as caught:
        await pair.mainpc.ask("echo", "echo", 1)
    assert caught.value.code in (Code.UNAVAILABLE, Code.INDETERMINATE)


@asynccontextmanager
async def odd_server(answer: bytes) -> AsyncIterator[int]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        if not answer:
            await asyncio.sleep(60)
        writer.write(answer)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    yield server.sockets[0].getsockname()[1]
    server.close()


def http(status: str, body: bytes) -> bytes:
    return b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status.encode(), len(body), body)


ODD = [
    (http("200 OK", b"not json"), Code.HANDLER_ERROR),
    (http("200 OK", b"[" * 100_000), Code.HANDLER_ERROR),
    (http("200 OK", b" " * (2 << 20)), Code.TOO_LARGE),
    (http("302 Found", b""), Code.HANDLER_ERROR),
    (http("500 Internal Server Error", b"oh\nno"), Code.HANDLER_ERROR),
    (http("503 Service Unavailable", b""), Code.OVERLOADED),
    (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nshort", Code.INDETERMINATE),
    (b"\x00\x01 garbage\r\n\r\n", Code.INDETERMINATE),
    (b"", Code.DEADLINE),
]


@pytest.mark.parametrize(("answer", "code"), ODD)
async def test_odd_programs(pair: Pair, answer: bytes, code: Code) -> None:
    async with odd_server(answer) as port:
        pair.mainpc.view.put(instance("odd", transport=Transport.HTTP, port=port))
        with pytest.raises(CallError) as caught:
            await pair.mainpc.ask("odd", "method", timeout_s=0.3 if not answer else 5)
        assert caught.value.code == code
        assert "\n" not in caught.value.message


async def test_a_program_on_tcp_has_no_calls(pair: Pair) -> None:
    pair.mainpc.view.put(instance("tcp", transport=Transport.TCP, port=1, state=InstanceState.UP))
    with pytest.raises(CallError) as caught:
        await pair.mainpc.ask("tcp", "method")
    assert caught.value.code == Code.NO_METHOD


# Starting.


async def test_a_busy_port_is_said_in_one_line(pair: Pair) -> None:
    with run_folder() as run:
        config = msgspec.structs.replace(pair.mainpc.gateway.config, run=str(run))
        with pytest.raises(ListenError, match=r"127\.0\.0\.1:\d+: .*in use"):
            await Gateway(config, open_view=FakeView()).start()


@pytest.mark.parametrize(
    ("content", "part"), [(None, "not set"), ("{", "gateway.json"), ('{"host": 1}', "host")]
)
def test_a_wrong_configuration_is_said_in_one_line(tmp_path: Path, content: str | None, part: str) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "THREENINES_CONFIG"}
    if content is not None:
        (tmp_path / "gateway.json").write_text(content)
        environment["THREENINES_CONFIG"] = str(tmp_path / "gateway.json")
    done = subprocess.run(
        [sys.executable, "-m", "services.gateway"],
        check=False,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 64
    assert done.stderr.startswith("threenines: gateway: ")
    assert part in done.stderr
    assert done.stderr.count("\n") == 1
