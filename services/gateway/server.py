"""The gateway: takes the calls of this host and of other gateways (TLS) and sends each to its place."""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec

from services.agent.connection import FrameConnection, Scratch
from services.agent.directory import Directory, NoView, OpenView, open_snapshot
from services.agent.errors import CallError, Code
from services.agent.hostd_ask import ask_hostd
from services.agent.sockets import UnixListener, listen_unix
from services.agent.wire import Failure, Message, Reply, Request, encode, goodbye, pack
from services.gateway.config import GatewayConfig
from services.gateway.http_call import HttpCaller
from services.gateway.link import PeerLink
from services.gateway.local import LocalAgents
from services.gateway.metrics import Direction, GatewayMetrics
from services.gateway.tls import client_context, peer_host, server_context
from services.registry.model import Instance, Transport

MAX_IN_FLIGHT: Final = 4096
MAX_BYTES_IN_FLIGHT: Final = 64 << 20
MAX_CONNECTIONS: Final = 1024
DRAIN_LIMIT_S: Final = 5.0
FAREWELL_LIMIT_S: Final = 0.5
DEADLINE_LIMIT_MS: Final = 3_600_000
_NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,62}")

log = logging.getLogger("threenines.gateway")


class ListenError(Exception):
    """The gateway's port or socket cannot be had: where, and the mend."""


class _Caller(FrameConnection):
    """Someone who sends requests: a program of this host (`peer` is None), or another host's gateway."""

    def __init__(self, gateway: Gateway, *, remote: bool) -> None:
        super().__init__(gateway.scratch)
        self._gateway = gateway
        self._remote = remote
        self.peer: str | None = None

    def connected(self) -> None:
        if self._remote:
            self.peer = peer_host(self.transport)
            if self.peer not in self._gateway.known_hosts:
                log.warning("refused: certificate of no host of this stack (%s)", self.peer)
                self.abort(ConnectionAbortedError("unknown host"))
                return
        self._gateway.connected(self)

    def received(self, message: Message) -> None:
        if isinstance(message, Request):
            self._gateway.handle(self, message)
        else:
            self.abort(ConnectionAbortedError("a caller sent a reply"))

    def lost(self, cause: Exception | None) -> None:
        self._gateway.disconnected(self, cause)


