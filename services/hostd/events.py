"""What happened on this host, in order: a ring in memory for who asks, JSON lines on disk for later.

Writing to disk never delays supervision: lines are handed to a thread in batches, and when the disk refuses
them they are counted as lost and stay in the ring.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from services.hostd.clock import boottime_ns

RING_EVENTS = 10_000
FLUSH_S = 0.1
ROTATE_BYTES = 16 << 20


class HostEvent(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the log. `time_ns` is CLOCK_BOOTTIME of this host; `seq` rises by one with each event."""

    seq: int
    time_ns: int
    host: str
    event: str
    agent: str = ""
    incarnation: int = 0
    detail: str = ""


class EventLog:
    """`first_seq` must be above every number an earlier life of this host gave out."""

    def __init__(
        self,
        host: str,
        path: Path | None,
        *,
        first_seq: int = 1,
        now_ns: Callable[[], int] = boottime_ns,
        ring_events: int = RING_EVENTS,
    ) -> None:
        self._host = host
        self._path = path
        self._now_ns = now_ns
        self._next = first_seq
        self._ring: deque[HostEvent] = deque(maxlen=ring_events)
        self._unwritten: list[HostEvent] = []
        self._flush: asyncio.TimerHandle | None = None
        self._writing: asyncio.Future[None] | None = None
        self._encoder = msgspec.json.Encoder()
        self.lost_lines = 0
        self.trouble: str | None = None
        """Why the file cannot be written at present."""

    def add(
        self,
        event: str,
        *,
        agent: str = "",
        incarnation: int = 0,
        detail: str = "",
        time_ns: int | None = None,
    ) -> HostEvent:
        """Notes an event, now or at `time_ns`."""
        entry = HostEvent(
            seq=self._next,
            time_ns=self._now_ns() if time_ns is None else time_ns,
            host=self._host,
            event=event,
            agent=agent,
            incarnation=incarnation,
            detail=detail,
        )
        self._next += 1
        self._ring.append(entry)
        if self._path is not None:
            self._unwritten.append(entry)
            if self._flush is None and self._writing is None:
                self._flush = asyncio.get_running_loop().call_later(FLUSH_S, self._write)
        return entry

    def since(self, seq: int, limit: int = RING_EVENTS) -> list[HostEvent]:
        """Events with a number above `seq`, oldest first, as far as the ring reaches."""
        if not self._ring or seq >= self._ring[-1].seq:
            return []
        wanted = [entry for entry in self._ring if entry.seq > seq]
        return wanted[:limit]

    async def close(self) -> None:
        """Writes what is left."""
        if self._flush is not None:
            self._flush.cancel()
            self._flush = None
        if self._writing is not None:
            await asyncio.wait([self._writing])
        if self._unwritten:
            self._write()
            if self._writing is not None:
                await asyncio.wait([self._writing])

    def _write(self) -> None:
        self._flush = None
        batch, self._unwritten = self._unwritten, []
        if not batch or self._path is None:
            return
        text = b"".join(self._encoder.encode(entry) + b"\n" for entry in batch)
        self._writing = asyncio.get_running_loop().run_in_executor(None, _append, self._path, text)
        self._writing.add_done_callback(lambda done: self._written(done, len(batch)))

    def _written(self, done: asyncio.Future[None], lines: int) -> None:
        self._writing = None
        error = done.exception()
        if error is None:
            self.trouble = None
        else:
            self.lost_lines += lines
            self.trouble = f"{self._path}: {error}"
        if self._unwritten and self._flush is None:
            self._flush = asyncio.get_running_loop().call_later(FLUSH_S, self._write)


def _append(path: Path, text: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab") as file:
        file.write(text)
        size = file.tell()
    if size > ROTATE_BYTES:
        path.replace(path.with_suffix(".1.jsonl"))
