"""One POST to etcd's JSON gateway, with a deadline, and the exact truth about its outcome.

Whether a request left this process is taken from aiohttp's trace of the connection, so that "nobody was
reached" (definite) and "sent, no answer" (indeterminate) are never confused. aiohttp repeats POSTs by itself
in no case, and redirects are refused.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from types import SimpleNamespace

import aiohttp
import msgspec

from services.registry import etcd_wire as wire
from services.registry.etcd_types import (
    Endpoint,
    EtcdDefinite,
    EtcdError,
    EtcdIndeterminate,
    EtcdUnavailable,
)

# gRPC status codes after which a write may have been performed (or may be yet): cancelled, unknown, deadline
# exceeded, aborted, internal, unavailable ("leader changed", "request timed out"), data loss.
INDETERMINATE_CODES = frozenset({1, 2, 4, 10, 13, 14, 15})

_LOST = (aiohttp.ClientError, OSError, asyncio.IncompleteReadError)


class Sent:
    """Becomes true when the first byte of the request is handed to the connection."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = False


async def _mark_sent(_session: aiohttp.ClientSession, context: SimpleNamespace, _params: object) -> None:
    context.trace_request_ctx.value = True


class Gateway:
    """Kept-alive connections to the endpoints. Made inside a running event loop; `close` it."""

    def __init__(self, tls: ssl.SSLContext | None, connect_timeout_s: float) -> None:
        trace = aiohttp.TraceConfig()
        trace.on_request_headers_sent.append(_mark_sent)
        self._tls = tls
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=60, ssl=True if tls is None else tls),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=connect_timeout_s),
            trace_configs=[trace],
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            headers={"Content-Type": "application/json"},
        )

    async def close(self) -> None:
        await self._session.close()

    def _post(
        self, endpoint: Endpoint, path: str, body: bytes, sent: Sent, headers: dict[str, str] | None = None
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        return self._session.post(
            endpoint.url.rstrip("/") + path,
            data=body,
            headers=headers,
            allow_redirects=False,
            server_hostname=endpoint.host if self._tls is not None else None,
            trace_request_ctx=sent,
        )

    async def call(self, endpoint: Endpoint, path: str, body: bytes, timeout_s: float) -> bytes:
        """The body of a 200. Raises EtcdDefinite, EtcdUnavailable (never sent), EtcdIndeterminate."""
        sent = Sent()
        try:
            async with asyncio.timeout(timeout_s), self._post(endpoint, path, body, sent) as response:
                answer = await response.read()
                status = response.status
        except TimeoutError as error:
            raise _lost(endpoint, sent, f"no answer in {timeout_s * 1000:.0f} ms") from error
        except _LOST as error:
            raise _lost(endpoint, sent, f"{type(error).__name__}: {error}") from error
        if status != 200:
            raise refusal(endpoint, status, answer)
        return answer

    async def stream(
        self, endpoint: Endpoint, path: str, body: bytes, *, silence_s: float, max_line_bytes: int
    ) -> AsyncGenerator[bytes, None]:
        """The lines of a streaming answer. Ends when the server ends it.

        Raises EtcdIndeterminate when nothing came for `silence_s`, the connection broke, or a line was longer
        than `max_line_bytes`; EtcdUnavailable when no connection came about; EtcdDefinite. Time that the
        consumer takes between two lines does not count as silence.
        """
        sent = Sent()
        try:
            async with AsyncExitStack() as stack:
                async with asyncio.timeout(silence_s):
                    # The gateway hands `Grpc-Metadata-*` on: a member that lost its leader ends the stream.
                    headers = {"Grpc-Metadata-hasleader": "true"}
                    response = await stack.enter_async_context(
                        self._post(endpoint, path, body, sent, headers)
                    )
                    if response.status != 200:
                        raise refusal(endpoint, response.status, await response.read())
                stack.callback(response.close)  # do not wait for the end of an endless answer
                pending = b""
                while True:
                    async with asyncio.timeout(silence_s):
                        chunk = await response.content.readany()
                    if not chunk:
                        return
                    *lines, pending = (pending + chunk).split(b"\n")
                    for line in lines:
                        if line:
                            yield line
                    if len(pending) > max_line_bytes:
                        raise _lost(endpoint, sent, f"a message longer than {max_line_bytes} bytes")
        except TimeoutError as error:
            raise _lost(endpoint, sent, f"silent for {silence_s:.1f} s") from error
        except _LOST as error:
            raise _lost(endpoint, sent, f"{type(error).__name__}: {error}") from error


def _lost(endpoint: Endpoint, sent: Sent, what: str) -> EtcdError:
    kind = EtcdIndeterminate if sent.value else EtcdUnavailable
    return kind(f"etcd on {endpoint.host} ({endpoint.url}): {what}")


def refusal(endpoint: Endpoint, status: int, answer: bytes) -> EtcdError:
    """The error that a gateway's answer other than 200 stands for."""
    try:
        body = wire.decode(answer, wire.ErrorBody)
    except msgspec.DecodeError:
        body = wire.ErrorBody(message=answer[:200].decode(errors="replace"))
    message = f"etcd on {endpoint.host} ({endpoint.url}): {body.message or f'HTTP status {status}'}"
    if body.code < 0 or body.code in INDETERMINATE_CODES:
        return EtcdIndeterminate(message)
    return EtcdDefinite(message, body.code)
