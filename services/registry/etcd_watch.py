"""A watch that goes on: resumed after its last revision at another endpoint when it breaks or falls silent.

etcd tells the events of a revision together and revisions in order, so `last mod_revision + 1` is the exact
place to go on (guarantees "ordered", "reliable", "resumable" of etcd's API). The revision in the header of a
message *with* events may run ahead of what was told, therefore it counts only in progress notifications.

A member cut off from its leader would look like a quiet one: the stream asks for a leader (`hasleader`), and
silence longer than `silence_s` counts as a break. Run etcd with `--watch-progress-notify-interval` of a third
of that, or a quiet cluster is re-watched every `silence_s` (which is harmless).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Protocol

import msgspec

from services.registry import etcd_wire as wire
from services.registry.etcd_http import INDETERMINATE_CODES, Gateway
from services.registry.etcd_types import (
    Endpoint,
    EtcdCompacted,
    EtcdDefinite,
    EtcdError,
    EtcdIndeterminate,
    RangeResult,
    WatchBatch,
)

MAX_MESSAGE_BYTES = 64 << 20
_MAX_RETRY_S = 1.0


@dataclass(frozen=True, slots=True)
class WatchBreak:
    """The watch lost its endpoint and goes on at another: for logs and counters; nothing is missed."""

    endpoint: Endpoint
    reason: str


WatchItem = WatchBatch | WatchBreak


class Asker(Protocol):
    """The part of the client that the watch needs."""

    def order(self) -> list[Endpoint]: ...
    def mark_failed(self, endpoint: Endpoint) -> None: ...
    async def range(self, key: str, *, limit: int = 0, keys_only: bool = False) -> RangeResult: ...


async def watch(
    client: Asker,
    gateway: Gateway,
    prefix: str,
    *,
    start_revision: int,
    silence_s: float,
    retry_s: float,
) -> AsyncGenerator[WatchItem, None]:
    """Never ends by itself. Raises EtcdCompacted (list again; also when the store went back, as after a
    restore) and EtcdDefinite (etcd refuses the watch). `retry_s` is the first pause when every endpoint
    fails; it doubles up to 1 s. Close the generator (`aclosing`) to end the watch.
    """
    next_revision = start_revision
    failures = 0
    while True:
        endpoint = client.order()[0]
        try:
            stream = _responses(gateway, endpoint, prefix, next_revision, silence_s)
            async with aclosing(stream):
                async for response in stream:
                    _check(response, next_revision)
                    if response.created and response.header.revision < next_revision - 1:
                        await _check_not_rewound(client, prefix, next_revision)
                    if response.events:
                        failures = 0
                        told = (event.plain() for event in response.events)
                        events = tuple(event for event in told if event.mod_revision >= next_revision)
                        if events:
                            next_revision = events[-1].mod_revision + 1
                        yield WatchBatch(next_revision - 1, events)
                    elif not response.created and response.header.revision >= next_revision - 1:
                        failures = 0
                        next_revision = response.header.revision + 1
                        yield WatchBatch(next_revision - 1, ())
            reason = "the stream ended"
        except EtcdDefinite:
            raise
        except EtcdError as error:
            reason = str(error)
        client.mark_failed(endpoint)
        yield WatchBreak(endpoint, reason)
        failures += 1
        if failures >= len(client.order()):
            rounds = failures - len(client.order())
            await asyncio.sleep(min(_MAX_RETRY_S, retry_s * 2.0 ** min(rounds, 10)))


async def _responses(
    gateway: Gateway, endpoint: Endpoint, prefix: str, start_revision: int, silence_s: float
) -> AsyncGenerator[wire.WatchResponse, None]:
    # One revision early: etcd sends no progress to a watch that begins in the future (3.7).
    create = wire.WatchCreate(prefix.encode(), wire.prefix_end(prefix), max(1, start_revision - 1))
    lines = gateway.stream(
        endpoint,
        "/v3/watch",
        wire.encode(wire.WatchRequest(create)),
        silence_s=silence_s,
        max_line_bytes=MAX_MESSAGE_BYTES,
    )
    async with aclosing(lines):
        async for line in lines:
            try:
                item = wire.decode(line, wire.WatchItem)
            except msgspec.DecodeError as error:
                raise EtcdIndeterminate(f"etcd on {endpoint.host}: not a watch's answer: {error}") from error
            if item.error is not None:
                code = item.error.code or item.error.grpc_code
                message = f"etcd on {endpoint.host}: {item.error.message}"
                if code in INDETERMINATE_CODES:
                    raise EtcdIndeterminate(message)
                raise EtcdDefinite(message, code)
            if item.result is not None:
                yield item.result


def _check(response: wire.WatchResponse, next_revision: int) -> None:
    if response.compact_revision > 0:
        raise EtcdCompacted(
            f"revision {next_revision} is compacted, {response.compact_revision} is the oldest",
            response.compact_revision,
        )
    if response.canceled:
        raise EtcdIndeterminate(f"the watch was cancelled: {response.cancel_reason or 'no reason given'}")


async def _check_not_rewound(client: Asker, prefix: str, next_revision: int) -> None:
    """A member may lag behind; the cluster may not. If it does, it was restored from an older copy."""
    now = await client.range(prefix, limit=1, keys_only=True)
    if now.revision < next_revision - 1:
        raise EtcdCompacted(f"the store went back from revision {next_revision - 1} to {now.revision}", 0)
