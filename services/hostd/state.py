"""Agents' state behind the fence: what arrives on `hostd.sock`, and its way to etcd."""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

import msgspec

from services.agent.errors import CallError, Code
from services.agent.store import CHANGED, StateContent, StateRead, StateWrite
from services.agent.wire import unpack_as
from services.control.domains import Known
from services.control.holdings import Noticed, WriteFence
from services.hostd.agents import Supervisor
from services.hostd.runner import AgentRunner
from services.registry.domains import NotPerformed, Performed, StoredState
from services.registry.etcd_types import EtcdError, EtcdIndeterminate
from services.registry.store import RecordError

ONE_WRITE_S: Final = 1.0
ALL_TRIES_S: Final = 1.5
RETRY_S: Final = 0.02


class Store(Protocol):
    """The part of `services.registry.domains.DomainStore` that is used."""

    async def write_state(
        self,
        agent: str,
        home: str,
        *,
        domain_revision: int,
        puts: dict[str, bytes],
        deletes: tuple[str, ...],
        replaces: dict[str, int],
        timeout_s: float,
    ) -> Performed | NotPerformed: ...
    async def read_state(self, agent: str, *, timeout_s: float) -> StoredState: ...
    async def read_domain(self, home: str, *, timeout_s: float) -> Known | None: ...


class Owner(Protocol):
    """The part of `services.hostd.ownership.HostOwnership` that is used."""

    def write_fence(self, home: str, agent: str) -> WriteFence | None: ...
    def feed(self, event: Noticed) -> None: ...


class StateDoor:
    """The handlers `state-write` and `state-read`; the caller is who the kernel says it is."""

    def __init__(self, host: str, store: Store, owner: Owner, supervisor: Supervisor) -> None:
        self._host = host
        self._store = store
        self._owner = owner
        self._supervisor = supervisor

    async def write(self, body: msgspec.Raw, pid: int) -> object:
        """The revision at which the store has it. Raises CallError; `fenced`, `unavailable`: not done."""
        wanted = unpack_as(body, StateWrite)
        runner = self._runner(wanted.name, wanted.incarnation, pid)
        return await self.perform(wanted, runner.spec.home)

    async def perform(self, wanted: StateWrite, home: str) -> int:
        """The write, tried again only after it certainly was not performed."""
        loop = asyncio.get_running_loop()
        until = loop.time() + ALL_TRIES_S
        trouble = "the record of its domain moves too often"
        while loop.time() < until:
            fence = self._owner.write_fence(home, wanted.name)
            if fence is None or fence.epoch != wanted.epoch:
                raise _fenced(wanted)
            try:
                answer = await self._store.write_state(
                    wanted.name,
                    home,
                    domain_revision=fence.revision,
                    puts=wanted.puts,
                    deletes=wanted.deletes,
                    replaces=wanted.replaces,
                    timeout_s=ONE_WRITE_S,
                )
                if isinstance(answer, Performed):
                    return answer.revision
                await self._learn(home, wanted, fence)
            except EtcdIndeterminate as error:
                raise CallError(Code.INDETERMINATE, f"etcd: {error}") from None
            except (EtcdError, RecordError) as error:
                trouble = f"etcd: {error}"
            await asyncio.sleep(RETRY_S)
        raise CallError(Code.UNAVAILABLE, trouble)

    async def read(self, body: msgspec.Raw, pid: int) -> object:
        """Everything that was acknowledged so far. Raises CallError."""
        wanted = unpack_as(body, StateRead)
        self._runner(wanted.name, wanted.incarnation, pid)
        try:
            return await read_content(self._store, wanted.name, ONE_WRITE_S)
        except EtcdError as error:
            raise CallError(Code.UNAVAILABLE, f"etcd: {error}") from None

    async def _learn(self, home: str, wanted: StateWrite, fence: WriteFence) -> None:
        """Refused: another host owns it now, or another unit of the domain has moved, or the value has."""
        known = await self._store.read_domain(home, timeout_s=ONE_WRITE_S)
        if known is None or known.record.assignment(wanted.name) != (self._host, wanted.epoch):
            raise _fenced(wanted)
        if known.revision == fence.revision:
            raise CallError(CHANGED, f"{wanted.name}: another value stands there")
        self._owner.feed(Noticed(domains={home: known}))

    def _runner(self, name: str, incarnation: int, pid: int) -> AgentRunner:
        runner = self._supervisor.runners.get(name)
        process = runner.process if runner is not None else None
        if runner is None or process is None or process.incarnation != incarnation or process.pid != pid:
            raise CallError(Code.FENCED, f"that process is not {name[:64]} of this host")
        return runner


async def read_content(store: Store, agent: str, timeout_s: float) -> StateContent:
    """All of an agent's acknowledged state, linearizable, as it is told to agents. Raises EtcdError."""
    stored = await store.read_state(agent, timeout_s=timeout_s)
    return StateContent(stored.revision, stored.items)


def _fenced(wanted: StateWrite) -> CallError:
    return CallError(Code.FENCED, f"{wanted.name} is not served here at epoch {wanted.epoch}")
