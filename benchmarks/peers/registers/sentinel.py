"""Redis by way of its Sentinels: redis-py asks them who is master whenever it has to connect."""

from __future__ import annotations

from collections.abc import Mapping

from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import Sentinel
from redis.backoff import NoBackoff

from benchmarks.peers.registers import OPERATION_S, hosts_of

SENTINEL_S = 0.05
"""What one Sentinel may take to answer: of three one may be dead, and there must be time for the others."""


class SentinelRegister:
    """Settings: `hosts`, `sentinels` (`address:port,…`), `master`."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._hosts = hosts_of(settings)
        places = [place.rsplit(":", 1) for place in settings["sentinels"].split(",")]
        sentinel = Sentinel(  # type: ignore[no-untyped-call]  # redis-py leaves it so
            [(address, int(port)) for address, port in places],
            sentinel_kwargs={
                "socket_timeout": SENTINEL_S,
                "socket_connect_timeout": SENTINEL_S,
                "retry": Retry(NoBackoff(), 0),
            },
        )
        self._redis = sentinel.master_for(
            settings["master"],
            socket_timeout=OPERATION_S,
            socket_connect_timeout=OPERATION_S,
            retry=Retry(NoBackoff(), 0),
        )

    async def add(self, client: str, n: int) -> str:
        # Whoever performs the write tells the address at which it was reached, in the same transaction.
        async with self._redis.pipeline(transaction=True) as pipe:
            pipe.setbit(f"set:{client}", n, 1)
            pipe.client_info()
            _, info = await pipe.execute()
        return self._hosts[info["laddr"].rsplit(":", 1)[0]]

    async def kept(self, client: str) -> set[int]:
        raw: bytes = await self._redis.get(f"set:{client}") or b""
        return {8 * place + bit for place, byte in enumerate(raw) for bit in range(8) if byte & 0x80 >> bit}

    async def drop(self) -> None:
        await self._redis.connection_pool.disconnect(inuse_connections=False)
