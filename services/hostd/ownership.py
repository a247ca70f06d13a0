"""Performs what services.control.ownership decides: one request to etcd at a time, timers, and the fence.

It stands in for `HostLease` where ownership is on: its transactions renew the host's record as well.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Protocol

from services.agent.fence import Allowance
from services.control import ownership as core
from services.control.domains import Known, Unit
from services.control.holdings import (
    Effect,
    Event,
    Fence,
    Noticed,
    Ownership,
    OwnershipPolicy,
    Publish,
    ReadAll,
    Release,
    StandBys,
    Transact,
    WriteFence,
    begin,
    speaks_again,
)
from services.control.lease import (
    Acked,
    Ambiguous,
    Failed,
    Lease,
    LeasePhase,
    Refused,
    Stop,
    Tick,
    patience_ns,
)
from services.control.suspicion import SUSPICION, suspected
from services.registry.domains import DomainStore, Performed
from services.registry.etcd_types import EtcdError, EtcdIndeterminate
from services.registry.store import RecordError
from services.registry.watcher import Record


class Household(Protocol):
    """Who performs what happens to agents."""

    def allow(self, allowance: Allowance) -> None:
        """Put into force before anything else is done."""

    def effect(self, effect: Effect) -> None:
        """PROMOTE, RESUME, QUIESCE or DEMOTE the agents of a unit. Must not block."""

    def fenced(self, units: tuple[Unit, ...]) -> None:
        """The deadline passed: nobody serves as primary here any more."""

    def learned(self) -> None:
        """Some domain's record, or what this host may act for, has changed."""


