"""The distributed tier as hostd uses it: saves the view for others' cold starts, and begins with theirs.

Kept out of the way of starting: the Redis client is imported only once the host serves.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import TYPE_CHECKING

from services.hostd.config import HostConfig
from services.registry.model import Entry
from services.registry.watcher import Update

if TYPE_CHECKING:
    from services.registry.distributed import DistributedTier

log = logging.getLogger("threenines.hostd")


class Distribution:
    """`run` it as a task. Without any Redis configured it ends at once."""

    def __init__(
        self,
        config: HostConfig,
        *,
        needs_view: Callable[[], bool],
        take: Callable[[Mapping[str, Entry], int], None],
    ) -> None:
        """`take` gets a saved view while `needs_view` says that there is no other."""
        self._config = config
        self._needs_view = needs_view
        self._take = take
        self._latest: Update | None = None
        self._offer: Callable[[Update], None] | None = None

    def offer(self, update: Update) -> None:
        """The view changed. Never waits."""
        self._latest = update
        if self._offer is not None:
            self._offer(update)

    async def run(self, after_s: float) -> None:
        """Begins after `after_s`: loads a view if there is none by then, and saves from then on."""
        await asyncio.sleep(after_s)
        if not self._config.redis:
            return
        # In a thread: importing the client takes longer than a ping may wait.
        await asyncio.to_thread(import_module, "services.registry.distributed")
        from services.registry import distributed as tiers

        own_first = sorted(self._config.redis, key=lambda one: one.host != self._config.host)
        pki = self._config.pki_folder
        addresses = [tiers.RedisAddress(one.address, one.port, one.host) for one in own_first]
        stores = [tiers.connect(address, pki=pki, timeout_s=0.5) for address in addresses]
        tier = tiers.DistributedTier(stores, stack=self._config.stack, host=self._config.host)
        saver = tiers.DistributedSaver(tier)
        try:
            if self._needs_view():
                await self._load(tier)
            self._offer = saver.offer
            if self._latest is not None:
                saver.offer(self._latest)
            await saver.run()
        finally:
            await tier.close()

    async def _load(self, tier: DistributedTier) -> None:
        from services.registry.distributed import TierUnavailable

        try:
            saved = await tier.load()
        except TierUnavailable as error:
            log.warning("no saved view for the cold start: %s", error)
            return
        if saved is not None and self._needs_view():
            log.info("begins with the view that %s saved, revision %d", saved.saved_by, saved.revision)
            self._take(saved.entries, saved.revision)
