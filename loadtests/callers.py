"""How a load generator calls: through the agents' client, or through the HTTP API of the host's daemon."""

from __future__ import annotations

import socket
import ssl
from typing import Protocol

import msgspec
from geventhttpclient import HTTPClient
from geventhttpclient.response import HTTPProtocolViolationError

from infra.topology import Port
from loadtests.mix import Known, Step
from services.agent.blocking import BlockingClient
from services.agent.errors import CallError, Code

AGENTS_TIMEOUT_S = 5.0


class Caller(Protocol):
    """Performs operations."""

    def perform(self, step: Step) -> None:
        """The operation, to its end. Raises CallError."""
        ...

    def close(self) -> None:
        """Gives everything back."""
        ...


class SdkCaller:
    """By `BlockingClient`, which every agent's program may use."""

    def __init__(self, timeout_s: float) -> None:
        self._client = BlockingClient()
        self._timeout_s = timeout_s

    def perform(self, step: Step) -> None:
        if step.f == "load-lookup":
            self._client.resolve(step.agent)
        else:
            self._client.call(step.agent, step.method, step.body, timeout_s=self._timeout_s)

    def close(self) -> None:
        self._client.close()


class _Told(msgspec.Struct, frozen=True):
    code: str
    message: str = ""


class _Refusal(msgspec.Struct, frozen=True):
    error: _Told


class HttpCaller:
    """By `GET /v1/resolve/NAME` and `POST /v1/call/NAME/METHOD` on the host's local port, kept alive."""

    def __init__(
        self, address: str, timeout_s: float, at_once: int, port: int = int(Port.HOSTD_LOCAL)
    ) -> None:
        self._client = HTTPClient(
            address, port, concurrency=at_once, connection_timeout=timeout_s, network_timeout=timeout_s
        )

    def perform(self, step: Step) -> None:
        if step.f == "load-http-lookup":
            self._ask("GET", f"/v1/resolve/{step.agent}", b"")
        else:
            self._ask("POST", f"/v1/call/{step.agent}/{step.method}", msgspec.json.encode(step.body))

    def agents(self) -> tuple[Known, ...]:
        """The agents that the host's daemon knows of. Raises CallError."""
        try:
            return msgspec.json.decode(self._ask("GET", "/v1/agents", b""), type=_Listing).agents
        except msgspec.MsgspecError as error:
            raise CallError(Code.INDETERMINATE, f"/v1/agents: {error}") from error

    def close(self) -> None:
        self._client.close()

    def _ask(self, method: str, path: str, body: bytes) -> bytes:
        headers = {"Content-Type": "application/json"} if body else {}
        try:
            response = self._client.request(method, path, body=body, headers=headers)
            status, answer = int(response.status_code), bytes(response.read())
        except (ConnectionRefusedError, socket.gaierror) as error:
            raise CallError(Code.UNAVAILABLE, f"{path}: {error}") from error
        except TimeoutError as error:
            raise CallError(Code.DEADLINE, f"{path}: no answer in time") from error
        except (OSError, ssl.SSLError, HTTPProtocolViolationError) as error:
            raise CallError(Code.INDETERMINATE, f"{path}: {type(error).__name__}: {error}") from error
        if status < 300:
            return answer
        try:
            told = msgspec.json.decode(answer, type=_Refusal).error
        except msgspec.MsgspecError:
            told = _Told(Code.INDETERMINATE, f"status {status} without a reason")
        raise CallError(told.code, told.message or f"status {status}")


class _Listing(msgspec.Struct, frozen=True):
    agents: tuple[Known, ...]