class Gateway:
    """One per host. `start`, then calls are forwarded until `stop`."""

    def __init__(self, config: GatewayConfig, *, open_view: OpenView = open_snapshot) -> None:
        run = Path(config.run)
        self.config = config
        self.scratch = Scratch()
        self.metrics = GatewayMetrics()
        self.known_hosts = frozenset(host.name for host in config.hosts) - {config.host}
        self._socket = run / "gateway.sock"
        self._directory = Directory(run, config.host, open_view)
        self._agents = LocalAgents(run, self.scratch)
        self._http = HttpCaller(config.local)
        self._links: dict[str, PeerLink] = {}
        self._callers: set[_Caller] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._inflight: dict[str, dict[str, int]] = {}
        self._bytes = 0
        self._draining = False
        self._listeners: list[Callable[[], None]] = []
        self._hide: list[Callable[[], None]] = []
        self._alone = asyncio.Event()
        self._alone.set()

    async def start(self) -> None:
        """Dials the peers and listens. Raises `ListenError`."""
        config = self.config
        pki = Path(config.pki)
        loop = asyncio.get_running_loop()
        try:
            serving, dialling = server_context(pki), client_context(pki)
        except OSError as error:
            raise ListenError(f"{pki}: {error}; make the certificates anew") from None
        try:
            server = await loop.create_server(
                lambda: _Caller(self, remote=True),
                config.address,
                config.ports.gateway,
                ssl=serving,
                ssl_handshake_timeout=5,
                backlog=64,
            )
            self._listeners.append(server.close)
            local: UnixListener = await listen_unix(self._socket, lambda: _Caller(self, remote=False))
            self._listeners.append(local.close)
            self._hide.append(local.hide)
        except OSError as error:
            where = f"{config.address}:{config.ports.gateway}"
            mend = (
                "stop who listens there" if error.errno == errno.EADDRINUSE else "look at the host's address"
            )
            raise ListenError(f"{where}: {error.strerror or error}; {mend}") from None
        for peer in config.peers:
            link = PeerLink(peer, dialling, self.scratch, self.metrics)
            self._links[peer.host] = link
            link.start()
        log.info("serves on %s:%d and %s", config.address, config.ports.gateway, self._socket.name)

    async def stop(self) -> None:
        """Refuses new calls, waits for those on the way (bounded), closes everything."""
        self._draining = True
        for hide in self._hide:
            hide()
        for caller in list(self._callers):
            caller.send(goodbye("the gateway"))
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=DRAIN_LIMIT_S)
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_LIMIT_S):
                await self._alone.wait()
        for close in self._listeners:
            close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*(link.stop() for link in self._links.values()))
        await self._http.close()
        self._agents.close()
        self._directory.close()
        for caller in list(self._callers):
            caller.close()

    def link(self, host: str) -> PeerLink:
        """The link to a peer. Raises KeyError."""
        return self._links[host]

    # Callers.

    def connected(self, caller: _Caller) -> None:
        """A caller came."""
        if len(self._callers) >= MAX_CONNECTIONS:
            caller.abort(ConnectionAbortedError(f"more than {MAX_CONNECTIONS} connections"))
            return
        self._callers.add(caller)
        self._alone.clear()
        if self._draining:
            caller.send(goodbye("the gateway"))

    def disconnected(self, caller: _Caller, cause: Exception | None) -> None:
        """A caller went; what it asked for goes on, its answer is dropped."""
        self._callers.discard(caller)
        if not self._callers:
            self._alone.set()
        if cause is not None and not isinstance(cause, ConnectionResetError | BrokenPipeError | ssl.SSLError):
            log.warning("connection of %s closed: %s", caller.peer or "a local caller", cause)

    def handle(self, caller: _Caller, request: Request) -> None:
        """Answers `request`, in time or with a failure."""
        if request.agent == "gateway":
            self._answer_builtin(caller, request)
            return
        size = len(memoryview(request.body))
        if self._draining:
            refusal = (Code.DRAINING, "the gateway stops")
        elif request.deadline_ms <= 0:
            refusal = (Code.DEADLINE, "no time was left when the request arrived")
        elif not _NAME.fullmatch(request.agent):
            refusal = (Code.NOT_FOUND, f"{request.agent[:64]!r} cannot be the name of an agent")
        elif len(self._tasks) >= MAX_IN_FLIGHT or self._bytes + size > MAX_BYTES_IN_FLIGHT:
            refusal = (Code.OVERLOADED, f"{len(self._tasks)} calls of {self._bytes} bytes are on the way")
        else:
            self._bytes += size
            task = asyncio.get_running_loop().create_task(self._serve(caller, request, size))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return
        caller.send(encode(Failure(request.id, *refusal)))

    def _answer_builtin(self, caller: _Caller, request: Request) -> None:
        match request.method:
            case "_ping":
                state = "draining" if self._draining else "up"
                frame = encode(Reply(request.id, pack({"incarnation": os.getpid(), "state": state})))
            case "_metrics":
                frame = encode(Reply(request.id, pack(self.metrics.text())))
            case _:
                message = f"gateway has no method {request.method[:64]}"
                frame = encode(Failure(request.id, Code.NO_METHOD, message))
        caller.send(frame)

    async def _serve(self, caller: _Caller, request: Request, size: int) -> None:
        timeout_s = min(request.deadline_ms, DEADLINE_LIMIT_MS) / 1000
        direction, peer = (Direction.IN, caller.peer) if caller.peer else (Direction.LOCAL, self.config.host)
        outcome = "cancelled"
        try:
            if caller.peer is not None:
                body = await self._to_this_host(request, None, timeout_s)
            else:
                instance = await self._instance(request.agent, timeout_s)
                if instance.host != self.config.host:
                    direction, peer = Direction.OUT, instance.host
                    body = await self._to_peer(request, instance, timeout_s)
                else:
                    body = await self._to_this_host(request, instance, timeout_s)
            frame, outcome = encode(Reply(request.id, body)), "ok"
        except CallError as error:
            frame, outcome = encode(Failure(request.id, error.code, error.message)), error.code
        except Exception as error:
            log.exception("%s.%s failed in the gateway", request.agent, request.method)
            message = f"gateway: {type(error).__name__}"
            frame, outcome = encode(Failure(request.id, Code.INDETERMINATE, message)), Code.INDETERMINATE
        finally:
            self._bytes -= size
            self.metrics.calls.labels(peer, direction, outcome).inc()
        caller.send(frame)

    # Ways.

    async def _instance(self, agent: str, timeout_s: float) -> Instance:
        inflight = self._inflight.get(agent, {})
        try:
            return self._directory.instance(agent, inflight)
        except NoView:
            answer = await ask_hostd(self._directory.run, agent, self.scratch, timeout_s=timeout_s)
            self._directory.remember(answer)
            return self._directory.instance(agent, inflight, answer)

    async def _to_peer(self, request: Request, instance: Instance, timeout_s: float) -> msgspec.Raw:
        link = self._links.get(instance.host)
        if link is None:
            raise CallError(Code.UNAVAILABLE, f"{instance.host} is no peer of this host")
        by_host = self._inflight.setdefault(request.agent, {})
        by_host[instance.host] = by_host.get(instance.host, 0) + 1
        try:
            return await link.request(request.agent, request.method, request.body, timeout_s=timeout_s)
        finally:
            by_host[instance.host] -= 1

    async def _to_this_host(
        self, request: Request, instance: Instance | None, timeout_s: float
    ) -> msgspec.Raw:
        # What a peer sends ends here: it is never sent on, so two hosts that disagree make no circle.
        agent, method = request.agent, request.method
        if instance is None and not self._agents.exists(agent):
            instance = await self._instance(agent, timeout_s)
            if instance.host != self.config.host:
                raise CallError(Code.UNAVAILABLE, f"{agent} is not on {self.config.host} now")
        if instance is None or instance.transport is Transport.UNIX:
            return await self._agents.request(agent, method, request.body, timeout_s=timeout_s)
        if instance.transport is Transport.HTTP:
            return await self._http.request(instance, method, request.body, timeout_s=timeout_s)
        raise CallError(Code.NO_METHOD, f"{agent} is reached by TCP on port {instance.port}, not by calls")
