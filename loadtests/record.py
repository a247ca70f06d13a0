"""The form of raw history: one record for the invocation of an operation and one for its completion.

It is Jepsen's form (https://github.com/jepsen-io/jepsen, `history`), so that anybody's checker can read it:
`ok` happened, `fail` did certainly not happen, `info` is an outcome that nobody knows. A process has one
operation in flight; after `info` it is retired and goes on under a new name.
"""

from __future__ import annotations

import time
from enum import StrEnum

import msgspec

CLOCK = "boottime"


class Kind(StrEnum):
    """What a record says about its operation."""

    INVOKE = "invoke"
    OK = "ok"
    FAIL = "fail"
    INFO = "info"


class Record(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """One line of `history/*.jsonl`. `time_ns` is CLOCK_BOOTTIME, the same for all processes of a machine."""

    process: str
    type: Kind
    f: str
    key: str | None = None
    value: msgspec.Raw = msgspec.Raw(b"null")
    time_ns: int
    clock: str = CLOCK
    host: str | None = None
    epoch: int | None = None


def now_ns() -> int:
    """CLOCK_BOOTTIME in nanoseconds."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


_ENCODER = msgspec.json.Encoder()


def raw(value: object) -> msgspec.Raw:
    """`value` as JSON, ready to stand in a record."""
    return msgspec.Raw(_ENCODER.encode(value))


def encode_line(record: Record) -> bytes:
    """The record as one line of a history file."""
    return _ENCODER.encode(record) + b"\n"
