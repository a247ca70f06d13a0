"""A thin client of etcd's JSON gateway.

What ownership needs and no library at hand has together: a deadline for each call, no hidden repetition of a
write, the revision of every answer, several endpoints, and outcomes as types (`etcd_types.EtcdError`).

Reads go to the next endpoint when one fails. A write goes to the next endpoint only when the one before was
*never sent*; once sent, silence is `EtcdIndeterminate` and the caller has to look.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Sequence

import msgspec

from services.registry import etcd_wire as wire
from services.registry.etcd_http import Gateway
from services.registry.etcd_types import (
    Compare,
    DeleteResult,
    Endpoint,
    EtcdCompacted,
    EtcdDefinite,
    EtcdError,
    EtcdIndeterminate,
    EtcdUnavailable,
    Get,
    KeyValue,
    Member,
    MemberStatus,
    Op,
    PutResult,
    RangeResult,
    TxnResult,
)
from services.registry.etcd_watch import WatchBreak, WatchItem, watch

__all__ = ["EtcdClient", "WatchBreak"]

_OUT_OF_RANGE = 11


class EtcdClient:
    """Use inside one running event loop. Endpoints are tried in order, those that failed lately last."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        tls: ssl.SSLContext | None = None,
        timeout_s: float = 1.0,
        connect_timeout_s: float = 0.1,
        avoid_s: float = 1.0,
    ) -> None:
        """`timeout_s`: whole call, all endpoints; `avoid_s`: how long a failed endpoint is tried last."""
        if not endpoints:
            raise ValueError("an etcd client needs at least one endpoint")
        self.endpoints = tuple(endpoints)
        self._timeout_s = timeout_s
        self._avoid_s = avoid_s
        self._failed_at: dict[Endpoint, float] = {}
        self._gateway = Gateway(tls, connect_timeout_s)

    async def close(self) -> None:
        await self._gateway.close()

    async def range(
        self,
        key: str,
        *,
        prefix: bool = False,
        limit: int = 0,
        revision: int = 0,
        serializable: bool = False,
        keys_only: bool = False,
        until: str | None = None,
        timeout_s: float | None = None,
    ) -> RangeResult:
        """Keys at `revision` (0: now): `key`, all that begin with it, or all from it to below `until`.
        Linearizable, or if `serializable` one member's own, maybe old, view.

        Raises EtcdCompacted when `revision` is gone, EtcdDefinite, EtcdUnavailable.
        """
        end = until.encode() if until is not None else wire.prefix_end(key) if prefix else b""
        request = wire.RangeRequest(key.encode(), end, limit, revision, serializable, keys_only)
        return wire.RangeResponse.plain(
            await self._read("/v3/kv/range", request, wire.RangeResponse, timeout_s)
        )

    async def get(
        self, key: str, *, serializable: bool = False, timeout_s: float | None = None
    ) -> KeyValue | None:
        result = await self.range(key, serializable=serializable, timeout_s=timeout_s)
        return result.kvs[0] if result.kvs else None

    async def list_prefix(
        self, prefix: str, *, page: int = 1000, timeout_s: float | None = None
    ) -> RangeResult:
        """All keys with the prefix as of one revision, fetched in pages; the deadline is per page."""
        end = wire.prefix_end(prefix)
        key, revision = prefix.encode(), 0
        kvs: list[KeyValue] = []
        while True:
            request = wire.RangeRequest(key, end, page, revision)
            answer = await self._read("/v3/kv/range", request, wire.RangeResponse, timeout_s)
            revision = revision or answer.header.revision
            kvs.extend(kv.plain() for kv in answer.kvs)
            if not answer.more or not answer.kvs:
                return RangeResult(revision, tuple(kvs), False, len(kvs))
            key = answer.kvs[-1].key + b"\0"

    async def list_prefixes(
        self, prefixes: Sequence[str], *, timeout_s: float | None = None
    ) -> tuple[RangeResult, ...]:
        """All keys with each of the prefixes, in one read as of one revision. Linearizable, not in pages."""
        request = wire.TxnRequest((), tuple(wire.wire_op(Get(prefix, True)) for prefix in prefixes), ())
        answer = await self._read("/v3/kv/txn", request, wire.TxnResponse, timeout_s)
        # An empty range is an answer without content, which JSON shows as one without a range at all.
        found = (one.response_range or wire.RangeResponse() for one in answer.responses)
        return tuple(one.plain(answer.header.revision) for one in found)

    async def put(self, key: str, value: bytes, *, timeout_s: float | None = None) -> PutResult:
        """Raises EtcdIndeterminate, EtcdDefinite, EtcdUnavailable (as do `delete` and `txn`)."""
        answer = await self._write(
            "/v3/kv/put", wire.PutRequest(key.encode(), value), wire.PutResponse, timeout_s
        )
        return PutResult(answer.header.revision)

    async def delete(self, key: str, *, prefix: bool = False, timeout_s: float | None = None) -> DeleteResult:
        end = wire.prefix_end(key) if prefix else b""
        answer = await self._write(
            "/v3/kv/deleterange", wire.DeleteRequest(key.encode(), end), wire.DeleteResponse, timeout_s
        )
        return DeleteResult(answer.header.revision, answer.deleted)

    async def txn(
        self,
        compare: Sequence[Compare],
        success: Sequence[Op],
        failure: Sequence[Op] = (),
        *,
        timeout_s: float | None = None,
    ) -> TxnResult:
        """All of `success` when every comparison holds, else all of `failure`; neither is an error."""
        request = wire.TxnRequest(
            tuple(wire.wire_compare(c) for c in compare),
            tuple(wire.wire_op(op) for op in success),
            tuple(wire.wire_op(op) for op in failure),
        )
        answer = await self._write("/v3/kv/txn", request, wire.TxnResponse, timeout_s)
        revision = answer.header.revision
        results = tuple(wire.op_result(response, revision) for response in answer.responses)
        return TxnResult(answer.succeeded, revision, results)

    def watch(
        self, prefix: str, *, start_revision: int, silence_s: float = 2.0, retry_s: float = 0.05
    ) -> AsyncGenerator[WatchItem, None]:
        """Every change under `prefix` from `start_revision` on, across breaks; see `etcd_watch.watch`."""
        return watch(
            self,
            self._gateway,
            prefix,
            start_revision=start_revision,
            silence_s=silence_s,
            retry_s=retry_s,
        )

    async def status(self, endpoint: Endpoint, *, timeout_s: float | None = None) -> MemberStatus:
        """That member's own word about itself."""
        raw = await self._gateway.call(
            endpoint, "/v3/maintenance/status", b"{}", timeout_s or self._timeout_s
        )
        answer = _decode(endpoint, raw, wire.StatusResponse)
        header = answer.header
        return MemberStatus(
            endpoint,
            header.member_id,
            answer.leader,
            header.revision,
            answer.raftTerm,
            answer.raftIndex,
            answer.dbSize,
            answer.version,
            answer.errors,
        )

    async def members(self, *, timeout_s: float | None = None) -> tuple[Member, ...]:
        answer = await self._read("/v3/cluster/member/list", wire.Empty(), wire.MemberListResponse, timeout_s)
        return tuple(Member(m.ID, m.name, m.peerURLs, m.clientURLs, m.isLearner) for m in answer.members)

    async def move_leader(self, endpoint: Endpoint, target: int, *, timeout_s: float | None = None) -> None:
        """Ask `endpoint` (it must be the leader's) to hand the leadership to member `target`."""
        body = b'{"targetID":"%d"}' % target
        await self._gateway.call(
            endpoint, "/v3/maintenance/transfer-leadership", body, timeout_s or self._timeout_s
        )

    def order(self) -> list[Endpoint]:
        """The endpoints in the order in which they are tried now."""
        now = asyncio.get_running_loop().time()
        avoid = {e for e, at in self._failed_at.items() if now - at < self._avoid_s}
        return sorted(
            self.endpoints, key=lambda e: (e in avoid, self._failed_at.get(e, 0.0) if e in avoid else 0)
        )

    def mark_failed(self, endpoint: Endpoint) -> None:
        self._failed_at[endpoint] = asyncio.get_running_loop().time()

    async def _read(
        self, path: str, request: msgspec.Struct, kind: type[wire.T], timeout_s: float | None
    ) -> wire.T:
        """From the first endpoint that answers. One that is silent for its share of the time is not given up:
        the next is asked beside it, for as long as the whole call may take."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (timeout_s or self._timeout_s)
        body = wire.encode(request)
        failures: list[str] = []
        order = self.order()
        asked: dict[asyncio.Task[bytes], Endpoint] = {}
        try:
            while order or asked:
                left_s = deadline - loop.time()
                if left_s <= 0:
                    break
                if order:
                    endpoint, *order = order
                    call = self._gateway.call(endpoint, path, body, left_s)
                    asked[loop.create_task(call)] = endpoint
                share_s = left_s / (len(order) + 1)
                done, _ = await asyncio.wait(asked, timeout=share_s, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    endpoint = asked.pop(task)
                    try:
                        answer = _decode(endpoint, task.result(), kind)
                    except EtcdDefinite as error:
                        if error.code == _OUT_OF_RANGE and "compacted" in str(error):
                            raise EtcdCompacted(str(error), 0) from error
                        raise
                    except EtcdError as error:
                        self.mark_failed(endpoint)
                        failures.append(str(error))
                    else:
                        for slower in asked.values():
                            self.mark_failed(slower)
                        return answer
            waited = f"no answer in {(timeout_s or self._timeout_s) * 1000:.0f} ms"
            failures += [f"etcd on {one.host} ({one.url}): {waited}" for one in asked.values()]
            for endpoint in asked.values():
                self.mark_failed(endpoint)
        finally:
            for task in asked:
                task.cancel()
        raise EtcdUnavailable("; ".join(failures) or "no time left to ask etcd")

    async def _write(
        self, path: str, request: msgspec.Struct, kind: type[wire.T], timeout_s: float | None
    ) -> wire.T:
        """At the first endpoint that takes the request; nothing is sent twice."""
        deadline = asyncio.get_running_loop().time() + (timeout_s or self._timeout_s)
        body = wire.encode(request)
        failures: list[str] = []
        for endpoint in self.order():
            left_s = deadline - asyncio.get_running_loop().time()
            if left_s <= 0:
                break
            try:
                raw = await self._gateway.call(endpoint, path, body, left_s)
            except EtcdUnavailable as error:
                self.mark_failed(endpoint)
                failures.append(str(error))
                continue
            except EtcdIndeterminate:
                self.mark_failed(endpoint)
                raise
            return _decode(endpoint, raw, kind)
        raise EtcdUnavailable("; ".join(failures) or "no time left to ask etcd")


def _decode(endpoint: Endpoint, raw: bytes, kind: type[wire.T]) -> wire.T:
    try:
        return wire.decode(raw, kind)
    except msgspec.DecodeError as error:
        raise EtcdIndeterminate(
            f"etcd on {endpoint.host} ({endpoint.url}): not etcd's answer: {error}"
        ) from error
