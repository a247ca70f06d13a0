"""Everybody's side of the snapshot: a look-up asks nobody (bytes and ordering: `snapshot_layout`).

Read with `pread`, not through a mapping: the pages are the same, the price is one system call of under a
microsecond, and a file that is cut short gives a short read where a mapping would kill the agent (SIGBUS).

A look-up reads the 80 bytes of the control block. Unchanged: the answer is in the reader's own cache of
decoded entries. Changed: header, one or two index cells and one record are read and checked, whatever the
size of the fleet.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from services.registry import snapshot_layout as layout
from services.registry.model import Entry, Instance, Resolution, SnapshotError, UnknownAgent
from services.registry.select import WHOEVER_IS_UP, Want, select
from services.registry.tiers import local_ttl_ns

DEFAULT_CACHE_BYTES = 64 << 20
_ATTEMPTS = 64
"""Reads overtaken by the writer in a row before the reader gives up; one is rare, two are a curiosity."""
_DAMAGE_ATTEMPTS = 3
_REPLACED_CHECK_NS = 250_000_000
_DECODED_FACTOR = 6
_DECODED_BASE_BYTES = 1024

T = TypeVar("T")

_decoder = msgspec.msgpack.Decoder(Entry)


@dataclass(slots=True)
class _Cached:
    header: layout.SlotHeader
    raw: bytes
    entry: Entry
    best: tuple[Instance, ...]
    ttl_ns: int

    @property
    def cost_bytes(self) -> int:
        """An estimate from above: decoded entries were measured at 4 to 6 times their msgpack."""
        return _DECODED_BASE_BYTES + _DECODED_FACTOR * len(self.raw)


@dataclass(frozen=True, slots=True)
class _View:
    """What the control block and the slot header said, both checked."""

    header: layout.SlotHeader
    confirmed_ns: int
    fresh_until_ns: int


class SnapshotReader:
    """Opens the file when first asked, and again when it was replaced. Not for several threads at once."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        host: str | None = None,
        cache_bytes: int = DEFAULT_CACHE_BYTES,
        clock_ns: Callable[[], int] = layout.boottime_ns,
    ) -> None:
        """`host`: the caller's own, whose instances come first. `cache_bytes`: cap of the decoded entries."""
        self.path = Path(path)
        self._host = host
        self._cap_bytes = cache_bytes
        self._clock_ns = clock_ns
        self._fd = -1
        self._inode = 0
        self._identity = layout.Identity(0, 0)
        self._control = b""
        self._view: _View | None = None
        self._cache: dict[str, _Cached] = {}
        self._cached_bytes = 0
        self._looked_ns = 0

    def resolve(self, name: str, want: Want = WHOEVER_IS_UP) -> Resolution:
        """Who answers to `name`, best first; marked stale when nobody confirmed it lately.

        Raises UnknownAgent, or SnapshotError when there is no intact snapshot: then try `last_good`.
        """
        view, cached = self._lookup(name)
        return self._resolution(name, view, cached, want)

    def entry(self, name: str) -> Entry:
        """All instances, whatever their state. Raises as `resolve`."""
        return self._lookup(name)[1].entry

    def last_good(self, name: str, want: Want = WHOEVER_IS_UP) -> Resolution | None:
        """What this reader last read intact about `name`, marked stale; None when it never did."""
        cached = self._cache.get(name)
        if cached is None or self._view is None:
            return None
        view = _View(cached.header, self._view.confirmed_ns, 0)
        return self._resolution(name, view, cached, want)

    def names(self) -> list[str]:
        """Every name, sorted. Reads and checks the whole generation, as does `entries`."""
        return sorted(self.entries())

    def entries(self) -> dict[str, Entry]:
        # What was copied whole and has its checksum stays true: it is decoded while the writer goes on.
        header, payload = self._attempt(self._copy)
        try:
            return _decode_all(header, payload)
        except layout.Damaged as error:
            self.close()
            raise SnapshotError(str(self.path), str(error), "restart hostd: it writes a new one") from error

    def generation(self) -> int:
        return self._attempt(_itself).header.generation

    def revision(self) -> int:
        return self._attempt(_itself).header.revision

    def freshness(self) -> tuple[bool, float]:
        """(stale, milliseconds since the view was last confirmed), without regard to any entry's TTL."""
        view = self._attempt(_itself)
        now_ns = self._clock_ns()
        return now_ns > view.fresh_until_ns, max(0, now_ns - view.confirmed_ns) / 1e6

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
        self._fd, self._control = -1, b""

    def _resolution(self, name: str, view: _View, cached: _Cached, want: Want) -> Resolution:
        now_ns = self._clock_ns()
        age_ns = now_ns - view.confirmed_ns
        best = cached.best
        if want is not WHOEVER_IS_UP:
            best = select(cached.entry.instances, host=self._host, want=want)
        return Resolution(
            name=name,
            revision=view.header.revision,
            generation=view.header.generation,
            stale=now_ns > view.fresh_until_ns or age_ns > cached.ttl_ns,
            age_ms=max(0, age_ns) / 1e6,
            instances=best,
        )

    def _lookup(self, name: str) -> tuple[_View, _Cached]:
        view = self._view
        if (
            view is not None
            and self._fd >= 0
            and os.pread(self._fd, layout.CONTROL_BYTES, layout.CONTROL_AT) == self._control
            and (self._clock_ns() <= view.fresh_until_ns or not self._due_replaced())
        ):
            cached = self._cache.get(name)
            if cached is not None and cached.header is view.header:
                return view, cached
        return self._attempt(lambda view: (view, self._read_one(view, name)))

    def _attempt(self, read: Callable[[_View], T]) -> T:
        """Do a read again that the writer overtook; tell a damaged file from a moving one."""
        damaged = 0
        for _ in range(_ATTEMPTS):
            failure: layout.Damaged | UnknownAgent
            self._open()
            control = os.pread(self._fd, layout.CONTROL_BYTES, layout.CONTROL_AT)
            try:
                result = read(self._load(control))
                if self._unmoved(control):
                    return result
                continue
            except _Replaced:
                self.close()
                continue
            except (layout.Damaged, UnknownAgent) as error:
                failure = error
            self._control = b""
            if not self._unmoved(control):
                continue
            if self._replaced():
                self.close()
                continue
            if isinstance(failure, UnknownAgent):
                self._forget(failure.name)
                raise failure
            damaged += 1
            if damaged == _DAMAGE_ATTEMPTS:
                self.close()
                raise SnapshotError(
                    str(self.path), str(failure), "restart hostd: it writes a new one"
                ) from failure
        self.close()
        raise SnapshotError(
            str(self.path), "it changes faster than it can be read", "look at what hostd is doing"
        )

    def _unmoved(self, control: bytes) -> bool:
        """The generation that `control` named is still the active one: its slot was not written to."""
        return os.pread(self._fd, 8, layout.ACTIVE_AT) == control[:8]

    def _open(self) -> None:
        if self._fd >= 0:
            return
        try:
            fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise SnapshotError(
                str(self.path), "there is no discovery snapshot yet", "start hostd, or wait until it is ready"
            ) from error
        except OSError as error:
            raise SnapshotError(
                str(self.path), f"cannot be read: {error.strerror}", "see who may read it"
            ) from error
        try:
            self._identity = layout.Identity.unpack(os.pread(fd, layout.IDENTITY_BYTES, 0))
        except layout.Damaged as error:
            os.close(fd)
            raise SnapshotError(str(self.path), str(error), "restart hostd: it writes a new one") from error
        self._fd, self._inode, self._control = fd, os.fstat(fd).st_ino, b""

    def _load(self, raw: bytes) -> _View:
        if self._view is not None and raw == self._control:
            return self._view
        control = layout.Control.unpack(raw)
        if (control.superseded or control.active == 0) and self._replaced():
            raise _Replaced
        if control.active == 0:
            raise SnapshotError(
                str(self.path), "nothing has been published yet", "wait until hostd has reached etcd"
            )
        at = self._identity.slot_at(control.active)
        packed = os.pread(self._fd, layout.SLOT_HEADER_BYTES, at)
        header = layout.SlotHeader.unpack(packed, control.active)
        if self._view is not None and self._view.header == header:
            header = self._view.header  # the same object says that cached entries still hold
        beat = control.beat()
        if beat is None:
            self._view = _View(header, header.published_ns, header.fresh_until_ns)
        else:
            self._view = _View(header, beat.confirmed_ns, beat.fresh_until_ns)
        self._control = raw
        return self._view

    def _read_one(self, view: _View, name: str) -> _Cached:
        header = view.header
        known = self._cache.get(name)
        if known is not None and known.header is header:
            return known
        base = self._identity.slot_at(header.generation) + layout.SLOT_HEADER_BYTES
        tag = layout.name_tag(name)
        for place in layout.probe_order(tag, header.cells):
            packed = os.pread(self._fd, layout.CELL_BYTES, base + place * layout.CELL_BYTES)
            cell = layout.Cell.unpack(packed, header.generation)
            if cell.record_bytes == 0:
                break
            if cell.tag != tag:
                continue
            sealed = os.pread(self._fd, cell.record_bytes, base + cell.record_at)
            raw = layout.open_record(sealed, cell.record_bytes, header.generation)
            if known is not None and known.raw == raw:
                known.header = header
                return known
            entry = _decode(raw)
            if entry.name == name:
                return self._remember(header, bytes(raw), entry)
        raise UnknownAgent(name)

    def _copy(self, view: _View) -> tuple[layout.SlotHeader, bytes]:
        header = view.header
        base = self._identity.slot_at(header.generation) + layout.SLOT_HEADER_BYTES
        payload = os.pread(self._fd, header.payload_bytes, base)
        if len(payload) != header.payload_bytes:
            raise layout.Damaged("the file is cut short")
        if layout.payload_crc(payload, header.generation) != header.payload_crc:
            raise layout.Damaged("the payload fails its checksum")
        return header, payload

    def _remember(self, header: layout.SlotHeader, raw: bytes, entry: Entry) -> _Cached:
        self._forget(entry.name)
        best = select(entry.instances, host=self._host)
        cached = _Cached(header, raw, entry, best, local_ttl_ns(entry))
        cost_bytes = cached.cost_bytes
        while self._cache and self._cached_bytes + cost_bytes > self._cap_bytes:
            self._forget(next(iter(self._cache)))  # the oldest
        if cost_bytes <= self._cap_bytes:
            self._cache[entry.name] = cached
            self._cached_bytes += cost_bytes
        return cached

    def _forget(self, name: str) -> None:
        cached = self._cache.pop(name, None)
        if cached is not None:
            self._cached_bytes -= cached.cost_bytes

    def _due_replaced(self) -> bool:
        """`_replaced`, looked at four times a second at most: for a file that nobody confirms any more."""
        now_ns = self._clock_ns()
        if now_ns - self._looked_ns < _REPLACED_CHECK_NS:
            return False
        self._looked_ns = now_ns
        if self._replaced():
            self.close()
            return True
        return False

    def _replaced(self) -> bool:
        try:
            return os.stat(self.path).st_ino != self._inode
        except FileNotFoundError:
            return False


class _Replaced(Exception):
    """The open file was superseded and another stands in its place."""


def _decode_all(header: layout.SlotHeader, payload: bytes) -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for at in range(0, header.cells * layout.CELL_BYTES, layout.CELL_BYTES):
        cell = layout.Cell.unpack(payload[at : at + layout.CELL_BYTES], header.generation)
        if cell.record_bytes:
            sealed = payload[cell.record_at : cell.record_at + cell.record_bytes]
            entry = _decode(layout.open_record(sealed, cell.record_bytes, header.generation))
            found[entry.name] = entry
    if len(found) != header.entries:
        raise layout.Damaged(f"{len(found)} entries where the header counts {header.entries}")
    return found


def _itself(view: _View) -> _View:
    return view


def _decode(raw: memoryview) -> Entry:
    try:
        return _decoder.decode(raw)
    except msgspec.DecodeError as error:
        raise layout.Damaged(f"a record does not decode: {error}") from error
