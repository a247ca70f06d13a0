"""Keeps a `RegistryView` true: lists, watches, and calls back when something changed.

At rest a change is handed on at once; in a burst changes are gathered for `coalesce_s`, or for as long as the
receiver took last time if that is longer. While etcd is away the last view stays, `on_alive` stops coming.
Only listings and events are signs of life (each host causes five a second with its own record); a progress
notification is none, see `view`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from dataclasses import dataclass

from services.registry.etcd import EtcdClient
from services.registry.etcd_types import EtcdCompacted, EtcdDefinite, EtcdError, KeyValue, WatchEvent
from services.registry.etcd_watch import WatchBreak
from services.registry.keys import Keys
from services.registry.model import Entry
from services.registry.snapshot_layout import boottime_ns
from services.registry.view import Change, RegistryView

log = logging.getLogger(__name__)


# gRPC codes that waiting does not cure: invalid argument, permission denied, unimplemented, unauthenticated.
_HOPELESS = frozenset({3, 7, 12, 16})


Record = KeyValue | WatchEvent


@dataclass(frozen=True, slots=True)
class Update:
    """The view after a batch of changes; `entries` is the receiver's to keep."""

    entries: Mapping[str, Entry]
    revision: int
    change: Change


@dataclass(slots=True)
class WatcherCounts:
    """For metrics."""

    listings: int = 0
    batches: int = 0
    updates: int = 0
    breaks: int = 0
    compactions: int = 0
    rejected: int = 0


class RegistryWatcher:
    """`run` it as a task; cancel the task to end it."""

    def __init__(
        self,
        client: EtcdClient,
        keys: Keys,
        on_update: Callable[[Update], None],
        *,
        on_alive: Callable[[int], None] = lambda revision: None,
        on_records: Callable[[Iterable[Record]], None] = lambda records: None,
        clock_ns: Callable[[], int] = boottime_ns,
        coalesce_s: float = 0.002,
        silence_s: float = 1.0,
        list_timeout_s: float = 2.0,
        retry_s: float = 0.1,
    ) -> None:
        """`on_update` gets every change; `on_alive(revision)` every sign that the watch is alive,
        after the update that came with it; `on_records` every record that was listed or written, at once,
        whatever its kind. All run in the event loop and must not block.
        """
        self.view = RegistryView(keys)
        self.counts = WatcherCounts()
        self._client = client
        self._prefix = keys.prefix
        self._on_update = on_update
        self._on_alive = on_alive
        self._on_records = on_records
        self._clock_ns = clock_ns
        self._coalesce_s = coalesce_s
        self._silence_s = silence_s
        self._list_timeout_s = list_timeout_s
        self._retry_s = retry_s
        self._pending = Change()
        self._alive_pending = False
        self._flush_timer: asyncio.TimerHandle | None = None
        self._tick_timer: asyncio.TimerHandle | None = None
        self._not_before_s = 0.0
        self._first = True

    async def run(self) -> None:
        """Raises EtcdDefinite when etcd refuses us for good (authorization, say)."""
        try:
            while True:
                revision = await self._list()
                try:
                    await self._follow(revision)
                except EtcdCompacted as error:
                    self.counts.compactions += 1
                    log.info("listing again: %s", error)
                except EtcdDefinite as error:
                    _raise_if_hopeless(error)
                    self.counts.breaks += 1
                    log.warning("watching again: %s", error)
                    await asyncio.sleep(self._retry_s)
        finally:
            for timer in (self._flush_timer, self._tick_timer):
                if timer is not None:
                    timer.cancel()

    async def _list(self) -> int:
        while True:
            try:
                listing = await self._client.list_prefix(self._prefix, timeout_s=self._list_timeout_s)
            except EtcdCompacted:
                continue  # compacted between two pages: begin again
            except EtcdError as error:
                _raise_if_hopeless(error)
                self.counts.breaks += 1
                log.warning("cannot list the registry: %s", error)
                await asyncio.sleep(self._retry_s)
                continue
            self.counts.listings += 1
            self._on_records(listing.kvs)
            self._take(self.view.reset(listing.kvs, listing.revision, self._clock_ns()), alive=True)
            return listing.revision

    async def _follow(self, revision: int) -> None:
        items = self._client.watch(self._prefix, start_revision=revision + 1, silence_s=self._silence_s)
        async with aclosing(items):
            async for item in items:
                if isinstance(item, WatchBreak):
                    self.counts.breaks += 1
                    log.warning("watch at %s broke: %s", item.endpoint.host, item.reason)
                else:
                    self.counts.batches += 1
                    if item.events:
                        self._on_records(item.events)
                    change = self.view.apply(item, self._clock_ns())
                    self._take(change, alive=bool(item.events))

    def _take(self, change: Change, *, alive: bool) -> None:
        for rejected in change.rejected:
            self.counts.rejected += 1
            log.error("%s: %s; the record before it stays in force", rejected.key, rejected.why)
        self._pending |= change
        self._alive_pending |= alive
        now_s = asyncio.get_running_loop().time()
        if self._flush_timer is None:
            if now_s >= self._not_before_s:
                self._flush()
            else:
                loop = asyncio.get_running_loop()
                self._flush_timer = loop.call_at(self._not_before_s, self._flush)
        self._arm_tick()

    def _flush(self) -> None:
        self._flush_timer = None
        change, self._pending = self._pending, Change()
        alive, self._alive_pending = self._alive_pending, False
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        if change or self._first:
            self._first = False
            self.counts.updates += 1
            self._on_update(Update(dict(self.view.entries), self.view.revision, change))
        if alive:
            self._on_alive(self.view.revision)
        ended_s = loop.time()
        self._not_before_s = ended_s + max(self._coalesce_s, ended_s - started_s)

    def _arm_tick(self) -> None:
        if self._tick_timer is not None:
            self._tick_timer.cancel()
            self._tick_timer = None
        now_ns = self._clock_ns()
        at_ns = self.view.next_check_ns(now_ns)
        if at_ns is not None:
            loop = asyncio.get_running_loop()
            self._tick_timer = loop.call_later((at_ns - now_ns) / 1e9 + 0.001, self._tick)

    def _tick(self) -> None:
        self._tick_timer = None
        self._take(self.view.tick(self._clock_ns()), alive=False)


def _raise_if_hopeless(error: EtcdError) -> None:
    if isinstance(error, EtcdDefinite) and error.code in _HOPELESS:
        raise error
