"""Calls to agents that are any program: JSON posted to `http://<local>:<port>/<method>`."""

from __future__ import annotations

import re
from typing import Final

import aiohttp
import msgspec

from services.agent.errors import CallError, Code
from services.agent.wire import MAX_FRAME_BYTES, pack, unpack
from services.registry.model import Instance

_METHOD: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}")
MAX_CONNECTIONS: Final = 64


class HttpCaller:
    """Keeps connections alive to the programs of this host."""

    def __init__(self, local: str) -> None:
        self._local = local
        self._session: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def request(
        self, instance: Instance, method: str, body: msgspec.Raw, *, timeout_s: float
    ) -> msgspec.Raw:
        """The program's JSON answer as a body. Raises `CallError`."""
        if not _METHOD.fullmatch(method):
            raise CallError(Code.NO_METHOD, f"{method[:64]!r} cannot be the name of a method")
        try:
            payload = msgspec.json.encode(unpack(body))
        except (TypeError, ValueError) as error:
            raise CallError(Code.BAD_REQUEST, f"body cannot be said in JSON: {error}") from None
        if self._session is None:
            connector = aiohttp.TCPConnector(limit=0, limit_per_host=MAX_CONNECTIONS, keepalive_timeout=300)
            self._session = aiohttp.ClientSession(connector=connector)
        try:
            async with self._session.post(
                f"http://{self._local}:{instance.port}/{method}",
                data=payload,
                headers={"Content-Type": "application/json"},
                timeout=aiohttp.ClientTimeout(total=timeout_s),
                allow_redirects=False,
            ) as response:
                answer = await _read(response)
                status = response.status
        except aiohttp.ClientConnectorError as error:
            raise CallError(Code.UNAVAILABLE, f"{instance.name} does not listen: {error.strerror}") from None
        except TimeoutError:
            raise CallError(Code.DEADLINE, f"{instance.name} did not answer in time") from None
        except (aiohttp.ClientError, OSError) as error:
            raise CallError(Code.INDETERMINATE, f"{instance.name}: {type(error).__name__}: {error}") from None
        if method == "_ping" and status < 500:
            return pack(
                {"incarnation": instance.incarnation, "state": "up"}
            )  # it answers: that is all it can say
        return _interpret(instance.name, method, status, answer)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in response.content.iter_chunked(64 << 10):
        size += len(part)
        if size > MAX_FRAME_BYTES:
            response.close()
            raise CallError(Code.TOO_LARGE, f"answer of more than {MAX_FRAME_BYTES} bytes")
        parts.append(part)
    return b"".join(parts)


def _interpret(name: str, method: str, status: int, answer: bytes) -> msgspec.Raw:
    if 200 <= status < 300:
        try:
            return pack(msgspec.json.decode(answer) if answer else None)
        except (msgspec.DecodeError, RecursionError) as error:
            raise CallError(Code.HANDLER_ERROR, f"{name}.{method} answered no JSON: {error}") from None
    text = answer[:200].decode(errors="replace").splitlines()
    reason = f"{name}.{method} answered {status}" + (f": {text[0]}" if text else "")
    match status:
        case 404 | 405:
            raise CallError(Code.NO_METHOD, reason)
        case 413:
            raise CallError(Code.TOO_LARGE, reason)
        case 429 | 503:
            raise CallError(Code.OVERLOADED, reason)
        case _ if 400 <= status < 500:
            raise CallError(Code.BAD_REQUEST, reason)
        case _:
            raise CallError(Code.HANDLER_ERROR, reason)
