"""hostd's way to the zygote: few forks at a time, and an end for a zygote that has gone silent."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import struct
from pathlib import Path

from infra.topology import AgentSpec
from services.agent.errors import CallError, Code
from services.agent.zygote_client import Child, ZygoteClient

FORKS_AT_ONCE = 4
SILENT_S = 5.0


class Zygote:
    """One question at a time would do for speed (a fork takes about a millisecond); few keep it simple."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._client = ZygoteClient(path, timeout_s=SILENT_S)
        self._turns = asyncio.Semaphore(FORKS_AT_ONCE)

    async def fork(self, spec: AgentSpec, incarnation: int, env: dict[str, str]) -> Child:
        """A process of `spec`; asking again for an incarnation that runs gives that process.

        Raises CallError: definite when no process was made, else nobody knows.
        """
        async with self._turns:
            began = asyncio.get_running_loop().time()
            try:
                child = await self._client.fork(spec, incarnation, env)
            except CallError as error:
                silent = asyncio.get_running_loop().time() - began >= SILENT_S
                if error.code == Code.INDETERMINATE and silent:
                    # What forks in a millisecond and is silent for seconds does not come back by itself:
                    # its supervisor starts another, which adopts the agents that run.
                    self._end()
                raise
            return child

    async def find(self, name: str, incarnation: int) -> Child | None:
        """The running process of that incarnation, None when the zygote knows of none. Raises CallError."""
        async with self._turns:
            children = await self._client.list()
        found: Child | None = None
        for child in children:
            if (child.name, child.incarnation) == (name, incarnation) and found is None:
                found = child
            else:
                os.close(child.pidfd)
        return found

    async def exit_status(self, name: str, incarnation: int) -> int | None:
        """How a process ended (negative: the signal), None when the zygote does not know."""
        try:
            async with self._turns:
                exits = await self._client.exits()
        except CallError:
            return None
        for one in reversed(exits):
            if (one.name, one.incarnation) == (name, incarnation):
                return one.status
        return None

    def _end(self) -> None:
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.settimeout(0.1)
            probe.connect(str(self._path))
            size = struct.calcsize("3i")
            pid = struct.unpack("3i", probe.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, size))[0]
            pidfd = os.pidfd_open(pid)
            try:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            finally:
                os.close(pidfd)