class HostOwnership:
    """The shell. `run` it as a task; `feed` takes events from elsewhere in the same event loop."""

    def __init__(
        self,
        store: DomainStore,
        *,
        host: str,
        workers: tuple[str, ...],
        boot_id: str,
        floor_epoch: int,
        policy: OwnershipPolicy,
        now_ns: Callable[[], int],
        household: Household,
        on_epoch: Callable[[int], None],
        on_renewal: Callable[[float], None],
    ) -> None:
        """`workers`: all hosts that agents can be homed on, in an order that is the same everywhere."""
        self._store = store
        self._workers = workers
        self._policy = policy
        self._now_ns = now_ns
        self._household = household
        self._on_epoch = on_epoch
        self._on_renewal = on_renewal
        lease = Lease(boot_id=boot_id, floor_epoch=floor_epoch)
        self.state: Ownership = begin(host, lease, workers, _ranks(host, workers), now_ns())
        self._events: deque[Event] = deque()
        self._stirred = asyncio.Event()
        self._request: asyncio.Task[None] | None = None
        self._announced = 0
        self._stopped = False
        self._suspected: Mapping[str, int] = {}
        self.trouble: str | None = None
        """Why the last request failed; None after a success."""

    # What HostLease offers too.

    @property
    def deadline_ns(self) -> int:
        """Until when this host may act (CLOCK_BOOTTIME); 0 before the first acknowledgement."""
        return self.state.deadline_ns(self._policy)

    @property
    def epoch(self) -> int:
        """The host's epoch of the last acknowledged record, 0 before the first."""
        return self._announced

    def held(self) -> bool:
        """Whether this host may act now."""
        return self.state.lease.held(self._now_ns(), self._policy.lease)

    # What is asked of it.

    def acting_epoch(self, home: str, agent: str) -> int | None:
        """The epoch at which this host may act for an agent now."""
        return self.state.acting_epoch(home, agent, self._now_ns(), self._policy)

    def write_fence(self, home: str, agent: str) -> WriteFence | None:
        """What a write of that agent's state has to compare; None: it must not be sent."""
        return self.state.write_fence(home, agent, self._now_ns(), self._policy)

    def serves(self, home: str, agent: str) -> bool:
        """Whether the last acknowledged transaction gave that agent to this host, in time or not."""
        return self.state.unit_of(home, agent) in self.state.proof

    def holder(self, home: str, agent: str = "") -> tuple[str, int]:
        """Host and epoch that the record names, as last seen; epoch 0: it was never written."""
        known = self.state.domains.get(home)
        return (home, 0) if known is None else known.record.assignment(agent)

    def revision(self, home: str) -> int:
        """The revision that wrote the record of a domain, as last seen."""
        known = self.state.domains.get(home)
        return 0 if known is None else max(0, known.revision)

    def alive(self, host: str) -> bool:
        """Whether a peer's record was seen to change lately."""
        peer = self.state.peers.get(host)
        return peer is not None and peer.revision > 0 and not peer.gone(self._now_ns(), self._policy.lease)

    def suspects(self, host: str) -> bool:
        """Whether a peer has been silent for a part of its lease, or was a moment ago."""
        return host in self._suspected

    def feed(self, event: Event) -> None:
        """Something happened. Worked in before the next wait."""
        self._events.append(event)
        self._stirred.set()

    def records(self, records: Iterable[Record]) -> None:
        """What the watch brought, of any kind."""
        hosts: dict[str, int] = {}
        domains: dict[str, Known] = {}
        for record in records:
            if record.value is None:
                continue  # a deletion is learned by the next read
            try:
                if self._store.is_host(record.key):
                    host, seen = self._store.host_of(record.key, record.value, record.mod_revision)
                    hosts[host] = seen.revision
                elif self._store.is_domain(record.key):
                    home, known = self._store.domain_of(record.key, record.value, record.mod_revision)
                    domains[home] = known
            except RecordError as error:
                self.trouble = str(error)
        if hosts or domains:
            self.feed(Noticed(hosts, domains))

    async def run(self) -> None:
        """Until another hostd of this host has taken its record: then it returns."""
        self.feed(Tick())
        try:
            while self._work():
                due_ns = core.wake_ns(self.state, self._policy)
                self._stirred.clear()
                if self._events:
                    continue
                try:
                    wait_s = None if due_ns is None else max(0.0, (due_ns - self._now_ns()) / 1e9)
                    async with asyncio.timeout(wait_s):
                        await self._stirred.wait()
                except TimeoutError:
                    self._events.append(Tick())
        finally:
            if self._request is not None:
                self._request.cancel()

    def _work(self) -> bool:
        """False: another hostd has taken this host's record."""
        while self._events and not self._stopped:
            self._step(self._events.popleft())
        return not self._stopped

    def _step(self, event: Event) -> None:
        now_ns = self._now_ns()
        before = self.state
        self.state, actions = core.step(before, event, now_ns, self._policy)
        if isinstance(event, Acked):
            self.trouble = None
            self._on_renewal((now_ns - before.lease.sent_ns) / 1e9)
            if self.state.lease.epoch != self._announced:
                self._announced = self.state.lease.epoch
                self._on_epoch(self._announced)
        for action in actions:
            match action:
                case Publish(deadline_ns, serving, withheld):
                    self._household.allow(
                        Allowance(
                            deadline_ns=deadline_ns,
                            serving={str(unit): epoch for unit, epoch in serving.items()},
                            withheld=frozenset(str(unit) for unit in withheld),
                        )
                    )
                case Effect():
                    self._household.effect(action)
                case Fence(units):
                    self._household.allow(Allowance())
                    self._household.fenced(units)
                case ReadAll():
                    self._request = asyncio.get_running_loop().create_task(self._read())
                case Transact():
                    self._request = asyncio.get_running_loop().create_task(self._transact(action))
                case Stop():
                    self._household.allow(Allowance())
                    self._stopped = True
        changed = before.domains is not self.state.domains or before.proof.keys() != self.state.proof.keys()
        earlier, lease = self._suspected, self._policy.lease
        self._suspected = suspected(earlier, self.state.peers, now_ns, lease, SUSPICION)
        changed = changed or earlier.keys() != self._suspected.keys()
        if changed or speaks_again(before, self.state, now_ns, self._policy):
            self._household.learned()

    # Requests: each reports exactly one outcome.

    async def _read(self) -> None:
        event: Event
        try:
            event = await self._store.read_all(timeout_s=self._timeout_s())
        except (EtcdError, RecordError) as error:
            self.trouble = str(error)
            event = Failed()
        self.feed(event)

    async def _transact(self, action: Transact) -> None:
        event: Event
        try:
            answer = await self._store.transact(action.transaction, timeout_s=self._timeout_s())
            event = Acked(answer.revision) if isinstance(answer, Performed) else Refused()
        except EtcdIndeterminate as error:
            self.trouble = str(error)
            event = Ambiguous()
        except EtcdError as error:
            self.trouble = str(error)
            event = Failed()
        self.feed(event)

    def _timeout_s(self) -> float:
        return patience_ns(self.state.lease, self._now_ns(), self._policy.lease) / 1e9

    # Orders.

    def release(self, unit: Unit, target: str) -> None:
        """Hand a unit that this host serves over to another one, without an error for callers."""
        self.feed(Release(unit, target))

    def stand_by(self, standbys: Mapping[Unit, str]) -> None:
        """Who stands by for which agents, by the definitions. Matters where several hosts may follow one."""
        if standbys != self.state.standbys:
            self.feed(StandBys(standbys))

    def stand_back(self, yes: bool) -> None:
        """While this is so, nobody's units are taken over: this host could not run their agents."""
        ranks = {} if yes else _ranks(self.state.host, self._workers)
        self.state = replace(self.state, ranks=ranks)
        self._stirred.set()

    @property
    def replaced(self) -> bool:
        """Whether another hostd has taken this host's record."""
        return self.state.lease.phase is LeasePhase.REPLACED


def _ranks(host: str, workers: tuple[str, ...]) -> dict[str, int]:
    """This host's place among the challengers of each peer: they take turns, beginning after the peer."""
    count = len(workers)
    own = workers.index(host)
    return {peer: (own - workers.index(peer) - 1) % count for peer in workers if peer != host}
