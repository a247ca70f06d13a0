"""Agents that misbehave on request."""

from __future__ import annotations

import time
from pathlib import Path

from services.agent.sdk import Agent, method


class Subject(Agent):
    """Answers, blocks its event loop, or waits for ever."""

    @method()
    async def echo(self, text: str) -> str:
        return text

    @method()
    def block(self, seconds: float) -> None:
        time.sleep(seconds)

    @method()
    def read(self, path: str) -> str:
        """Stands still until somebody writes."""
        return Path(path).read_text()

    @method()
    async def never(self) -> None:
        import asyncio

        await asyncio.get_running_loop().create_future()
