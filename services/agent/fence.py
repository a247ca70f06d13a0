"""Until when the agents of a host may act, and at which epochs: a small file that hostd writes at each
acknowledged renewal and every agent reads before each side effect.

Layout, little endian: magic (8 bytes), sequence (8), then two slots of `SLOT_BYTES`. Sequence *n* stands in
slot *n* mod 2: deadline (8), sequence (8), length (4), CRC-32 (4) of all that with the CRC as zero, msgpack
payload. The writer fills the idle slot, then stores the sequence with one aligned store; a reader checks the
CRC and that the slot holds the sequence that it asked for. Readers use `pread`: a mapping of a file that
somebody cuts short would kill its reader. Whatever cannot be read means *may not act*.
"""

from __future__ import annotations

import mmap
import os
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final
from zlib import crc32

import msgspec

NAME: Final = "fence"
"""The file's name in the run folder."""
MAGIC: Final = b"3nfence1"
SLOT_BYTES: Final = 32 << 10
_HEAD: Final = 64
_SLOT: Final = struct.Struct("<qqII")
_SEQ: Final = struct.Struct("<q")
_SIZE: Final = _HEAD + 2 * SLOT_BYTES
_TRIES: Final = 5


def boottime_ns() -> int:
    """CLOCK_BOOTTIME in nanoseconds, the clock of all deadlines."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class FenceError(Exception):
    """The file cannot be used: where, what, the mend. Who gets this may not act."""

    def __init__(self, where: str, what: str, mend: str = "hostd makes a new one when it starts") -> None:
        super().__init__(f"{where}: {what}; {mend}")


class Allowance(msgspec.Struct, frozen=True, kw_only=True):
    """What hostd allows. Units are written `home` (a domain) or `home/agent` (a single agent).

    `serving`: unit to epoch. `withheld`: single agents that don't act although the rest of their domain may.
    """

    deadline_ns: int = 0
    serving: dict[str, int] = {}
    withheld: frozenset[str] = frozenset()

    def epoch_of(self, home: str, agent: str, now_ns: int) -> int | None:
        """The epoch at which that agent may act at `now_ns` (CLOCK_BOOTTIME); None: it may not."""
        if now_ns >= self.deadline_ns:
            return None
        single = f"{home}/{agent}"
        if single in self.withheld:
            return None
        return self.serving.get(single, self.serving.get(home))


class FenceWriter:
    """hostd's side. An earlier life's allowance stays in force until its deadline or the next `publish`."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self._path = path
        if not _sound(path):
            temporary = path.with_name(f".{path.name}.{os.getpid():x}")
            temporary.write_bytes(MAGIC + bytes(_SIZE - len(MAGIC)))
            temporary.rename(path)
        self.inherited = _last_word(path)
        """What stood there before, of an earlier life."""
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)
        (self._sequence,) = _SEQ.unpack_from(self._map, 8)

    def publish(self, allowance: Allowance) -> None:
        """Raises FenceError when there are too many units; then the last allowance runs out by itself."""
        packed = msgspec.msgpack.encode(allowance)
        if len(packed) > SLOT_BYTES - _SLOT.size:
            raise FenceError(str(self._path), f"{len(packed)} bytes of units do not fit", "part fewer agents")
        sequence = self._sequence + 1
        at = _HEAD + (sequence % 2) * SLOT_BYTES
        bare = _SLOT.pack(allowance.deadline_ns, sequence, len(packed), 0)
        head = _SLOT.pack(allowance.deadline_ns, sequence, len(packed), crc32(packed, crc32(bare)))
        self._map[at : at + len(head) + len(packed)] = head + packed
        _SEQ.pack_into(self._map, 8, sequence)
        self._sequence = sequence

    def close(self) -> None:
        """The file stays, with what it allows."""
        self._map.close()


class FenceReader:
    """An agent's side. Opens the file when it is first asked, and again when it was replaced."""

    def __init__(self, path: Path, now_ns: Callable[[], int] = boottime_ns) -> None:
        self._path = path
        self._now_ns = now_ns
        self._file = -1
        self._known_sequence = -1
        self._known = Allowance()

    def read(self) -> Allowance:
        """What is allowed now. Raises FenceError."""
        try:
            if self._file < 0:
                self._file = os.open(self._path, os.O_RDONLY | os.O_CLOEXEC)
                if os.pread(self._file, len(MAGIC), 0) != MAGIC:
                    raise FenceError(str(self._path), "is no fence")
            for _ in range(_TRIES):
                allowance = self._try()
                if allowance is not None:
                    return allowance
        except (OSError, FenceError, struct.error) as error:
            self.close()
            raise FenceError(str(self._path), str(error)) from None
        self.close()
        raise FenceError(str(self._path), "fails its checksum")

    def epoch(self, home: str, agent: str) -> int | None:
        """The epoch at which that agent may act now; None: it may not, or nobody can say."""
        for _ in range(2):
            try:
                epoch = self.read().epoch_of(home, agent, self._now_ns())
            except FenceError:
                return None
            if epoch is not None:
                return epoch
            self.close()  # run out: perhaps hostd has put another file in its place
        return None

    def close(self) -> None:
        """Gives the file back; the next `read` opens it anew."""
        if self._file >= 0:
            os.close(self._file)
        self._file = self._known_sequence = -1

    def _try(self) -> Allowance | None:
        (sequence,) = _SEQ.unpack(os.pread(self._file, 8, 8))
        if sequence == self._known_sequence:
            return self._known
        if sequence == 0:
            return Allowance()
        raw = os.pread(self._file, SLOT_BYTES, _HEAD + (sequence % 2) * SLOT_BYTES)
        deadline_ns, stands, length, crc = _SLOT.unpack_from(raw)
        packed = raw[_SLOT.size : _SLOT.size + length]
        bare = _SLOT.pack(deadline_ns, stands, length, 0)
        if stands != sequence or length > SLOT_BYTES or crc != crc32(packed, crc32(bare)):
            return None  # it moved on while we read, or it is damaged
        self._known, self._known_sequence = msgspec.msgpack.decode(packed, type=Allowance), sequence
        return self._known


def _last_word(path: Path) -> Allowance:
    reader = FenceReader(path)
    try:
        return reader.read()
    except FenceError:
        return Allowance()
    finally:
        reader.close()


def _sound(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return path.stat().st_size == _SIZE and file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False
