"""What etcd is asked and what it answers, free of its JSON form (etcd v3 API, `rpc.proto`)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EtcdError(Exception):
    """`definite` tells whether the outcome of the request is known."""

    definite: bool = True


class EtcdDefinite(EtcdError):
    """etcd refused the request: it was not performed. `code` is the gRPC status code."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class EtcdUnavailable(EtcdError):
    """No endpoint was reached, or (reads only) none answered: nothing was performed."""


class EtcdIndeterminate(EtcdError):
    """Sent, and no answer came: it was performed, or not, or will be yet. Read again."""

    definite = False


class EtcdCompacted(EtcdDefinite):
    """The asked revision is gone; list again. `compact_revision` is the oldest one that can be watched."""

    def __init__(self, message: str, compact_revision: int) -> None:
        super().__init__(message, code=11)
        self.compact_revision = compact_revision


@dataclass(frozen=True, slots=True)
class Endpoint:
    """`host` is the name in the server's certificate whatever `url` says: a proxy may stand between."""

    host: str
    url: str


@dataclass(frozen=True, slots=True)
class KeyValue:
    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    version: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class RangeResult:
    """`revision`: that of the store when it answered; `count`: all keys in the range, sent or not."""

    revision: int
    kvs: tuple[KeyValue, ...]
    more: bool
    count: int


@dataclass(frozen=True, slots=True)
class PutResult:
    revision: int


@dataclass(frozen=True, slots=True)
class DeleteResult:
    revision: int
    deleted: int


class CompareTarget(StrEnum):
    VERSION = "VERSION"
    CREATE = "CREATE"
    MOD = "MOD"
    VALUE = "VALUE"


class CompareResult(StrEnum):
    EQUAL = "EQUAL"
    GREATER = "GREATER"
    LESS = "LESS"
    NOT_EQUAL = "NOT_EQUAL"


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition of a transaction. `operand`: bytes for `VALUE`, else a number (0 for an absent key)."""

    key: str
    target: CompareTarget
    operand: int | bytes
    result: CompareResult = CompareResult.EQUAL

    @staticmethod
    def absent(key: str) -> Compare:
        return Compare(key, CompareTarget.CREATE, 0)

    @staticmethod
    def unchanged(key: str, mod_revision: int) -> Compare:
        return Compare(key, CompareTarget.MOD, mod_revision)


@dataclass(frozen=True, slots=True)
class Put:
    key: str
    value: bytes


@dataclass(frozen=True, slots=True)
class Delete:
    key: str
    prefix: bool = False


@dataclass(frozen=True, slots=True)
class Get:
    key: str
    prefix: bool = False


Op = Put | Delete | Get
OpResult = PutResult | DeleteResult | RangeResult


@dataclass(frozen=True, slots=True)
class TxnResult:
    """A comparison that failed is a result: `succeeded` is False, `responses` are of the `failure` branch."""

    succeeded: bool
    revision: int
    responses: tuple[OpResult, ...]


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """`value` is None for a deletion."""

    key: str
    value: bytes | None
    mod_revision: int


@dataclass(frozen=True, slots=True)
class WatchBatch:
    """Everything up to `revision` has been told. No events: a sign of life (progress notification)."""

    revision: int
    events: tuple[WatchEvent, ...]


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """`leader` and `member_id` are the unsigned 64-bit ids; `is_leader` when they agree."""

    endpoint: Endpoint
    member_id: int
    leader: int
    revision: int
    raft_term: int
    raft_index: int
    db_size_bytes: int
    version: str
    errors: tuple[str, ...] = ()

    @property
    def is_leader(self) -> bool:
        return self.member_id == self.leader


@dataclass(frozen=True, slots=True)
class Member:
    member_id: int
    name: str
    peer_urls: tuple[str, ...]
    client_urls: tuple[str, ...]
    is_learner: bool = False
