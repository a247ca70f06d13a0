"""The asynchronous client: a name and a method in, a reply out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.registry.snapshot import Resolution


class Client:
    """Calls agents by name from a program on a host (asyncio).

    `run` and `host` come from `THREENINES_RUN` and `THREENINES_HOST` unless given. Errors: `CallError`.
    """

    def __init__(self, run: Path | None = None, host: str | None = None) -> None:
        self.run = run
        self.host = host

    async def call(self, agent: str, method: str, body: object = None, *, timeout_s: float = 5.0) -> Any:
        """The reply of `method`, as builtins."""
        raise NotImplementedError

    def resolve(self, agent: str) -> Resolution:
        """Where `agent` serves now: a read of the discovery snapshot."""
        raise NotImplementedError

    async def close(self) -> None:
        """Closes the connections; calls in flight end `indeterminate`."""
