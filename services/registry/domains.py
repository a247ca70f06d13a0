"""Ownership and agents' state in etcd, typed: `hosts/…` and `domains/…` under the stack's prefix, and state
under a prefix of its own, so that the watch for discovery does not hear of every write of an agent.

Each operation is sent once. Errors of etcd pass through (`etcd_types.EtcdError`): EtcdIndeterminate means
that it may have been done, or may be yet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from urllib.parse import quote, unquote

import msgspec

from services.control.domains import Assignment, DomainRecord, Known, Transaction
from services.control.holdings import HostSeen, View
from services.registry.etcd import EtcdClient
from services.registry.etcd_types import (
    Compare,
    CompareResult,
    CompareTarget,
    Delete,
    Op,
    Put,
    RangeResult,
)
from services.registry.keys import Keys, Kind
from services.registry.model import HostRecord
from services.registry.store import RecordError

DOMAINS = "domains"


class _Assigned(msgspec.Struct, frozen=True):
    holder: str
    epoch: int


class _Domain(msgspec.Struct, frozen=True, rename={"exceptions": "except"}):
    """The JSON form of `DomainRecord`."""

    home: str
    holder: str
    epoch: int
    exceptions: dict[str, _Assigned] = {}


def encode_domain(record: DomainRecord) -> bytes:
    """The value of `domains/<home>`."""
    excepted = {agent: _Assigned(to.holder, to.epoch) for agent, to in record.exceptions.items()}
    return msgspec.json.encode(_Domain(record.home, record.holder, record.epoch, excepted))


def decode_domain(key: str, value: bytes) -> DomainRecord:
    """Raises RecordError."""
    try:
        read = msgspec.json.decode(value, type=_Domain)
    except msgspec.MsgspecError as error:
        raise RecordError(f"{key}: {error}; write it again or delete it") from error
    excepted = {agent: Assignment(to.holder, to.epoch) for agent, to in read.exceptions.items()}
    return DomainRecord(read.home, read.holder, read.epoch, excepted)


@dataclass(frozen=True, slots=True)
class Performed:
    """The transaction was performed, at this revision."""

    revision: int


@dataclass(frozen=True, slots=True)
class NotPerformed:
    """A comparison failed: nothing was written."""


@dataclass(frozen=True, slots=True)
class StoredState:
    """All acknowledged state of one agent as of `revision`, least recently written first: key, value in
    msgpack, and the revision that wrote it."""

    revision: int
    items: tuple[tuple[str, bytes, int], ...]


@dataclass(frozen=True, slots=True)
class StateChange:
    """What one write does to an agent's state: values in msgpack, and the revisions that it replaces."""

    agent: str
    puts: Mapping[str, bytes]
    deletes: tuple[str, ...]
    replaces: Mapping[str, int]

    @property
    def size(self) -> int:
        """Operations or comparisons, whichever are more: etcd bounds both."""
        return max(len(self.puts) + len(self.deletes), len(self.replaces))


