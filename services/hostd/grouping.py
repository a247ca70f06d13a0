"""Agents' state on its way to and from etcd: writes of one domain together, and reads, as in a takeover."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from services.control.domains import Known
from services.hostd.gathering import Gathering
from services.registry.domains import NotPerformed, Performed, StateChange, StoredState

MAX_WRITES: Final = 64
MAX_SIZE: Final = 120
MAX_READS: Final = 16
"""Each brings all that an agent keeps."""
"""Below the 128 operations that etcd takes in one transaction."""

Answer = Performed | NotPerformed


class Store(Protocol):
    """The part of `services.registry.domains.DomainStore` that is used."""

    async def write_states(
        self, home: str, changes: Iterable[StateChange], *, domain_revision: int, timeout_s: float
    ) -> Answer: ...
    async def read_states(self, agents: Sequence[str], *, timeout_s: float) -> tuple[StoredState, ...]: ...
    async def read_domain(self, home: str, *, timeout_s: float) -> Known | None: ...


class GroupingStore:
    """`services.hostd.state.Store` over a domain store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._lanes: dict[tuple[str, int, float], Gathering[StateChange, Answer]] = {}
        self._reads: dict[float, Gathering[str, Mapping[str, StoredState]]] = {}

    async def read_state(self, agent: str, *, timeout_s: float) -> StoredState:
        """As the store. Raises EtcdError."""
        lane = self._reads.get(timeout_s)
        if lane is None:
            lane = self._reads[timeout_s] = Gathering(
                partial(self._read, timeout_s),
                fits=lambda waiting: min(len(waiting), MAX_READS),
                refused=lambda answer: False,
            )
        return (await lane.perform(agent))[agent]

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
        key = (home, domain_revision, timeout_s)
        lane = self._lanes.get(key)
        if lane is None:
            send = partial(self._send, home, domain_revision, timeout_s)
            lane = self._lanes[key] = Gathering(
                send, fits=_fitting, refused=lambda answer: isinstance(answer, NotPerformed)
            )
        try:
            return await lane.perform(StateChange(agent, puts, deletes, replaces))
        finally:
            if lane.idle and self._lanes.get(key) is lane:
                del self._lanes[key]

    async def _read(self, timeout_s: float, agents: Sequence[str]) -> Mapping[str, StoredState]:
        named = tuple(dict.fromkeys(agents))
        states = await self._store.read_states(named, timeout_s=timeout_s)
        return dict(zip(named, states, strict=True))

    async def _send(
        self, home: str, revision: int, timeout_s: float, changes: Sequence[StateChange]
    ) -> Answer:
        return await self._store.write_states(home, changes, domain_revision=revision, timeout_s=timeout_s)


def _fitting(waiting: Sequence[StateChange]) -> int:
    """What goes into the next transaction: as much as fits, in order, one write of each agent."""
    agents: set[str] = set()
    size = 0
    for count, change in enumerate(waiting[:MAX_WRITES]):
        if count and (change.agent in agents or size + change.size > MAX_SIZE):
            return count
        agents.add(change.agent)
        size += change.size
    return min(len(waiting), MAX_WRITES)
