"""The distributed tier: the last good view of discovery, kept in the hosts' Redis for cold starts.

A host that starts while etcd is away and that has no snapshot on disk begins with what another host saved,
marked stale. Nothing waits for this tier: every call ends within its deadline and says what came of it, and
discovery goes on without.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar
from zlib import crc32

import msgspec
from redis.asyncio import ConnectionPool, Redis
from redis.asyncio.connection import SSLConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from services.registry.model import Entry
from services.registry.tiers import distributed_ttl_s
from services.registry.watcher import Update

log = logging.getLogger(__name__)
T = TypeVar("T")

MAX_SAVED_BYTES = 64 << 20
"""A view that is larger is not saved; 10,000 agents take 6 MB."""


class Store(Protocol):
    """The part of `redis.asyncio.Redis` that is used."""

    def get(self, name: str) -> Awaitable[bytes | str | None]: ...
    def set(self, name: str, value: bytes, *, ex: int) -> Awaitable[object]: ...
    def aclose(self) -> Awaitable[None]: ...


class Saved(msgspec.Struct, frozen=True):
    """`saved_unix_s` is wall time: it is compared between hosts, and only to tell people the age."""

    revision: int
    saved_by: str
    saved_unix_s: float
    entries: dict[str, Entry]


class TierUnavailable(Exception):
    """No Redis took or gave the view in time. Discovery goes on without."""


@dataclass(frozen=True, slots=True)
class RedisAddress:
    """Where to dial; `name` is the host that the certificate must name, None: `host`."""

    host: str
    port: int
    name: str | None = None


class _NamedConnection(SSLConnection):
    """A connection to an address that must prove to be the host of a given name (a proxy may stand there)."""

    def __init__(self, *, server_hostname: str, **settings: Any) -> None:
        super().__init__(**settings)
        self._server_hostname = server_hostname

    def _connection_arguments(self) -> Mapping[str, Any]:
        return {**super()._connection_arguments(), "server_hostname": self._server_hostname}


def connect(address: RedisAddress, *, pki: Path | None, timeout_s: float) -> Store:
    """A client that connects when first used; `pki`: the folder with `ca.pem`, `host.pem`, `host.key`."""

    settings: dict[str, Any] = {
        "host": address.host,
        "port": address.port,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": timeout_s,
        "retry": Retry(NoBackoff(), 0),
    }
    if pki is None:
        return Redis(connection_pool=ConnectionPool(max_connections=2, **settings))
    pool = ConnectionPool(
        connection_class=_NamedConnection,
        max_connections=2,
        server_hostname=address.name or address.host,
        ssl_ca_certs=str(pki / "ca.pem"),
        ssl_certfile=str(pki / "host.pem"),
        ssl_keyfile=str(pki / "host.key"),
        ssl_check_hostname=True,
        **settings,
    )
    return Redis.from_pool(pool)


class DistributedTier:
    """`stores`: one's own host's Redis first. Only one of them may take writes (the others are replicas)."""

    def __init__(
        self,
        stores: Sequence[Store],
        *,
        stack: str,
        host: str,
        timeout_s: float = 0.5,
        wall_s: Callable[[], float] = time.time,
    ) -> None:
        """`timeout_s` bounds a whole `save` or `load`."""
        self._stores = tuple(stores)
        self._key = f"threenines:{stack}:v1:view"
        self._host = host
        self._timeout_s = timeout_s
        self._wall_s = wall_s

    async def save(self, entries: Mapping[str, Entry], revision: int, *, unchanged_s: float) -> None:
        """At the first Redis that takes it. Raises TierUnavailable."""
        saved = Saved(revision, self._host, self._wall_s(), dict(entries))
        packed = msgspec.msgpack.encode(saved)
        if len(packed) > MAX_SAVED_BYTES:
            raise TierUnavailable(f"the view takes {len(packed)} bytes, {MAX_SAVED_BYTES} are allowed")
        sealed = crc32(packed).to_bytes(4, "big") + packed

        async def save(store: Store) -> bool:
            await store.set(self._key, sealed, ex=distributed_ttl_s(unchanged_s))
            return True

        await self._first(save)

    async def load(self) -> Saved | None:
        """What was saved last, or None when nothing (intact) is there. Raises TierUnavailable."""

        async def load(store: Store) -> Saved | None:
            sealed = await store.get(self._key)
            return None if sealed is None else _open(sealed)

        return await self._first(load)

    async def close(self) -> None:
        for store in self._stores:
            await store.aclose()

    async def _first(self, ask: Callable[[Store], Awaitable[T]]) -> T:
        """The answer of the first store that gives one; each gets its share of the time."""
        deadline_s = asyncio.get_running_loop().time() + self._timeout_s
        failures: list[str] = []
        for index, store in enumerate(self._stores):
            left_s = deadline_s - asyncio.get_running_loop().time()
            try:
                async with asyncio.timeout(left_s / (len(self._stores) - index)):
                    return await ask(store)
            except TimeoutError:
                failures.append("no answer in time")
            except (OSError, _Unreadable, RedisError) as error:
                failures.append(f"{type(error).__name__}: {error}")
        raise TierUnavailable("; ".join(failures) or "there is no Redis")


class DistributedSaver:
    """Saves the newest view in the background, every `every_s` at most: hand each `Update` to `offer`."""

    def __init__(self, tier: DistributedTier, *, every_s: float = 5.0, refresh_s: float = 60.0) -> None:
        """`refresh_s`: how often an unchanged view is saved again, so that it does not expire."""
        self._tier = tier
        self._every_s = every_s
        self._refresh_s = refresh_s
        self._latest: Update | None = None
        self._changed_s = 0.0
        self._offered = asyncio.Event()
        self.saves = 0
        self.failures = 0

    def offer(self, update: Update) -> None:
        """Never waits."""
        if update.change.names or self._latest is None:
            self._latest = update
            self._changed_s = asyncio.get_running_loop().time()
            self._offered.set()

    async def run(self) -> None:
        """Until cancelled. A failure is counted and logged; the next turn tries again."""
        loop = asyncio.get_running_loop()
        while True:
            try:
                async with asyncio.timeout(self._refresh_s):
                    await self._offered.wait()
            except TimeoutError:
                pass  # save again what did not change
            self._offered.clear()
            if self._latest is not None:
                try:
                    await self._tier.save(
                        self._latest.entries,
                        self._latest.revision,
                        unchanged_s=loop.time() - self._changed_s,
                    )
                    self.saves += 1
                except TierUnavailable as error:
                    self.failures += 1
                    self._offered.set()
                    log.warning("the view was not saved for cold starts: %s", error)
            await asyncio.sleep(self._every_s)


class _Unreadable(Exception):
    """What was saved is damaged or of another version."""


def _open(sealed: bytes | str) -> Saved:
    if isinstance(sealed, str):
        raise _Unreadable("the client decodes its answers")
    packed = memoryview(sealed)[4:]
    if len(sealed) < 4 or int.from_bytes(sealed[:4], "big") != crc32(packed):
        raise _Unreadable("the saved view fails its checksum")
    try:
        return msgspec.msgpack.decode(packed, type=Saved)
    except msgspec.MsgspecError as error:
        raise _Unreadable(f"the saved view does not decode: {error}") from error
