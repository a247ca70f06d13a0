"""Carries what the watcher sees into the snapshot file."""

from __future__ import annotations

import logging

from services.registry.model import SnapshotError
from services.registry.snapshot_writer import SnapshotWriter
from services.registry.watcher import Update

log = logging.getLogger(__name__)

FRESH_FOR_MS = 1_000
"""Five renewals of a host record; after that without a sign of life the answers are marked stale."""


class SnapshotPublisher:
    """Give `update` and `alive` to a RegistryWatcher."""

    def __init__(self, writer: SnapshotWriter, fresh_for_ms: int = FRESH_FOR_MS) -> None:
        self._writer = writer
        self._fresh_for_ms = fresh_for_ms
        self._owed: Update | None = None
        self.failures = 0
        """Publications that failed (disk full, say). The last one is tried again with every sign of life."""

    def update(self, update: Update) -> None:
        if self._owed is None and not update.change.names and self._writer.generation:
            self._guard(None)
        else:
            self._guard(update)

    def alive(self, revision: int) -> None:
        self._guard(self._owed)

    def _guard(self, update: Update | None) -> None:
        try:
            if update is None:
                self._writer.touch(self._fresh_for_ms)
            else:
                self._owed = update
                self._writer.publish(update.entries, update.revision, self._fresh_for_ms)
                self._owed = None
        except SnapshotError as error:
            self.failures += 1
            log.error("%s", error)
