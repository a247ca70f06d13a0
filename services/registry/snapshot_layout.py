"""The bytes of `discovery.snap`.

    0     identity   magic, version, slot capacity, file id, CRC: written once
    64    control    active generation, superseded mark, two heartbeat cells (32 bytes each)
    4096  slot 0     header (56 bytes), index, records
    4096 + capacity  slot 1

Generation *g* stands in slot *g* mod 2, so the active generation names its slot and one aligned 8-byte store
publishes it. Numbers are in the machine's own byte order (the file never leaves the machine).

Everything a reader trusts is under a CRC-32: identity, heartbeats, slot header, each index cell (an empty one
too, or a flipped bit could hide a name), each record. All but the identity are seeded with the generation, so
that bytes of another generation at the same place fail the check as well.

**Ordering.** The writer stores payload, slot header, then the active generation; it reuses a slot only after
the *other* one has become active. A reader loads the active generation, header, cell, record, then the active
generation again: if it did not move, nothing that was read had been overwritten. On x86 that needs no fence:
stores become visible in program order and loads are done in program order (x86-TSO, Sewell et al. 2010). On
machines with weaker order a read may mix generations without the number moving; then the seeded CRCs do not
match and the read is repeated.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from zlib import crc32

import msgspec

from services.registry.model import Entry

MAGIC = b"3NSNAP01"
VERSION = 1
SUPERSEDED = 0x5EED_ED15_C0DE_D0A5
"""Any other value than this and 0 is a damaged file: a single flipped bit cannot turn one into the other."""

IDENTITY_AT = 0
CONTROL_AT = 64
CONTROL_BYTES = 80
ACTIVE_AT = CONTROL_AT
SUPERSEDED_AT = CONTROL_AT + 8
BEATS_AT = CONTROL_AT + 16
SLOTS_AT = 4096

_IDENTITY = struct.Struct("=8sIIQQ")
IDENTITY_BYTES = _IDENTITY.size + 4
_CONTROL = struct.Struct("=QQ32s32s")
_BEAT = struct.Struct("=QQQI")
BEAT_BYTES = _BEAT.size + 4
_SLOT = struct.Struct("=QQQQIIQI")
SLOT_HEADER_BYTES = _SLOT.size + 4
_CELL = struct.Struct("=III")
CELL_BYTES = _CELL.size + 4
_CRC = struct.Struct("=I")
MIN_CELLS = 8
WORD = struct.Struct("=Q")

assert (BEAT_BYTES, _CONTROL.size, SLOT_HEADER_BYTES, CELL_BYTES) == (32, CONTROL_BYTES, 56, 16)


class Damaged(Exception):
    """A check failed: torn by a concurrent write, or broken for good. The reader finds out which."""


def boottime_ns() -> int:
    """Nanoseconds since boot, suspend included: comparable between all processes of the machine."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def _seal(data: bytes, generation: int) -> bytes:
    return data + _CRC.pack(crc32(data, generation & 0xFFFFFFFF))


def _unseal(data: bytes, length: int, generation: int, what: str) -> None:
    if len(data) != length:
        raise Damaged(f"{what} is cut short")
    if _CRC.unpack_from(data, length - 4)[0] != crc32(
        memoryview(data)[: length - 4], generation & 0xFFFFFFFF
    ):
        raise Damaged(f"{what} fails its checksum")


@dataclass(frozen=True, slots=True)
class Identity:
    capacity_bytes: int
    file_id: int

    @property
    def file_bytes(self) -> int:
        return SLOTS_AT + 2 * self.capacity_bytes

    def slot_at(self, generation: int) -> int:
        return SLOTS_AT + (generation & 1) * self.capacity_bytes

    def pack(self) -> bytes:
        return _seal(_IDENTITY.pack(MAGIC, VERSION, SLOTS_AT, self.capacity_bytes, self.file_id), 0)

    @staticmethod
    def unpack(data: bytes) -> Identity:
        if len(data) >= len(MAGIC) and data[:6] != MAGIC[:6]:
            raise Damaged("it is no discovery snapshot")
        if len(data) >= _IDENTITY.size:
            magic, version, *_ = _IDENTITY.unpack_from(data)
            if magic != MAGIC or version != VERSION:
                raise Damaged(f"its version is not {VERSION}")
        _unseal(data, IDENTITY_BYTES, 0, "the file's header")
        _, _, _, capacity, file_id = _IDENTITY.unpack_from(data)
        return Identity(capacity, file_id)


@dataclass(frozen=True, slots=True)
class Beat:
    """The writer's confirmation that generation `generation` is still what is true. Times: boottime_ns."""

    number: int
    confirmed_ns: int
    fresh_until_ns: int
    generation: int

    @property
    def at(self) -> int:
        return BEATS_AT + (self.number & 1) * BEAT_BYTES

    def pack(self) -> bytes:
        low = self.generation & 0xFFFFFFFF
        return _seal(_BEAT.pack(self.number, self.confirmed_ns, self.fresh_until_ns, low), self.generation)


