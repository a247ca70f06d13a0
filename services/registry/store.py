"""The registry's operations on etcd, typed. Errors of etcd pass through (`etcd_types.EtcdError`)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import msgspec

from infra.topology import AgentSpec
from services.registry.etcd import EtcdClient
from services.registry.etcd_types import Compare, Delete, Get, KeyValue, Put, RangeResult
from services.registry.keys import Keys, Kind
from services.registry.model import HostRecord, Instance

T = TypeVar("T")
RENEWAL_TIMEOUT_S = 0.15
"""DESIGN.md: renewed every 200 ms, with deadlines of 150 ms."""


class RecordError(Exception):
    """A stored record that cannot be read: names the key and the fault."""


@dataclass(frozen=True, slots=True)
class Versioned(Generic[T]):
    """A record and the revision that wrote it: what a compare-and-swap is made against."""

    record: T
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Renewed:
    mod_revision: int


@dataclass(frozen=True, slots=True)
class Refused:
    """The record was not what the caller believed; `current` is what stands there now (None: nothing)."""

    current: Versioned[HostRecord] | None


class RegistryStore:
    def __init__(self, client: EtcdClient, keys: Keys) -> None:
        self._client = client
        self._keys = keys

    async def put_instance(self, instance: Instance, *, timeout_s: float | None = None) -> int:
        """Returns the revision."""
        key = self._keys.instance(instance.name, instance.host)
        return (await self._client.put(key, msgspec.json.encode(instance), timeout_s=timeout_s)).revision

    async def put_instances(self, instances: tuple[Instance, ...], *, timeout_s: float | None = None) -> int:
        """All in one transaction (etcd allows 128 operations by default); returns the revision."""
        puts = tuple(Put(self._keys.instance(i.name, i.host), msgspec.json.encode(i)) for i in instances)
        return (await self._client.txn((), puts, timeout_s=timeout_s)).revision

    async def delete_instance(self, name: str, host: str, *, timeout_s: float | None = None) -> bool:
        """True when there was one."""
        key = self._keys.instance(name, host)
        return (await self._client.delete(key, timeout_s=timeout_s)).deleted > 0

    async def put_definition(self, spec: AgentSpec, *, timeout_s: float | None = None) -> int:
        key = self._keys.definition(spec.name)
        return (await self._client.put(key, msgspec.json.encode(spec), timeout_s=timeout_s)).revision

    async def get_definition(
        self, name: str, *, timeout_s: float | None = None
    ) -> Versioned[AgentSpec] | None:
        kv = await self._client.get(self._keys.definition(name), timeout_s=timeout_s)
        return None if kv is None else _versioned(kv, AgentSpec)

    async def list_definitions(self, *, timeout_s: float | None = None) -> dict[str, AgentSpec]:
        folder = self._keys.folder(Kind.DEFINITION)
        listing = await self._client.list_prefix(folder, timeout_s=timeout_s)
        return {spec.name: spec for spec in (_decode(kv, AgentSpec) for kv in listing.kvs)}

    async def remove_agent(self, name: str, *, timeout_s: float | None = None) -> bool:
        """Definition and all instance records, in one transaction. True when there was a definition."""
        definition = self._keys.definition(name)
        instances = f"{self._keys.folder(Kind.AGENT)}{name}/"
        there = (Delete(definition), Delete(instances, prefix=True))
        result = await self._client.txn(
            (Compare.absent(definition),), (Delete(instances, prefix=True),), there, timeout_s=timeout_s
        )
        return not result.succeeded

    async def read_host(self, host: str, *, timeout_s: float | None = None) -> Versioned[HostRecord] | None:
        """Linearizable: how a renewal with an unknown outcome is cleared up."""
        kv = await self._client.get(self._keys.host(host), timeout_s=timeout_s)
        return None if kv is None else _versioned(kv, HostRecord)

    async def renew_host(
        self, record: HostRecord, against: int, *, timeout_s: float = RENEWAL_TIMEOUT_S
    ) -> Renewed | Refused:
        """Put `record` if the one that stands there was written by revision `against` (0: if there is none).

        Sent once. EtcdIndeterminate: it may have been done, or may be yet; read before the next step.
        """
        key = self._keys.host(record.host)
        result = await self._client.txn(
            (Compare.unchanged(key, against),),
            (Put(key, msgspec.json.encode(record)),),
            (Get(key),),
            timeout_s=timeout_s,
        )
        if result.succeeded:
            return Renewed(result.revision)
        found = result.responses[0]
        if isinstance(found, RangeResult) and found.kvs:
            return Refused(_versioned(found.kvs[0], HostRecord))
        return Refused(None)


def _versioned(kv: KeyValue, kind: type[T]) -> Versioned[T]:
    return Versioned(_decode(kv, kind), kv.mod_revision)


def _decode(kv: KeyValue, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(kv.value, type=kind)
    except msgspec.MsgspecError as error:
        raise RecordError(f"{kv.key}: {error}; write it again or delete it") from error
