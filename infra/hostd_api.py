"""A client of hostd's HTTPS API with the operator's certificate: what the provider and `status` ask.

The server's certificate is checked against the host's *name*, whatever address leads there.
"""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import threading
from types import TracebackType
from typing import TypeVar

import msgspec

from infra.substrates.base import Credentials
from infra.topology import AgentSpec, Port

V = TypeVar("V")

MAX_ANSWER_BYTES = 64 << 20


class HostdError(Exception):
    """hostd answered, but not with what was asked for."""

    def __init__(self, where: str, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}; {mend}")
        self.where = where
        self.what = what
        self.mend = mend


class HostdUnreachable(HostdError):
    """No answer: whether a change was made is not known (indeterminate)."""


class HostdUnavailable(HostdError):
    """hostd says that it cannot do it now (503): nothing was done, and asking again is right."""


class InstanceView(msgspec.Struct, frozen=True, kw_only=True):
    """One instance of an agent, as far as the operator's side looks at it."""

    name: str
    host: str
    incarnation: int = 0
    state: str = "down"
    role: str = "primary"
    category: str = ""
    criticality: str = ""
    transport: str = "unix"
    epoch: int = 0


class AgentView(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/agents/{name}`: what was asked for, and what runs."""

    definition: AgentSpec | None = None
    instances: tuple[InstanceView, ...] = ()


class AgentsView(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/agents`."""

    agents: tuple[InstanceView, ...] = ()
    revision: int = 0
    stale: bool = False


class DefinitionsView(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/definitions`: the home of every agent that the stack has a definition of."""

    homes: dict[str, str]


class StartedView(msgspec.Struct, frozen=True, kw_only=True):
    """`PUT /v1/agents/{name}`."""

    name: str
    host: str = ""
    incarnation: int = 0
    state: str = "up"


class EtcdView(msgspec.Struct, frozen=True, kw_only=True):
    """What hostd says of etcd."""

    ok: bool = False
    revision: int = 0
    lag_ms: float | None = None


class StatusView(msgspec.Struct, frozen=True, kw_only=True):
    """`GET /v1/status`, as far as it is shown."""

    host: str
    stack: str = ""
    etcd: EtcdView = EtcdView()
    agents: dict[str, int] = {}


class _ErrorBody(msgspec.Struct, kw_only=True):
    code: str = ""
    message: str = ""


class _ErrorView(msgspec.Struct, kw_only=True):
    error: _ErrorBody = msgspec.field(default_factory=_ErrorBody)


class _NamedConnection(http.client.HTTPSConnection):
    """A connection to an address that must prove to be the host of a given name."""

    def __init__(self, name: str, address: str, port: int, context: ssl.SSLContext, timeout_s: float) -> None:
        super().__init__(address, int(port), timeout=timeout_s, context=context)
        self._name = name
        self._tls = context

    def connect(self) -> None:
        raw = socket.create_connection((self.host, self.port), self.timeout)
        try:
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.sock = self._tls.wrap_socket(raw, server_hostname=self._name)
        except BaseException:
            raw.close()
            raise


class HostdApi:
    """The API of one host. Keeps its connection; one thread at a time uses it."""

    def __init__(
        self,
        host: str,
        address: str,
        credentials: Credentials,
        *,
        port: int = Port.HOSTD,
        timeout_s: float = 15.0,
    ) -> None:
        self.host = host
        self._lock = threading.Lock()
        try:
            context = ssl.create_default_context(cafile=str(credentials.ca))
            context.load_cert_chain(str(credentials.cert), str(credentials.key))
        except (OSError, ssl.SSLError) as error:
            raise HostdError(
                f"hostd on {host}",
                f"the operator's certificate cannot be read ({error})",
                "bring the stack up again",
            ) from None
        self._connection = _NamedConnection(host, address, port, context, timeout_s)

    def __enter__(self) -> HostdApi:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the connection."""
        self._connection.close()

    def status(self) -> StatusView:
        """How the host is."""
        return self._decode(self._expect("GET", "/v1/status"), StatusView)

    def agents(self) -> AgentsView:
        """Every instance of the whole stack, as this host sees it."""
        return self._decode(self._expect("GET", "/v1/agents"), AgentsView)

    def definitions(self) -> DefinitionsView:
        """Every agent that the stack has a definition of, running or not."""
        return self._decode(self._expect("GET", "/v1/definitions"), DefinitionsView)

    def agent(self, name: str) -> AgentView | None:
        """One agent, None when the stack has no such definition."""
        status, body = self._ask("GET", f"/v1/agents/{name}")
        if status == http.HTTPStatus.NOT_FOUND:
            return None
        return self._decode(self._good("GET", name, status, body), AgentView)

    def put_agent(self, spec: AgentSpec, wait_s: float = 10.0) -> StartedView:
        """Defines the agent and waits until it is up. An unchanged definition restarts nothing."""
        body = msgspec.json.encode(spec)
        return self._decode(
            self._expect("PUT", f"/v1/agents/{spec.name}?wait_s={wait_s:g}", body, label=spec.name),
            StartedView,
        )

    def delete_agent(self, name: str) -> None:
        """Stops the agent and removes its definition; one that is not there is no error."""
        status, body = self._ask("DELETE", f"/v1/agents/{name}")
        if status != http.HTTPStatus.NOT_FOUND:
            self._good("DELETE", name, status, body)

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """Any other question: status and JSON. On a new `HostdApi` it is sent once and never repeated."""
        return self._ask(method, path, body)

    def _expect(self, method: str, path: str, body: bytes | None = None, label: str = "") -> bytes:
        status, answer = self._ask(method, path, body)
        return self._good(method, label or path, status, answer)

    def _good(self, method: str, label: str, status: int, body: bytes) -> bytes:
        if 200 <= status < 300:
            return body
        try:
            error = msgspec.json.decode(body, type=_ErrorView).error
            told = " ".join(f"{error.code}: {error.message}".split())[:300]
        except (msgspec.DecodeError, UnicodeDecodeError):
            told = body[:200].decode("utf-8", "replace")
        kind = HostdUnavailable if status == http.HTTPStatus.SERVICE_UNAVAILABLE else HostdError
        if status == http.HTTPStatus.UNPROCESSABLE_ENTITY:
            mend = f"mend what the manifest says of {label}"
        else:
            mend = f"see the log of hostd on {self.host}"
        raise kind(f"hostd on {self.host}", f"{method} {label} was answered {status} {told}", mend)

    def _decode(self, body: bytes, kind: type[V]) -> V:
        try:
            return msgspec.json.decode(body, type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HostdError(
                f"hostd on {self.host}", f"its answer was not understood: {error}", "check the versions"
            ) from None

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
        """One request. All of ours may be repeated: a kept connection that has died is renewed once."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        with self._lock:
            for fresh in (self._connection.sock is None, True):
                try:
                    self._connection.request(method, path, body, headers)
                    response = self._connection.getresponse()
                    return response.status, response.read(MAX_ANSWER_BYTES)
                except TimeoutError as error:
                    self._drop()
                    raise self._unreachable(error) from None
                except (OSError, http.client.HTTPException) as error:
                    self._drop()
                    if fresh:
                        raise self._unreachable(error) from None
        raise AssertionError("unreachable: the second try is always fresh")

    def _drop(self) -> None:
        with contextlib.suppress(OSError):
            self._connection.close()

    def _unreachable(self, error: Exception) -> HostdUnreachable:
        what = f"does not answer ({' '.join(str(error).split()) or type(error).__name__})"
        return HostdUnreachable(f"hostd on {self.host}", what, "see `threenines status`")
