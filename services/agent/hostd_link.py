"""Tells hostd that an agent is ready, and again when hostd comes back; never stands in the agent's way."""

from __future__ import annotations

import asyncio
import logging
import random
from pathlib import Path
from typing import Final

import msgspec

from services.agent.channel import open_unix
from services.agent.connection import Scratch
from services.agent.errors import CallError
from services.agent.server import Description
from services.agent.wire import pack

FIRST_RETRY_S: Final = 0.05
LAST_RETRY_S: Final = 1.0
ANSWER_LIMIT_S: Final = 5.0

log = logging.getLogger("threenines.agent")


class Registration(msgspec.Struct, frozen=True):
    """Body of `register`."""

    name: str
    incarnation: int
    pid: int
    methods: tuple[str, ...]
    idempotent: tuple[str, ...]
    tags: dict[str, str]


class Deregistration(msgspec.Struct, frozen=True):
    """Body of `deregister`."""

    name: str
    incarnation: int


def registration(description: Description, pid: int) -> Registration:
    """What hostd is told about an agent."""
    return Registration(
        name=description.name,
        incarnation=description.incarnation,
        pid=pid,
        methods=description.methods,
        idempotent=description.idempotent,
        tags=description.tags,
    )


class HostdLink:
    """Keeps one agent registered over `hostd.sock`."""

    def __init__(self, path: Path, registration: Registration, scratch: Scratch) -> None:
        self._path = path
        self._registration = registration
        self._scratch = scratch
        self._task: asyncio.Task[None] | None = None
        self.registered = asyncio.Event()
        """Set while hostd knows the agent."""

    def start(self) -> None:
        """Registers in the background."""
        self._task = asyncio.get_running_loop().create_task(self._keep())

    async def stop(self) -> None:
        """Says good-bye when hostd is there to hear it."""
        was_registered = self.registered.is_set()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if was_registered:
            farewell = Deregistration(self._registration.name, self._registration.incarnation)
            try:
                channel = await open_unix(self._path, self._scratch, timeout_s=0.5)
                await channel.request("hostd", "deregister", pack(farewell), timeout_s=0.5)
                channel.close()
            except CallError as error:
                log.warning("hostd did not hear that this agent stops: %s", error)

    async def _keep(self) -> None:
        retry_s = FIRST_RETRY_S
        body = pack(self._registration)
        complained = False
        while True:
            try:
                channel = await open_unix(self._path, self._scratch, timeout_s=ANSWER_LIMIT_S)
                try:
                    await channel.request("hostd", "register", body, timeout_s=ANSWER_LIMIT_S)
                    self.registered.set()
                    retry_s, complained = FIRST_RETRY_S, False
                    await channel.closed
                finally:
                    self.registered.clear()
                    channel.close()
            except CallError as error:
                if not complained:
                    log.info("not registered with hostd, trying on: %s", error)
                    complained = True
            await asyncio.sleep(retry_s * random.uniform(0.5, 1.0))
            retry_s = min(2 * retry_s, LAST_RETRY_S)
