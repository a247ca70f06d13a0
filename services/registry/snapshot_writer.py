"""hostd's side of the snapshot: publishes generations into a mapped file (bytes: `snapshot_layout`).

A writer that is killed at any point leaves the last published generation readable, and its successor goes on
from there with the next number. Only stores go through the mapping, and only after the file's length was
looked at: somebody who truncates the file makes the writer replace it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path

from services.registry import snapshot_layout as layout
from services.registry.model import Entry, SnapshotError

DEFAULT_CAPACITY_BYTES = 256 * 1024

Store = Callable[[mmap.mmap, int, bytes], None]
"""Writes bytes at an offset of the mapping. Passed in by tests that tear and interrupt writes."""


def plain_store(mapping: mmap.mmap, at: int, data: bytes) -> None:
    if len(data) == 8 and at % 8 == 0:
        with memoryview(mapping) as view, view.cast("Q") as words:
            words[at // 8] = layout.WORD.unpack(data)[0]  # one aligned 8-byte store
    else:
        mapping[at : at + len(data)] = data


class SnapshotWriter:
    """The only writer of the file: a second one is refused with SnapshotError."""

    def __init__(
        self,
        path: str | os.PathLike[str],
        capacity_bytes: int = DEFAULT_CAPACITY_BYTES,
        *,
        clock_ns: Callable[[], int] = layout.boottime_ns,
        store: Store = plain_store,
    ) -> None:
        """`capacity_bytes` is that of one slot, where a file has to be made; it grows when it must.

        Raises SnapshotError: another writer, no space, no permission.
        """
        self.path = Path(path)
        self.generation = 0
        """The last published one; 0 before the first."""
        self._clock_ns = clock_ns
        self._store = store
        self._records: dict[str, tuple[Entry, bytes]] = {}
        self._last: tuple[Mapping[str, Entry], int] | None = None
        self._mapping: mmap.mmap | None = None
        self._fd = -1
        self._beats = 0
        self._confirmed_ns = 0
        self._capacity_bytes = max(
            capacity_bytes, layout.SLOT_HEADER_BYTES + layout.MIN_CELLS * layout.CELL_BYTES
        )
        self._lock_fd = self._lock()
        try:
            if not self._adopt():
                self._replace(self._capacity_bytes)
        except BaseException:
            self.close()
            raise

    def publish(self, entries: Mapping[str, Entry], revision: int, fresh_for_ms: int) -> int:
        """Make `entries` what everybody reads; returns the new generation.

        Raises SnapshotError when the file had to grow and could not: what was published before stays.
        """
        generation = self.generation + 1
        records = self._encode(entries)
        payload = layout.build_payload(records, generation)
        now_ns = self._clock_ns()
        header = layout.SlotHeader(
            generation=generation,
            revision=revision,
            published_ns=now_ns,
            fresh_until_ns=now_ns + fresh_for_ms * 1_000_000,
            entries=len(records),
            cells=layout.cells_for(len(records)),
            payload_bytes=len(payload),
            payload_crc=layout.payload_crc(payload, generation),
        )
        needed = layout.SLOT_HEADER_BYTES + len(payload)
        if needed > self._identity.capacity_bytes:
            self._replace(2 * needed, header, payload)
        elif not self._whole():
            self._replace(self._identity.capacity_bytes, header, payload)
        else:
            self._fill(self._mapped(), self._identity, header, payload)
        self.generation = generation
        self._confirmed_ns = now_ns
        self._last = (entries, revision)
        return generation

    def touch(self, fresh_for_ms: int) -> None:
        """Confirm that the published generation is still true for `fresh_for_ms` from now.

        A file that somebody cut short or removed is made anew, as a new generation (may raise as `publish`).
        """
        if self._last is not None and not self._whole():
            entries, revision = self._last
            self.publish(entries, revision, fresh_for_ms)
            return
        now_ns = self._clock_ns()
        self._beat(now_ns, now_ns + fresh_for_ms * 1_000_000)
        self._confirmed_ns = now_ns

    def mark_stale(self) -> None:
        """Say at once that nobody can confirm the published generation any more."""
        self._beat(self._confirmed_ns, 0)

    def close(self) -> None:
        """Leaves the file in place: readers go on and see it grow stale."""
        self._unmap()
        if self._lock_fd >= 0:
            os.close(self._lock_fd)
            self._lock_fd = -1

    def _lock(self) -> int:
        path = self.path.with_name(self.path.name + ".lock")
        try:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise SnapshotError(
                str(path), f"cannot be opened: {error.strerror}", "see that the folder exists and is ours"
            ) from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(fd)
            raise SnapshotError(
                str(self.path), "another hostd is writing it", "stop that one, or use another run folder"
            ) from error
        return fd

    def _adopt(self) -> bool:
        """Go on with the file that is there; False when there is none or it is of no use."""
        try:
            fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise self._error(error) from error
        try:
            identity = layout.Identity.unpack(os.pread(fd, layout.IDENTITY_BYTES, 0))
            control = layout.Control.unpack(os.pread(fd, layout.CONTROL_BYTES, layout.CONTROL_AT))
            if control.superseded or os.fstat(fd).st_size != identity.file_bytes:
                raise layout.Damaged("superseded, or of another length")
            if control.active:
                at = identity.slot_at(control.active)
                header = layout.SlotHeader.unpack(os.pread(fd, layout.SLOT_HEADER_BYTES, at), control.active)
                beat = control.beat()
                self._confirmed_ns = beat.confirmed_ns if beat else header.published_ns
            mapping = mmap.mmap(fd, identity.file_bytes)
        except (layout.Damaged, ValueError):
            os.close(fd)
            return False
        self.generation = control.active
        # Damage may have raised the number; it is 64 bits wide, so skipping costs nothing.
        self._beats = control.last_number() if control.last_number() < 1 << 62 else 0
        self._identity, self._fd, self._mapping = identity, fd, mapping
        return True

    def _replace(
        self, capacity_bytes: int, header: layout.SlotHeader | None = None, payload: bytes = b""
    ) -> None:
        """A new file in place of the old one, complete before anybody can open it; the old one says so."""
        page = mmap.PAGESIZE
        identity = layout.Identity(-(-capacity_bytes // page) * page, secrets.randbits(64))
        fresh = self.path.with_name(f".{self.path.name}.new")
        fd = -1
        try:
            fd = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o644)
            os.posix_fallocate(
                fd, 0, identity.file_bytes
            )  # a hole would kill the writer when the disk is full
            mapping = mmap.mmap(fd, identity.file_bytes)
            self._store(mapping, layout.IDENTITY_AT, identity.pack())
            if header is not None:
                self._fill(mapping, identity, header, payload)
            os.rename(fresh, self.path)
        except OSError as error:
            if fd >= 0:
                os.close(fd)
            fresh.unlink(missing_ok=True)
            raise self._error(error) from error
        old, old_fd = self._mapping, self._fd
        self._identity, self._fd, self._mapping = identity, fd, mapping
        self._beats = 0
        if old is not None:
            try:
                if os.fstat(old_fd).st_size >= layout.SLOTS_AT:
                    self._store(old, layout.SUPERSEDED_AT, layout.WORD.pack(layout.SUPERSEDED))
            finally:
                old.close()
                os.close(old_fd)

    def _fill(
        self, mapping: mmap.mmap, identity: layout.Identity, header: layout.SlotHeader, payload: bytes
    ) -> None:
        at = identity.slot_at(header.generation)
        self._store(mapping, at + layout.SLOT_HEADER_BYTES, payload)
        self._store(mapping, at, header.pack())
        self._store(mapping, layout.ACTIVE_AT, layout.WORD.pack(header.generation))

    def _beat(self, confirmed_ns: int, fresh_until_ns: int) -> None:
        if not self.generation or not self._whole():
            return  # nothing to confirm, or the next publication replaces the file
        self._beats += 1
        beat = layout.Beat(self._beats, confirmed_ns, fresh_until_ns, self.generation)
        self._store(self._mapped(), beat.at, beat.pack())

    def _encode(self, entries: Mapping[str, Entry]) -> dict[str, bytes]:
        """Encoded records; those of entries that did not change are kept from the last time."""
        kept: dict[str, tuple[Entry, bytes]] = {}
        for name, entry in entries.items():
            known = self._records.get(name)
            if known is not None and (known[0] is entry or known[0] == entry):
                kept[name] = known
            else:
                kept[name] = (entry, layout.encode_record(entry))
        self._records = kept
        return {name: record for name, (_, record) in kept.items()}

    def _whole(self) -> bool:
        """The mapping may be stored to: the file still has its length and its place."""
        try:
            ours = os.fstat(self._fd)
            return ours.st_size == self._identity.file_bytes and ours.st_ino == os.stat(self.path).st_ino
        except FileNotFoundError:
            return False

    def _mapped(self) -> mmap.mmap:
        if self._mapping is None:
            raise SnapshotError(str(self.path), "the writer is closed", "open a new one")
        return self._mapping

    def _unmap(self) -> None:
        if self._mapping is not None:
            self._mapping.close()
            self._mapping = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _error(self, error: OSError) -> SnapshotError:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            mend = "free some space there; what was published before is still served"
        else:
            mend = "see that the folder exists and that hostd may write there"
        return SnapshotError(str(self.path), f"cannot be written: {error.strerror}", mend)
