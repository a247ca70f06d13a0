"""What the client says about a request whose answer is broken, late, missing or a refusal; and TLS."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import pytest

from services.registry.etcd import EtcdClient
from services.registry.etcd_types import (
    Endpoint,
    EtcdDefinite,
    EtcdError,
    EtcdIndeterminate,
    EtcdUnavailable,
    Put,
)
from services.registry.etcd_watch import WatchBreak
from tests.registry.etcd_cluster import EtcdCluster, etcd_binary
from tests.registry.pki import make_pki

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@asynccontextmanager
async def fake(handler: Handler) -> AsyncIterator[tuple[Endpoint, list[str]]]:
    """A server that reads requests and lets `handler` misbehave; yields its endpoint and the paths asked."""
    asked: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                asked.append(head.split(b" ")[1].decode())
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
                await reader.readexactly(length)
                await handler(reader, writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    try:
        yield Endpoint("fake", f"http://127.0.0.1:{port}"), asked
    finally:
        server.close()


def answer(status: int, body: bytes, *, close: bool = False) -> Handler:
    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\n\r\n" % (status, len(body)) + body)
        await writer.drain()
        if close:
            writer.close()

    return handler


async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.close()


async def half_an_answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(b'HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"header":')
    await writer.drain()
    writer.close()


async def never(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
    await reader.read(1)


@pytest.mark.parametrize(
    ("handler", "kind"),
    [
        (hang_up, EtcdIndeterminate),
        (half_an_answer, EtcdIndeterminate),
        (never, EtcdIndeterminate),
        (answer(200, b"surely not JSON"), EtcdIndeterminate),
        (answer(200, b'{"header": {"revision": "x"}}'), EtcdIndeterminate),
        (answer(503, b'{"code": 14, "message": "etcdserver: leader changed"}'), EtcdIndeterminate),
        (answer(504, b'{"code": 4, "message": "context deadline exceeded"}'), EtcdIndeterminate),
        (answer(500, b"a proxy speaks"), EtcdIndeterminate),
        (answer(302, b""), EtcdIndeterminate),
        (answer(401, b'{"code": 16, "message": "etcdserver: invalid auth token"}'), EtcdDefinite),
        (answer(429, b'{"code": 8, "message": "etcdserver: too many requests"}'), EtcdDefinite),
        (
            answer(400, b'{"error": "x", "code": 3, "message": "etcdserver: key is not provided"}'),
            EtcdDefinite,
        ),
    ],
)
async def test_a_write_is_sent_once_and_its_outcome_is_told_truly(
    handler: Handler, kind: type[EtcdError]
) -> None:
    async with fake(handler) as (first, asked), fake(answer(200, b"{}")) as (second, asked_second):
        client = EtcdClient([first, second], timeout_s=0.3)
        try:
            with pytest.raises(kind) as error:
                await client.txn([], [Put("k", b"v")])
            assert type(error.value) is kind
            assert "fake" in str(error.value)
            assert error.value.definite is (kind is EtcdDefinite)
            assert asked == ["/v3/kv/txn"]
            assert asked_second == []
        finally:
            await client.close()


async def test_an_idle_connection_that_the_server_dropped_makes_a_write_indeterminate_at_worst() -> None:
    async with fake(answer(200, b'{"header": {"revision": "5"}}', close=True)) as (endpoint, asked):
        client = EtcdClient([endpoint], timeout_s=1.0)
        try:
            for turn in range(1, 4):
                try:
                    assert (await client.put("k", b"v")).revision == 5
                except EtcdIndeterminate:
                    continue
                assert len(asked) <= turn
        finally:
            await client.close()


async def test_a_write_goes_on_only_past_endpoints_that_were_never_reached() -> None:
    async with fake(answer(200, b'{"header": {"revision": "5"}}')) as (alive, asked):
        client = EtcdClient([Endpoint("dead", "http://127.0.0.1:1"), alive], timeout_s=1.0)
        try:
            assert (await client.put("k", b"v")).revision == 5
            assert client.order()[0] == alive, "an endpoint that failed is tried last for a while"
            assert asked == ["/v3/kv/put"]
        finally:
            await client.close()


@pytest.mark.parametrize("handler", [hang_up, half_an_answer, never, answer(503, b'{"code": 14}')])
async def test_a_read_goes_to_the_next_endpoint(handler: Handler) -> None:
    good = answer(
        200, b'{"header": {"revision": "9"}, "kvs": [{"key": "aw==", "value": "dg=="}], "count": "1"}'
    )
    async with fake(handler) as (first, asked), fake(good) as (second, _):
        client = EtcdClient([first, second], timeout_s=0.5)
        try:
            found = await client.get("k")
            assert found is not None
            assert (found.key, found.value) == ("k", b"v")
            assert asked == ["/v3/kv/range"]
        finally:
            await client.close()


async def test_nobody_answers_a_read_in_time() -> None:
    async with fake(never) as (first, _), fake(never) as (second, _):
        client = EtcdClient([first, second], timeout_s=0.1)
        try:
            with pytest.raises(EtcdUnavailable, match=r"no answer in .* no answer in"):
                await client.get("k")
        finally:
            await client.close()


async def test_a_watch_that_falls_silent_or_talks_nonsense_moves_on() -> None:
    event = b'{"result":{"header":{"revision":"7"},"events":[{"kv":{"key":"L3c=","value":"MQ==",'
    event += b'"mod_revision":"7"}}]}}'

    def chunk(data: bytes) -> bytes:
        return b"%x\r\n%s\r\n" % (len(data), data)

    async def one_event_in_pieces(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
        writer.write(chunk(b'{"result":{"created":true}}\n' + event[:40]))
        await writer.drain()
        writer.write(chunk(event[40:] + b"\n"))
        await writer.drain()
        await reader.read(1)

    async with (
        fake(answer(200, b"nonsense\n")) as (first, _),
        fake(answer(400, b'{"code": 14, "message": "no leader"}')) as (second, _),
        fake(one_event_in_pieces) as (third, _),
    ):
        client = EtcdClient([first, second, third], timeout_s=1.0, avoid_s=0.0)
        seen: list[object] = []
        try:
            client._avoid_s = 60.0
            async with (
                asyncio.timeout(10),
                aclosing(client.watch("/w", start_revision=1, silence_s=0.3)) as items,
            ):
                async for item in items:
                    seen.append(item)
                    if len(seen) == 4:
                        break
        finally:
            await client.close()
    reasons = [item.reason for item in seen if isinstance(item, WatchBreak)]
    assert "not a watch's answer" in reasons[0]
    assert "no leader" in reasons[1]
    assert "silent for 0.3 s" in reasons[2]
    assert [e.value for item in seen if not isinstance(item, WatchBreak) for e in item.events] == [b"1"]  # type: ignore[attr-defined]


# --- TLS ---


@pytest.mark.live
async def test_mutual_tls_checks_the_host_name_whatever_the_address(tmp_path: Path) -> None:
    if etcd_binary() is None:
        pytest.skip("no etcd here; `make setup` brings it")
    make_pki(tmp_path, "pc2")
    trusting = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    known = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    known.load_cert_chain(tmp_path / "host.pem", tmp_path / "host.key")
    with EtcdCluster(1, tls=tmp_path) as cluster:
        url = cluster.members[0].endpoint.url

        async def revision(host: str, context: ssl.SSLContext) -> int:
            client = EtcdClient([Endpoint(host, url)], tls=context, timeout_s=2.0)
            try:
                return (await client.put("k", b"v")).revision
            finally:
                await client.close()

        client = EtcdClient([Endpoint("pc2", url)], tls=known, timeout_s=2.0)
        await cluster.ready(client)
        await client.close()
        assert await revision("pc2", known) == 2
        with pytest.raises(EtcdUnavailable, match=r"(?i)hostname mismatch|certificate"):
            await revision("mainpc", known)
        with pytest.raises(EtcdError):
            await revision("pc2", trusting)
        assert await revision("pc2", known) == 3
