"""Writes this host's records to etcd: in order for each key, the latest value wins, and nobody waits for it.

Each write is a transaction on the revision that the record had when we last knew it. A write without an
answer is ambiguous: the record is read again before the next try, and written again even where it already
reads as wanted while the write in doubt could still be done, so a late one never undoes a newer one.
The one exception is a late *creation* that arrives after a deletion, which no comparison can tell from a
right one: `repair`, called when the watch shows a record that ought not to be there, takes it back.

Writes that meet go together (`services.hostd.gathering`), and the first one of a key begins with the revision
that the watch has told, where it has told everything once, instead of a read.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from services.hostd.gathering import Gathering
from services.registry.etcd import EtcdClient
from services.registry.etcd_types import Compare, Delete, EtcdError, Op, Put, TxnResult

READS_AT_ONCE = 16
MAX_TOGETHER = 64
RETRY_S = 0.1
RETRY_CAP_S = 2.0
TIMEOUT_S = 1.0


@dataclass(slots=True)
class _Record:
    wanted: bytes | None = None
    revision: int | None = None  # None: not known, has to be read
    in_doubt: int | None = None  # the revision that the last write without an answer compares
    untouched: bool = True  # nothing was sent for it yet
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
        self._turns = asyncio.Semaphore(READS_AT_ONCE)
        self._together: Gathering[tuple[Compare, Op], TxnResult] = Gathering(
            self._send,
            fits=lambda waiting: min(len(waiting), MAX_TOGETHER),
            refused=lambda result: not result.succeeded,
        )
        self._told: dict[str, int] | None = None
        self._trusting = True
        self.trouble: str | None = None
        """Why the last write failed; None after a success."""

    @property
    def pending(self) -> int:
        """Keys whose latest value etcd has not acknowledged."""
        return sum(1 for record in self._records.values() if record.done != record.version)

    def told(self, revisions: Mapping[str, int]) -> None:
        """What the watch shows: the revision of each key, 0: it is gone. The first time: all there are."""
        if self._told is None:
            self._told = {}
        self._told |= revisions

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
        self._trusting = False
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
        if record.untouched and value is not None and self._told is not None and self._trusting:
            record.revision = self._told.get(key, 0)  # a wrong one is refused
        record.untouched = False
        if record.revision is None:
            async with self._turns:
                found = await self._client.get(key, timeout_s=TIMEOUT_S)
            record.revision = found.mod_revision if found is not None else 0
            if value is None and found is None:
                return 1
            if found is not None and found.value == value and found.mod_revision != record.in_doubt:
                return found.mod_revision
        expected, record.revision = record.revision, None
        if value is None and expected == 0:
            record.revision = 0
            return 1
        began = time.monotonic()
        op = Delete(key) if value is None else Put(key, value)
        record.in_doubt = expected
        result = await self._together.perform((Compare.unchanged(key, expected), op))
        record.in_doubt = None  # done or refused: that revision is of the past, for earlier ones in doubt too
        if not result.succeeded:
            return 0
        self._on_write(time.monotonic() - began)
        record.revision = 0 if value is None else result.revision
        return result.revision

    async def _send(self, parts: Sequence[tuple[Compare, Op]]) -> TxnResult:
        return await self._client.txn(
            [compare for compare, _ in parts], [op for _, op in parts], timeout_s=TIMEOUT_S
        )