class DomainStore:
    """`address` is this host's, for its own record."""

    def __init__(self, client: EtcdClient, keys: Keys, *, stack: str, host: str, address: str, boot_id: str):
        self._client = client
        self._keys = keys
        self._state = f"/threenines/{stack}/state/v1/"
        self._host = host
        self._address = address
        self._boot_id = boot_id
        self._hosts_folder = keys.folder(Kind.HOST)
        self._domains_folder = f"{keys.prefix}{DOMAINS}/"

    def domain_key(self, home: str) -> str:
        """Where the record of a domain stands."""
        return self._domains_folder + home

    def state_folder(self, agent: str) -> str:
        """The prefix of an agent's state."""
        return f"{self._state}{agent}/"

    async def read_all(self, *, timeout_s: float) -> View:
        """Every host and domain record at one revision, linearizable. Raises EtcdError, RecordError."""
        # One range for both folders: they are neighbours but for folders that nobody fills.
        end = self._hosts_folder[:-1] + chr(ord("/") + 1)
        found = await self._client.range(self._domains_folder, until=end, timeout_s=timeout_s)
        hosts = [kv for kv in found.kvs if self.is_host(kv.key)]
        domains = [kv for kv in found.kvs if self.is_domain(kv.key)]
        return View(
            revision=found.revision,
            hosts=dict(self.host_of(kv.key, kv.value, kv.mod_revision) for kv in hosts),
            domains=dict(self.domain_of(kv.key, kv.value, kv.mod_revision) for kv in domains),
        )

    def is_host(self, key: str) -> bool:
        """Whether a key is that of a host record."""
        return key.startswith(self._hosts_folder)

    def is_domain(self, key: str) -> bool:
        """Whether a key is that of a domain record."""
        return key.startswith(self._domains_folder)

    def host_of(self, key: str, value: bytes, revision: int) -> tuple[str, HostSeen]:
        """A host record and its host. Raises RecordError."""
        try:
            record = msgspec.json.decode(value, type=HostRecord)
        except msgspec.MsgspecError as error:
            raise RecordError(f"{key}: {error}; write it again or delete it") from error
        host = key.removeprefix(self._hosts_folder)
        return host, HostSeen(revision, record.boot_id, record.epoch, record.seq)

    def domain_of(self, key: str, value: bytes, revision: int) -> tuple[str, Known]:
        """A domain record and its home. Raises RecordError."""
        return key.removeprefix(self._domains_folder), Known(revision, decode_domain(key, value))

    async def transact(self, wanted: Transaction, *, timeout_s: float) -> Performed | NotPerformed:
        """The core's transaction as one of etcd: all comparisons, then all puts."""
        own = self._keys.host(self._host)
        compare = [Compare.unchanged(own, wanted.host_revision)]
        compare += [
            Compare.unchanged(self.domain_key(home), revision) for home, revision in wanted.domains.items()
        ]
        compare += [
            Compare.unchanged(self._keys.host(peer), revision) for peer, revision in wanted.peers.items()
        ]
        compare += [
            Compare(self._keys.host(host), CompareTarget.CREATE, 0, CompareResult.GREATER)
            for host in wanted.present
        ]
        record = HostRecord(
            host=self._host,
            boot_id=self._boot_id,
            epoch=wanted.host_epoch,
            seq=wanted.host_seq,
            address=self._address,
        )
        puts = [Put(own, msgspec.json.encode(record))]
        puts += [Put(self.domain_key(home), encode_domain(domain)) for home, domain in wanted.puts.items()]
        result = await self._client.txn(compare, puts, timeout_s=timeout_s)
        return Performed(result.revision) if result.succeeded else NotPerformed()

    # Agents' state.

    async def write_state(
        self,
        agent: str,
        home: str,
        *,
        domain_revision: int,
        puts: Mapping[str, bytes],
        deletes: Iterable[str] = (),
        replaces: Mapping[str, int],
        timeout_s: float,
    ) -> Performed | NotPerformed:
        """Performed only while `domains/<home>` was written by `domain_revision`, the old owner's fence, and
        each key of `replaces` by its revision (0: is absent), so that a late write undoes no newer one."""
        change = StateChange(agent, puts, tuple(deletes), replaces)
        return await self.write_states(home, (change,), domain_revision=domain_revision, timeout_s=timeout_s)

    async def write_states(
        self, home: str, changes: Iterable[StateChange], *, domain_revision: int, timeout_s: float
    ) -> Performed | NotPerformed:
        """The same for several agents of one domain, all or nothing: `NotPerformed` says that one of their
        comparisons failed, not whose. Raises ValueError when two of them are the same agent's."""
        compares = [Compare.unchanged(self.domain_key(home), domain_revision)]
        ops: list[Op] = []
        agents: set[str] = set()
        for change in changes:
            if change.agent in agents:
                raise ValueError(f"two changes of {change.agent} in one transaction")
            agents.add(change.agent)
            folder = self.state_folder(change.agent)
            ops += [Put(folder + quote(key, safe=""), value) for key, value in change.puts.items()]
            ops += [Delete(folder + quote(key, safe="")) for key in change.deletes if key not in change.puts]
            compares += [
                Compare.unchanged(folder + quote(key, safe=""), revision)
                for key, revision in change.replaces.items()
            ]
        result = await self._client.txn(compares, ops, timeout_s=timeout_s)
        return Performed(result.revision) if result.succeeded else NotPerformed()

    async def read_state(self, agent: str, *, timeout_s: float) -> StoredState:
        """Linearizable: every write that was acknowledged before this was called is in it."""
        folder = self.state_folder(agent)
        return _stored(folder, await self._client.list_prefix(folder, timeout_s=timeout_s))

    async def read_states(self, agents: Sequence[str], *, timeout_s: float) -> tuple[StoredState, ...]:
        """As `read_state`, of several agents as of one revision."""
        folders = [self.state_folder(agent) for agent in agents]
        listings = await self._client.list_prefixes(folders, timeout_s=timeout_s)
        return tuple(map(_stored, folders, listings))

    async def read_domain(self, home: str, *, timeout_s: float) -> Known | None:
        """Linearizable. Raises EtcdError, RecordError."""
        found = await self._client.get(self.domain_key(home), timeout_s=timeout_s)
        return None if found is None else self.domain_of(found.key, found.value, found.mod_revision)[1]


def _stored(folder: str, listing: RangeResult) -> StoredState:
    ordered = sorted(listing.kvs, key=lambda kv: (kv.mod_revision, kv.key))
    return StoredState(
        listing.revision,
        tuple((unquote(kv.key.removeprefix(folder)), kv.value, kv.mod_revision) for kv in ordered),
    )
