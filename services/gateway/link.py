"""The one connection to another host's gateway: kept up, pinged each second, given up when silent."""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
from typing import Final

import msgspec

from services.agent.channel import Channel
from services.agent.connection import Scratch
from services.agent.errors import CallError, Code
from services.agent.wire import NIL
from services.gateway.config import Peer
from services.gateway.metrics import GatewayMetrics
from services.gateway.tls import peer_host

FIRST_RETRY_S: Final = 0.05
LAST_RETRY_S: Final = 1.0
CONNECT_LIMIT_S: Final = 3.0
FIRST_ANSWER_S: Final = 2.0
OWN_STALL_S: Final = 0.2
"""A gateway that was late itself by so much has no right to call others silent."""
PING_EVERY_S: Final = 0.3
PING_LIMIT_S: Final = 1.2
"""As long as a host's lease: one that is silent for so long may have lost its agents to another by now, and
whoever waits for its answers had better ask again. An answer to anything else is a sign of life as well."""

log = logging.getLogger("threenines.gateway")


class PeerLink:
    """Carries this host's calls to one other host, many at a time."""

    def __init__(
        self, peer: Peer, context: ssl.SSLContext, scratch: Scratch, metrics: GatewayMetrics
    ) -> None:
        self.peer = peer
        self._context = context
        self._scratch = scratch
        self._channel: Channel | None = None
        self._task: asyncio.Task[None] | None = None
        self._up = metrics.link_up.labels(peer.host)
        self._rtt = metrics.link_rtt.labels(peer.host)
        metrics.in_flight.labels(peer.host).set_function(
            lambda: self._channel.in_flight if self._channel else 0
        )
        self.stands = asyncio.Event()
        """Set while calls can be sent."""

    def start(self) -> None:
        """Connects in the background and keeps at it."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """Closes the link; calls in flight end `indeterminate`."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def request(self, agent: str, method: str, body: msgspec.Raw, *, timeout_s: float) -> msgspec.Raw:
        """Forwards one call. Raises `CallError`: `unavailable` when the link is down (nothing was sent)."""
        channel = self._channel
        if channel is None:
            raise CallError(Code.UNAVAILABLE, f"no link to {self.peer.host}")
        return await channel.request(agent, method, body, timeout_s=timeout_s)

    async def _keep(self) -> None:
        retry_s = FIRST_RETRY_S
        complained = False
        while True:
            try:
                channel = await self._dial()
                log.info("link to %s stands", self.peer.host)
                retry_s, complained = FIRST_RETRY_S, False
                await self._use(channel)
                log.warning("link to %s is lost", self.peer.host)
            except (OSError, CallError) as error:  # ssl.SSLError and TimeoutError are OSErrors
                if not complained:
                    log.warning("no link to %s: %s", self.peer.host, str(error) or type(error).__name__)
                    complained = True
            await asyncio.sleep(retry_s * random.uniform(0.5, 1.0))
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    async def _dial(self) -> Channel:
        loop = asyncio.get_running_loop()
        peer = self.peer
        async with asyncio.timeout(CONNECT_LIMIT_S):
            _, channel = await loop.create_connection(
                lambda: Channel(self._scratch, loop, peer=f"gateway of {peer.host}"),
                peer.connect_host,
                peer.connect_port,
                ssl=self._context,
                server_hostname=peer.host,
            )
        if peer_host(channel.transport) != peer.host:
            channel.abort(ConnectionAbortedError("wrong certificate"))
            raise CallError(
                Code.UNAVAILABLE, f"who answers for {peer.host} shows the certificate of another role"
            )
        return channel

    async def _use(self, channel: Channel) -> None:
        pings = asyncio.get_running_loop().create_task(self._ping(channel))
        try:
            # The first answer proves that a gateway listens, not only a proxy in between.
            await channel.request("gateway", "_ping", NIL, timeout_s=FIRST_ANSWER_S)
            self._channel = channel
            self._up.set(1)
            self.stands.set()
            await channel.closed
        finally:
            self._channel = None
            self._up.set(0)
            self.stands.clear()
            pings.cancel()
            channel.close()

    async def _ping(self, channel: Channel) -> None:
        loop = asyncio.get_running_loop()
        while channel.open:
            await asyncio.sleep(PING_EVERY_S)
            began, heard = loop.time(), channel.answers
            try:
                await channel.request("gateway", "_ping", NIL, timeout_s=PING_LIMIT_S)
                self._rtt.observe(loop.time() - began)
            except CallError as error:
                own_stall = loop.time() - began - PING_LIMIT_S > OWN_STALL_S
                if channel.answers == heard and not own_stall:
                    channel.abort(TimeoutError(f"silent for {PING_LIMIT_S:g} s ({error.code})"))
