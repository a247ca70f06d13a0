"""Ours from a host without agents: HTTPS to either worker's daemon, with the operator's certificate."""

from __future__ import annotations

import ssl
from collections.abc import Mapping

import aiohttp

from benchmarks.peers.registers import OPERATION_S, hosts_of


class HostdRegister:
    """Settings: `agent`, `hosts`, `port`, `ca`, `cert`, `key` (paths)."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._order = list(hosts_of(settings).items())
        self._agent, self._port = settings["agent"], int(settings["port"])
        self._tls = ssl.create_default_context(cafile=settings["ca"])
        self._tls.load_cert_chain(settings["cert"], settings["key"])
        self._session: aiohttp.ClientSession | None = None

    async def add(self, client: str, n: int) -> str:
        return str(await self._ask("add", {"client": client, "n": n}, OPERATION_S))

    async def kept(self, client: str) -> set[int]:
        answer = await self._ask("kept", {"client": client}, 5.0)
        assert isinstance(answer, list)
        return set(answer)

    async def drop(self) -> None:
        """Asks the other worker next time."""
        self._order.reverse()
        if self._session is not None:
            session, self._session = self._session, None
            await session.close()

    async def _ask(self, method: str, body: object, timeout_s: float) -> object:
        if self._session is None:
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=self._tls))
        address, name = self._order[0]
        url = f"https://{address}:{self._port}/v1/call/{self._agent}/{method}?timeout_s={timeout_s}"
        async with self._session.post(url, json=body, server_hostname=name) as response:
            answer: object = await response.json()
        if response.status != 200:
            raise ConnectionError(f"{response.status} {answer}")
        return answer
