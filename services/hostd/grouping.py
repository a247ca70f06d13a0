"""Agents' state writes on their way to etcd: at once while few are under way, many in one transaction when
there are more.

A transaction costs etcd a write to its disks and hostd half a millisecond of CPU, however small it is. Each
write keeps its own comparisons. One that fails refuses them all; then each is sent by itself, so that every
writer gets the answer that it would have got alone. Silence is silence for all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, Protocol

from services.control.domains import Known
from services.registry.domains import NotPerformed, Performed, StateChange, StoredState
from services.registry.etcd_types import EtcdError

AT_ONCE: Final = 2
"""Transactions of one domain under way before writes are gathered."""
MAX_WRITES: Final = 64
MAX_SIZE: Final = 120
"""Below the 128 operations that etcd takes in one transaction."""

Answer = Performed | NotPerformed


class Store(Protocol):
    """The part of `services.registry.domains.DomainStore` that is used."""

    async def write_states(
        self, home: str, changes: Iterable[StateChange], *, domain_revision: int, timeout_s: float
    ) -> Answer: ...
    async def read_state(self, agent: str, *, timeout_s: float) -> StoredState: ...
    async def read_domain(self, home: str, *, timeout_s: float) -> Known | None: ...


@dataclass(slots=True)
class _Lane:
    """The writes of one domain under one revision of its record."""

    under_way: int = 0
    waiting: deque[tuple[StateChange, asyncio.Future[Answer]]] = field(default_factory=deque)


class GroupingStore:
    """`services.hostd.state.Store` over a domain store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lanes: dict[tuple[str, int], _Lane] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def read_state(self, agent: str, *, timeout_s: float) -> StoredState:
        """As the store."""
        return await self._store.read_state(agent, timeout_s=timeout_s)

    async def read_domain(self, home: str, *, timeout_s: float) -> Known | None:
        """As the store."""
        return await self._store.read_domain(home, timeout_s=timeout_s)

    async def write_state(
        self,
        agent: str,
        home: str,
        *,
        domain_revision: int,
        puts: Mapping[str, bytes],
        deletes: tuple[str, ...],
        replaces: Mapping[str, int],
        timeout_s: float,
    ) -> Answer:
        """As the store. Raises EtcdError."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        key = (home, domain_revision)
        lane = self._lanes.setdefault(key, _Lane())
        lane.waiting.append((StateChange(agent, puts, deletes, replaces), answer))
        if lane.under_way < AT_ONCE:
            self._send(key, lane, timeout_s)
        return await answer

    def _send(self, key: tuple[str, int], lane: _Lane, timeout_s: float) -> None:
        group = _gathered(lane.waiting)
        lane.under_way += 1
        task = asyncio.get_running_loop().create_task(self._perform(key, lane, group, timeout_s))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(
        self,
        key: tuple[str, int],
        lane: _Lane,
        group: list[tuple[StateChange, asyncio.Future[Answer]]],
        timeout_s: float,
    ) -> None:
        try:
            if not await self._together(key, group, timeout_s, last=len(group) == 1):
                alone = (self._together(key, [one], timeout_s, last=True) for one in group)
                await asyncio.gather(*alone)
        finally:
            for _, answer in group:
                answer.cancel()  # of those that have none: this task was ended
            lane.under_way -= 1
            if lane.waiting:
                self._send(key, lane, timeout_s)
            elif lane.under_way == 0 and self._lanes.get(key) is lane:
                del self._lanes[key]

    async def _together(
        self,
        key: tuple[str, int],
        group: list[tuple[StateChange, asyncio.Future[Answer]]],
        timeout_s: float,
        *,
        last: bool,
    ) -> bool:
        """One transaction. False: refused, and nobody has been told."""
        home, revision = key
        outcome: Answer | EtcdError
        try:
            changes = tuple(change for change, _ in group)
            outcome = await self._store.write_states(
                home, changes, domain_revision=revision, timeout_s=timeout_s
            )
        except EtcdError as error:
            outcome = error
        if isinstance(outcome, NotPerformed) and not last:
            return False
        for _, answer in group:
            if answer.done():
                continue  # its writer went away
            if isinstance(outcome, EtcdError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)
        return True


def _gathered(
    waiting: deque[tuple[StateChange, asyncio.Future[Answer]]],
) -> list[tuple[StateChange, asyncio.Future[Answer]]]:
    """What goes into the next transaction: as much as fits, in order, one write of each agent."""
    group: list[tuple[StateChange, asyncio.Future[Answer]]] = []
    agents: set[str] = set()
    size = 0
    while waiting and len(group) < MAX_WRITES:
        change, _ = waiting[0]
        if group and (change.agent in agents or size + change.size > MAX_SIZE):
            break
        group.append(waiting.popleft())
        agents.add(change.agent)
        size += change.size
    return group
