"""Which agents this host has to run: what etcd defines, and what an operator has just put or deleted here.

A definition that was written here counts at once; the view that etcd tells catches up later, and until it has
reached the revision of that write it is not allowed to say otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterable, Mapping
from weakref import WeakValueDictionary

import msgspec

from infra.topology import AgentSpec
from services.hostd.agents import Supervisor
from services.hostd.events import EventLog
from services.hostd.records import RecordWriter
from services.hostd.runner import AgentRunner
from services.hostd.view import View
from services.registry.etcd import EtcdClient
from services.registry.etcd_types import Compare, Delete, EtcdError, Put
from services.registry.keys import Keys, Kind
from services.registry.model import Entry
from services.registry.store import RegistryStore

WRITE_TIMEOUT_S = 3.0
_FOR_NOW = 1 << 62


class Definitions:
    """Reconciles the supervisor with the definitions. Errors of etcd pass through `put` and `delete`."""

    def __init__(
        self,
        host: str,
        *,
        keys: Keys,
        client: EtcdClient,
        store: RegistryStore,
        records: RecordWriter,
        view: View,
        supervisor: Supervisor,
        events: EventLog,
    ) -> None:
        self._host = host
        self._keys = keys
        self._client = client
        self._store = store
        self._records = records
        self._view = view
        self._supervisor = supervisor
        self._events = events
        self._expected: dict[str, tuple[AgentSpec | None, int]] = {}
        self._kept: dict[str, AgentSpec] = {}
        self._revision = 0
        self._entries: Mapping[str, Entry] = {}
        self.belongs: Callable[[AgentSpec], bool] = lambda spec: spec.home == host
        """Whether an agent is to run on this host."""
        self.in_order: Callable[[Mapping[str, AgentSpec]], Iterable[AgentSpec]] = lambda specs: specs.values()
        """In which order agents are started."""
        self.left_behind: Callable[[str], tuple[Delete, ...]] = lambda name: ()
        """What is deleted from etcd with an agent, besides its definition and records."""
        self._draining = False
        self._removals: dict[str, asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    # From the disk, from etcd.

    def adopt(self, definitions: Mapping[str, AgentSpec]) -> None:
        """Takes hold of the agents that run already; starts none."""
        for spec in definitions.values():
            if self.belongs(spec) and self._supervisor.runs(spec.name):
                self._supervisor.apply(spec)

    def start_from_cache(self, definitions: Mapping[str, AgentSpec]) -> None:
        """etcd does not answer: run what ran last time."""
        for spec in definitions.values():
            if self.belongs(spec):
                self._supervisor.apply(spec)

    def told(self, definitions: Mapping[str, AgentSpec], entries: Mapping[str, Entry], revision: int) -> None:
        """The definitions and instances as of `revision`: starts, replaces and stops agents accordingly."""
        if revision < self._revision:
            self._went_back(definitions, revision)
        first = self._revision == 0
        self._revision, self._entries = revision, entries
        self._reconcile(definitions)
        if first:
            for name in self._supervisor.kill_unclaimed():
                self._events.add("killed", agent=name, detail="no definition wants it here")
        self._sweep(entries)

    def reconsider(self) -> None:
        """`belongs` may answer otherwise than before: starts and stops agents accordingly."""
        if self._revision > 0:
            self._reconcile(self._view.definitions)

    def _reconcile(self, definitions: Mapping[str, AgentSpec]) -> None:
        effective = {} if self._draining else self._effective(definitions)
        wanted = {name: spec for name, spec in effective.items() if self.belongs(spec)}
        if self._supervisor.has(wanted):
            return
        for spec in self.in_order(wanted):
            if spec.name not in self._removals:
                self._supervisor.apply(spec, self._known_incarnation(self._entries.get(spec.name)))
        for name in [name for name in self._supervisor.runners if name not in wanted]:
            self._remove(name)

    async def drain(self) -> None:
        """Stops every agent of this host and keeps them stopped until `resume` or the next start of hostd."""
        self._draining = True
        names = list(self._supervisor.runners)
        for name in names:
            self._remove(name)
        removals = [self._removals[name] for name in names if name in self._removals]
        if removals:
            await asyncio.wait(removals)

    def resume(self) -> None:
        """Ends `drain`."""
        self._draining = False
        for spec in self.effective().values():
            if self.belongs(spec) and spec.name not in self._removals:
                self._supervisor.apply(spec)

    def effective(self) -> dict[str, AgentSpec]:
        """All definitions of the stack as this host knows them."""
        return self._effective(self._view.definitions)

    def _effective(self, definitions: Mapping[str, AgentSpec]) -> dict[str, AgentSpec]:
        effective = {**self._kept, **definitions}
        for name, (spec, revision) in list(self._expected.items()):
            if self._revision >= revision:
                del self._expected[name]
            elif spec is None:
                effective.pop(name, None)
            else:
                effective[name] = spec
        return effective

    def _known_incarnation(self, entry: Entry | None) -> int:
        if entry is None:
            return 0
        return max((one.incarnation for one in entry.instances if one.host == self._host), default=0)

    def _sweep(self, entries: Mapping[str, Entry]) -> None:
        """Records of this host that belong to no agent of it any more."""
        for name, entry in entries.items():
            ours = any(one.host == self._host for one in entry.instances)
            if ours and self._view.own(name) is None and name not in self._removals:
                self._records.delete(self._keys.instance(name, self._host))

    def _went_back(self, definitions: Mapping[str, AgentSpec], revision: int) -> None:
        """The store lost writes that we have seen (restored from a copy): what runs here goes on running,
        and its definitions are written again where they are missing."""
        detail = f"from revision {self._revision} to {revision}"
        self._events.add("store-went-back", detail=detail)
        self._records.forget()
        for name, runner in self._supervisor.runners.items():
            if name not in definitions and runner.state.wanted:
                self._kept[name] = runner.spec
                self._spawn(self._write_again(runner.spec))
            self._supervisor.changed(runner)

    async def _write_again(self, spec: AgentSpec) -> None:
        key = self._keys.definition(spec.name)
        while True:
            try:
                await self._client.txn((Compare.absent(key),), (Put(key, msgspec.json.encode(spec)),))
                return
            except EtcdError:
                await asyncio.sleep(1.0)

    # From the operator.

    async def put(self, spec: AgentSpec) -> AgentRunner | None:
        """Defines an agent; its runner when it runs here. Raises EtcdError: it is, or may be, not defined."""
        async with self._lock(spec.name):
            return await self._put(spec)

    async def _put(self, spec: AgentSpec) -> AgentRunner | None:
        if self.effective().get(spec.name) != spec:
            revision = await self._store.put_definition(spec, timeout_s=WRITE_TIMEOUT_S)
            self._expected[spec.name] = (spec, revision)
        removal = self._removals.get(spec.name)
        if removal is not None:
            await asyncio.wait([removal])
        if not self.belongs(spec) or self._draining:
            self._remove(spec.name)
            return None
        return self._supervisor.apply(spec)

    async def delete(self, name: str) -> None:
        """Stops an agent and removes its definition and records. Raises EtcdError: then it runs again."""
        async with self._lock(name):
            await self._delete(name)

    async def _delete(self, name: str) -> None:
        self._expected[name] = (None, _FOR_NOW)
        try:
            self._remove(name)
            removal = self._removals.get(name)
            if removal is not None:
                await asyncio.wait([removal])
            everything = (
                Delete(self._keys.definition(name)),
                Delete(f"{self._keys.folder(Kind.AGENT)}{name}/", prefix=True),
                *self.left_behind(name),
            )
            result = await self._client.txn((), everything, timeout_s=WRITE_TIMEOUT_S)
        except BaseException:
            self._expected.pop(name, None)
            spec = self.effective().get(name)
            if spec is not None and self.belongs(spec):
                self._supervisor.apply(spec)
            raise
        self._kept.pop(name, None)
        self._expected[name] = (None, result.revision)

    def _lock(self, name: str) -> asyncio.Lock:
        lock = self._locks.get(name)
        if lock is None:
            lock = self._locks[name] = asyncio.Lock()
        return lock

    def _remove(self, name: str) -> None:
        if name in self._removals or name not in self._supervisor.runners:
            return
        task = asyncio.get_running_loop().create_task(self._stop(name))
        self._removals[name] = task
        task.add_done_callback(lambda _: self._removed(name))

    def _removed(self, name: str) -> None:
        self._removals.pop(name, None)
        spec = None if self._draining else self.effective().get(name)
        if spec is not None and spec.home != self._host and self.belongs(spec):
            self._supervisor.apply(spec)  # it came back to this host while it was being stopped

    async def _stop(self, name: str) -> None:
        try:
            await self._supervisor.remove(name)
        except TimeoutError:
            self._events.add("stop-timeout", agent=name, detail="its process does not end")

    def _spawn(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
