"""The blocking client: plain sockets, for scripts, threads and gevent (which patches them)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from services.registry.snapshot import Resolution


class BlockingClient:
    """Calls agents by name. Errors: `CallError`."""

    def __init__(self, run: Path | None = None, host: str | None = None) -> None:
        self.run = run
        self.host = host

    def call(self, agent: str, method: str, body: object = None, *, timeout_s: float = 5.0) -> Any:
        """The reply of `method`, as builtins."""
        raise NotImplementedError

    def resolve(self, agent: str) -> Resolution:
        """Where `agent` serves now: a read of the discovery snapshot."""
        raise NotImplementedError

    def close(self) -> None:
        """Closes the connections."""
