"""Asks hostd where an agent serves, for the time when the snapshot cannot be read."""

from __future__ import annotations

from pathlib import Path

import msgspec

from services.agent.channel import open_unix
from services.agent.connection import Scratch
from services.agent.errors import CallError, Code
from services.agent.wire import pack, unpack_as
from services.registry.model import Resolution


class ResolveRequest(msgspec.Struct, frozen=True):
    """Body of hostd's `resolve`."""

    name: str


async def ask_hostd(run: Path, agent: str, scratch: Scratch, *, timeout_s: float) -> Resolution:
    """hostd's answer. Raises `CallError`: `not-found`, else `unavailable`."""
    channel = await open_unix(run / "hostd.sock", scratch, timeout_s=timeout_s)
    try:
        body = await channel.request("hostd", "resolve", pack(ResolveRequest(agent)), timeout_s=timeout_s)
        return unpack_as(body, Resolution)
    except CallError as error:
        if error.code == Code.NOT_FOUND:
            raise
        raise CallError(Code.UNAVAILABLE, f"cannot resolve {agent}: {error}") from None
    finally:
        channel.close()
