"""The JSON form of etcd's messages (grpc-gateway): 64-bit numbers as strings, bytes in base64, no zeros.

Decoding is lax about numbers on purpose (`strict=False`): the gateway writes `"revision": "7"`.
Protocol: etcd `api/etcdserverpb/rpc.proto`, mapped by the `google.api.http` annotations.
"""

from __future__ import annotations

from typing import TypeVar

import msgspec

from services.registry.etcd_types import (
    Compare,
    CompareTarget,
    Delete,
    DeleteResult,
    Get,
    KeyValue,
    Op,
    OpResult,
    Put,
    PutResult,
    RangeResult,
    WatchEvent,
)

T = TypeVar("T")


class Header(msgspec.Struct, frozen=True):
    cluster_id: int = 0
    member_id: int = 0
    revision: int = 0
    raft_term: int = 0


class WireKeyValue(msgspec.Struct, frozen=True):
    key: bytes = b""
    value: bytes = b""
    create_revision: int = 0
    mod_revision: int = 0
    version: int = 0
    lease: int = 0

    def plain(self) -> KeyValue:
        return KeyValue(
            self.key.decode(errors="replace"),
            self.value,
            self.create_revision,
            self.mod_revision,
            self.version,
            self.lease,
        )


class RangeRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    key: bytes
    range_end: bytes = b""
    limit: int = 0
    revision: int = 0
    serializable: bool = False
    keys_only: bool = False
    count_only: bool = False


class RangeResponse(msgspec.Struct, frozen=True):
    header: Header = Header()
    kvs: tuple[WireKeyValue, ...] = ()
    more: bool = False
    count: int = 0

    def plain(self, revision: int | None = None) -> RangeResult:
        kvs = tuple(kv.plain() for kv in self.kvs)
        return RangeResult(self.header.revision if revision is None else revision, kvs, self.more, self.count)


class PutRequest(msgspec.Struct, frozen=True):
    key: bytes
    value: bytes


class PutResponse(msgspec.Struct, frozen=True):
    header: Header = Header()


class DeleteRequest(msgspec.Struct, frozen=True, omit_defaults=True):
    key: bytes
    range_end: bytes = b""


class DeleteResponse(msgspec.Struct, frozen=True):
    header: Header = Header()
    deleted: int = 0


class WireCompare(msgspec.Struct, frozen=True, omit_defaults=True):
    key: bytes
    target: str
    result: str
    version: int | None = None
    create_revision: int | None = None
    mod_revision: int | None = None
    value: bytes | None = None


class RequestOp(msgspec.Struct, frozen=True, omit_defaults=True):
    request_range: RangeRequest | None = None
    request_put: PutRequest | None = None
    request_delete_range: DeleteRequest | None = None


class ResponseOp(msgspec.Struct, frozen=True):
    response_range: RangeResponse | None = None
    response_put: PutResponse | None = None
    response_delete_range: DeleteResponse | None = None


class TxnRequest(msgspec.Struct, frozen=True):
    compare: tuple[WireCompare, ...]
    success: tuple[RequestOp, ...]
    failure: tuple[RequestOp, ...]


class TxnResponse(msgspec.Struct, frozen=True):
    header: Header = Header()
    succeeded: bool = False
    responses: tuple[ResponseOp, ...] = ()


class WatchCreate(msgspec.Struct, frozen=True):
    key: bytes
    range_end: bytes
    start_revision: int
    progress_notify: bool = True


class WatchRequest(msgspec.Struct, frozen=True):
    create_request: WatchCreate


class WireEvent(msgspec.Struct, frozen=True):
    type: str = "PUT"
    kv: WireKeyValue = WireKeyValue()

    def plain(self) -> WatchEvent:
        value = None if self.type == "DELETE" else self.kv.value
        return WatchEvent(self.kv.key.decode(errors="replace"), value, self.kv.mod_revision)


class WatchResponse(msgspec.Struct, frozen=True):
    header: Header = Header()
    created: bool = False
    canceled: bool = False
    cancel_reason: str = ""
    compact_revision: int = 0
    events: tuple[WireEvent, ...] = ()


class StreamError(msgspec.Struct, frozen=True):
    code: int = 0
    grpc_code: int = 0
    message: str = ""


class WatchItem(msgspec.Struct, frozen=True):
    """One line of the watch's stream."""

    result: WatchResponse | None = None
    error: StreamError | None = None


class ErrorBody(msgspec.Struct, frozen=True):
    """The gateway's answer to a call that failed; `code` is the gRPC status."""

    code: int = -1
    message: str = ""


class Empty(msgspec.Struct, frozen=True):
    pass


class StatusResponse(msgspec.Struct, frozen=True):
    header: Header = Header()
    version: str = ""
    dbSize: int = 0
    leader: int = 0
    raftIndex: int = 0
    raftTerm: int = 0
    errors: tuple[str, ...] = ()


class WireMember(msgspec.Struct, frozen=True):
    ID: int = 0
    name: str = ""
    peerURLs: tuple[str, ...] = ()
    clientURLs: tuple[str, ...] = ()
    isLearner: bool = False


class MemberListResponse(msgspec.Struct, frozen=True):
    header: Header = Header()
    members: tuple[WireMember, ...] = ()


def decode(data: bytes, kind: type[T]) -> T:
    """Raises msgspec.DecodeError (its ValidationError included)."""
    return msgspec.json.decode(data, type=kind, strict=False)


def encode(message: msgspec.Struct) -> bytes:
    return msgspec.json.encode(message)


def prefix_end(prefix: str) -> bytes:
    """The smallest key after every key with this prefix (etcd's `clientv3.GetPrefixRangeEnd`)."""
    raw = prefix.encode().rstrip(b"\xff")
    return raw[:-1] + bytes([raw[-1] + 1]) if raw else b"\0"


def wire_compare(compare: Compare) -> WireCompare:
    target, operand = compare.target, compare.operand
    if (target is CompareTarget.VALUE) != isinstance(operand, bytes):
        raise TypeError(f"compare {target}: operand {operand!r}; bytes for VALUE, a number else")
    return WireCompare(
        key=compare.key.encode(),
        target=target.value,
        result=compare.result.value,
        version=operand if target is CompareTarget.VERSION and isinstance(operand, int) else None,
        create_revision=operand if target is CompareTarget.CREATE and isinstance(operand, int) else None,
        mod_revision=operand if target is CompareTarget.MOD and isinstance(operand, int) else None,
        value=operand if isinstance(operand, bytes) else None,
    )


def wire_op(op: Op) -> RequestOp:
    match op:
        case Put(key, value):
            return RequestOp(request_put=PutRequest(key.encode(), value))
        case Delete(key, prefix):
            end = prefix_end(key) if prefix else b""
            return RequestOp(request_delete_range=DeleteRequest(key.encode(), end))
        case Get(key, prefix):
            end = prefix_end(key) if prefix else b""
            return RequestOp(request_range=RangeRequest(key.encode(), end))


def op_result(response: ResponseOp, revision: int) -> OpResult:
    """One answer of a transaction; inside it the headers are empty, so the transaction's revision counts."""
    if response.response_range is not None:
        return response.response_range.plain(revision)
    if response.response_delete_range is not None:
        return DeleteResult(revision, response.response_delete_range.deleted)
    return PutResult(revision)
