"""Ours on a worker: the SDK's client, which follows the agent by the snapshot."""

from __future__ import annotations

from collections.abc import Mapping

from benchmarks.peers.registers import OPERATION_S
from services.agent.client import Client


class AgentRegister:
    """Settings: `agent`. The run folder and the host come from THREENINES_*."""

    def __init__(self, settings: Mapping[str, str]) -> None:
        self._agent = settings["agent"]
        self._client = Client()

    async def add(self, client: str, n: int) -> str:
        body = {"client": client, "n": n}
        return str(await self._client.call(self._agent, "add", body, timeout_s=OPERATION_S))

    async def kept(self, client: str) -> set[int]:
        return set(await self._client.call(self._agent, "kept", {"client": client}, timeout_s=5.0))

    async def drop(self) -> None:
        """The client looks by itself who serves."""