@dataclass(frozen=True, slots=True)
class Control:
    active: int
    superseded: bool
    cells: tuple[bytes, bytes]

    @staticmethod
    def unpack(data: bytes) -> Control:
        if len(data) != CONTROL_BYTES:
            raise Damaged("the file is cut short")
        active, superseded, beat0, beat1 = _CONTROL.unpack(data)
        if superseded not in (0, SUPERSEDED):
            raise Damaged("the superseded mark is neither set nor clear")
        return Control(active, superseded == SUPERSEDED, (beat0, beat1))

    def beat(self) -> Beat | None:
        """The newest intact confirmation of the active generation: a torn cell yields to the other."""
        best: Beat | None = None
        for cell in self.cells:
            number, confirmed_ns, fresh_until_ns, low = _BEAT.unpack_from(cell)
            if low != self.active & 0xFFFFFFFF or number == 0:
                continue
            if best is not None and number < best.number:
                continue
            try:
                _unseal(cell, BEAT_BYTES, self.active, "heartbeat")
            except Damaged:
                continue
            best = Beat(number, confirmed_ns, fresh_until_ns, self.active)
        return best

    def last_number(self) -> int:
        """A number that no cell has passed, whatever generation and damage: where a new writer goes on."""
        return max(int(_BEAT.unpack_from(cell)[0]) for cell in self.cells)


@dataclass(frozen=True, slots=True)
class SlotHeader:
    generation: int
    revision: int
    published_ns: int
    fresh_until_ns: int
    entries: int
    cells: int
    payload_bytes: int
    payload_crc: int

    def pack(self) -> bytes:
        packed = _SLOT.pack(
            self.generation,
            self.revision,
            self.published_ns,
            self.fresh_until_ns,
            self.entries,
            self.cells,
            self.payload_bytes,
            self.payload_crc,
        )
        return _seal(packed, self.generation)

    @staticmethod
    def unpack(data: bytes, generation: int) -> SlotHeader:
        _unseal(data, SLOT_HEADER_BYTES, generation, "the slot's header")
        header = SlotHeader(*_SLOT.unpack_from(data))
        if header.generation != generation:
            raise Damaged(f"the slot holds generation {header.generation}, not {generation}")
        return header


@dataclass(frozen=True, slots=True)
class Cell:
    """Where a record stands, from the slot's payload on; `record_bytes` 0: an empty cell."""

    tag: int
    record_at: int
    record_bytes: int

    @staticmethod
    def unpack(data: bytes, generation: int) -> Cell:
        _unseal(data, CELL_BYTES, generation, "an index cell")
        return Cell(*_CELL.unpack_from(data))


def name_tag(name: str) -> int:
    return crc32(name.encode())


def encode_record(entry: Entry) -> bytes:
    return msgspec.msgpack.encode(entry)


def open_record(data: bytes, record_bytes: int, generation: int) -> memoryview:
    """The msgpack inside a sealed record."""
    _unseal(data, record_bytes, generation, "a record")
    return memoryview(data)[: record_bytes - 4]


def payload_crc(payload: bytes, generation: int) -> int:
    return crc32(payload, generation & 0xFFFFFFFF)


def cells_for(entries: int) -> int:
    """A power of two, at most half full: 1.5 cells are visited on average (linear probing, Knuth 6.4)."""
    return max(MIN_CELLS, 1 << (2 * entries - 1).bit_length()) if entries else MIN_CELLS


def build_payload(records: Mapping[str, bytes], generation: int) -> bytes:
    """Index and records of one generation; `records` maps names to `encode_record`'s bytes."""
    cells = cells_for(len(records))
    seed = generation & 0xFFFFFFFF
    empty = _seal(_CELL.pack(0, 0, 0), generation)
    index = bytearray(empty * cells)
    taken = bytearray(cells)
    parts: list[bytes] = []
    at = len(index)
    for name, record in records.items():
        tag = name_tag(name)
        place = tag & (cells - 1)
        while taken[place]:
            place = (place + 1) & (cells - 1)
        taken[place] = 1
        cell = _CELL.pack(tag, at, len(record) + 4)
        index[place * CELL_BYTES : (place + 1) * CELL_BYTES] = cell + _CRC.pack(crc32(cell, seed))
        parts.append(record)
        parts.append(_CRC.pack(crc32(record, seed)))
        at += len(record) + 4
    return b"".join((index, *parts))


def probe_order(tag: int, cells: int) -> Iterator[int]:
    start = tag & (cells - 1)
    return ((start + step) & (cells - 1) for step in range(cells))
