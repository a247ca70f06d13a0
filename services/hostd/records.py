"""Writes this host's records to etcd: in order for each key, the latest value wins, and nobody waits for it.

Each write is a transaction on the revision that the record had when we last knew it. A write without an
answer is ambiguous: the record is read again before the next try, so a late one never undoes a newer one.
The one exception is a late *creation* that arrives after a deletion, which no comparison can tell from a
right one: `repair`, called when the watch shows a record that ought not to be there, takes it back.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from services.registry.etcd import EtcdClient
from services.registry.etcd_types import Compare, Delete, EtcdError, Put

WRITES_AT_ONCE = 16
RETRY_S = 0.1
RETRY_CAP_S = 2.0
TIMEOUT_S = 1.0


@dataclass(slots=True)
class _Record:
    wanted: bytes | None = None
    revision: int | None = None  # None: not known, has to be read
    version: int = 0  # of `wanted`
    done: int = 0  # the version that etcd has acknowledged
    acknowledged_revision: int = 0
    worker: asyncio.Task[None] | None = None
    waiters: list[tuple[int, asyncio.Future[int]]] = field(default_factory=list)


class RecordWriter:
    """One worker per key that has something to write."""

    def __init__(self, client: EtcdClient, on_write: Callable[[float], None] = lambda seconds: None) -> None:
        """`on_write` hears how long each acknowledged write took."""
        self._client = client
        self._on_write = on_write
        self._records: dict[str, _Record] = {}
        self._turns = asyncio.Semaphore(WRITES_AT_ONCE)
        self.trouble: str | None = None
        """Why the last write failed; None after a success."""

    @property
    def pending(self) -> int:
        """Keys whose latest value etcd has not acknowledged."""
        return sum(1 for record in self._records.values() if record.done != record.version)

    def put(self, key: str, value: bytes) -> None:
        """The record shall be `value`. Returns at once."""
        self._want(key, value)

    def delete(self, key: str) -> None:
        """There shall be no such record. Returns at once."""
        self._want(key, None)

    def repair(self, key: str) -> None:
        """The watch shows something else than was written here: look, and write again if it is so."""
        record = self._records.get(key)
        if record is not None and record.done == record.version:
            record.revision = None
            record.version += 1
            self._ensure_worker(key, record)

    def forget(self) -> None:
        """etcd may have lost what it acknowledged: every record is read again before its next write."""
        for key, record in list(self._records.items()):
            record.revision = None
            if record.worker is None:
                del self._records[key]

    async def settle(self, key: str, value: bytes | None, timeout_s: float) -> int:
        """`put` or `delete`, and wait: the revision at which etcd had it. Raises TimeoutError (it may be
        written later)."""
        record = self._want(key, value)
        if record.done == record.version:
            return record.acknowledged_revision
        waiter: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        entry = (record.version, waiter)
        record.waiters.append(entry)
        try:
            async with asyncio.timeout(timeout_s):
                return await waiter
        finally:
            if entry in record.waiters:
                record.waiters.remove(entry)

    async def close(self, timeout_s: float = 0.5) -> None:
        """Gives what is pending a last chance."""
        workers = [record.worker for record in self._records.values() if record.worker is not None]
        if workers:
            await asyncio.wait(workers, timeout=timeout_s)
        for worker in workers:
            worker.cancel()

    def _want(self, key: str, value: bytes | None) -> _Record:
        record = self._records.get(key)
        if record is None:
            record = self._records[key] = _Record()
        elif record.version > 0 and record.wanted == value:
            return record
        record.wanted = value
        record.version += 1
        self._ensure_worker(key, record)
        return record

    def _ensure_worker(self, key: str, record: _Record) -> None:
        if record.worker is None:
            record.worker = asyncio.get_running_loop().create_task(self._work(key, record))

    async def _work(self, key: str, record: _Record) -> None:
        retry_s = RETRY_S
        try:
            while record.done != record.version:
                version, value = record.version, record.wanted
                try:
                    async with self._turns:
                        written = await self._write(key, record, value)
                except EtcdError as error:
                    self.trouble = str(error)
                    written = 0
                if written:
                    self.trouble = None
                    retry_s = RETRY_S
                    record.done, record.acknowledged_revision = version, written
                    for wanted, waiter in record.waiters:
                        if wanted <= version and not waiter.done():
                            waiter.set_result(written)
                elif record.done != record.version:
                    await asyncio.sleep(retry_s)
                    retry_s = min(2 * retry_s, RETRY_CAP_S)
        finally:
            record.worker = None

    async def _write(self, key: str, record: _Record, value: bytes | None) -> int:
        """The revision of the write; 0 when the comparison failed. Raises EtcdError."""
        if record.revision is None:
            found = await self._client.get(key, timeout_s=TIMEOUT_S)
            record.revision = found.mod_revision if found is not None else 0
            if value is None and found is None:
                return 1
            if found is not None and found.value == value:
                return found.mod_revision
        expected, record.revision = record.revision, None
        if value is None and expected == 0:
            record.revision = 0
            return 1
        compare = Compare.unchanged(key, expected)
        began = time.monotonic()
        result = await self._client.txn(
            (compare,), (Delete(key) if value is None else Put(key, value),), timeout_s=TIMEOUT_S
        )
        if not result.succeeded:
            return 0
        self._on_write(time.monotonic() - began)
        record.revision = 0 if value is None else result.revision
        return result.revision
