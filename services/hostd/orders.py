"""What an operator asks of ownership: who holds what, a switch-over, a drain."""

from __future__ import annotations

import asyncio
import logging

import msgspec

from services.control.domains import Unit
from services.control.stances import MAY_ACT
from services.hostd.access import ApiError
from services.hostd.definitions import Definitions
from services.hostd.events import EventLog
from services.hostd.household import AgentHousehold
from services.hostd.ownership import HostOwnership
from services.registry.etcd_types import EtcdError
from services.registry.stays import StayStore, Why
from services.registry.store import RecordError

STAYS_LIMIT_S = 1.0

log = logging.getLogger("threenines.hostd")


class SwitchOver(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Body of `POST /v1/switchover`: the agents homed on `home` are to be served by `to`; with `stay` until
    the next switch-over of that domain, else until the fail-back."""

    home: str
    to: str
    stay: bool = False


class DomainAnswer(msgspec.Struct, frozen=True):
    """Who holds a domain as this host has last seen it; `acting`: this host serves it now; `stays`: what
    keeps it from going home (`operator`, `drain`; empty: nothing, or etcd does not say)."""

    home: str
    holder: str
    epoch: int
    acting: bool
    exceptions: dict[str, str] = {}
    stays: str = ""


class DrainAnswer(msgspec.Struct, frozen=True):
    """`handed_over`: units that another host serves now. `stopped`: units that nobody took over."""

    draining: bool
    handed_over: tuple[str, ...] = ()
    stopped: tuple[str, ...] = ()


class Orders:
    """The API's part of ownership. Methods raise ApiError."""

    def __init__(
        self,
        host: str,
        workers: tuple[str, ...],
        stays: StayStore,
        ownership: HostOwnership,
        household: AgentHousehold,
        definitions: Definitions,
        events: EventLog,
    ) -> None:
        self._host = host
        self._workers = workers
        self._stays = stays
        self._ownership = ownership
        self._household = household
        self._definitions = definitions
        self._events = events
        self._fresh: asyncio.Task[None] | None = None

    def keep_house(self) -> None:
        """A drain ends with the life of hostd that was asked for it: once, when this one may speak."""
        if self._fresh is None and self._ownership.held():
            self._fresh = asyncio.get_running_loop().create_task(self._forget_drain())

    def close(self) -> None:
        """hostd leaves."""
        if self._fresh is not None:
            self._fresh.cancel()

    async def _forget_drain(self) -> None:
        while True:
            try:
                await self._stays.delete(self._host, Why.DRAIN, timeout_s=STAYS_LIMIT_S)
                return
            except EtcdError as error:
                log.info("an earlier drain is not forgotten yet: %s", error)
                await asyncio.sleep(STAYS_LIMIT_S)

    async def domains(self) -> list[DomainAnswer]:
        """All domains of the stack."""
        try:
            stays = await self._stays.read(timeout_s=STAYS_LIMIT_S)
        except (EtcdError, RecordError):
            stays = {}
        return [self._domain(home, stays) for home in self._workers]

    def _domain(self, home: str, stays: dict[str, Why]) -> DomainAnswer:
        holder, epoch = self._ownership.holder(home)
        known = self._ownership.state.domains[home].record
        return DomainAnswer(
            home,
            holder,
            epoch,
            self._ownership.serves(home, "") and self._ownership.held(),
            {agent: to.holder for agent, to in known.exceptions.items()},
            stays.get(home, ""),
        )

    async def switch_over(self, wanted: SwitchOver, wait_s: float) -> DomainAnswer:
        """Hands a domain to another host, without an error for callers."""
        home, to = wanted.home, wanted.to
        for host in (home, to):
            if host not in self._workers:
                raise ApiError(422, "bad-request", f"{host[:64]!r} is no worker of this stack")
        holder, _ = self._ownership.holder(home)
        if holder not in (to, self._host):
            raise ApiError(421, "misdirected", f"{home} is served by {holder}: ask there")
        if holder != to and not self._ownership.alive(to):
            raise ApiError(409, "conflict", f"{to} shows no sign of life")
        stays = await self._settle_stay(wanted)
        if holder != to:
            self._ownership.release(Unit(home), to)
            try:
                await self._household.wait_for(lambda: self._ownership.holder(home)[0] == to, wait_s)
            except TimeoutError:
                raise ApiError(504, "deadline", f"{home} is not handed over after {wait_s:g} s") from None
        return self._domain(home, stays)

    async def _settle_stay(self, wanted: SwitchOver) -> dict[str, Why]:
        """Before anything moves: a wish that cannot be written down is not promised."""
        home = wanted.home
        try:
            stays = await self._stays.read(timeout_s=STAYS_LIMIT_S)
            if stays.get(wanted.to) is Why.DRAIN:
                raise ApiError(409, "conflict", f"{wanted.to} is being drained")
            if wanted.stay and wanted.to != home and stays.get(home) is None:
                await self._stays.put(home, Why.OPERATOR, timeout_s=STAYS_LIMIT_S)
                stays[home] = Why.OPERATOR
            elif (not wanted.stay or wanted.to == home) and stays.get(home) is Why.OPERATOR:
                await self._stays.delete(home, timeout_s=STAYS_LIMIT_S)
                del stays[home]
                self._household.may_go_home(Unit(home))
        except (EtcdError, RecordError) as error:
            raise ApiError(503, "unavailable", f"etcd does not take the order: {error}") from None
        return stays

    async def drain(self, wait_s: float) -> DrainAnswer:
        """Hands over all that this host serves, so that no caller sees an error; then stops its agents, and
        keeps them stopped. What nobody can take over is stopped as well."""
        try:
            await self._stays.put(self._host, Why.DRAIN, timeout_s=STAYS_LIMIT_S)
        except EtcdError as error:
            log.warning("drained without a handover: %s", error)
        self._ownership.stand_back(True)
        units = sorted(u for u, h in self._ownership.state.holdings.items() if h.stance in MAY_ACT)
        for unit in units:
            target = self._heir(unit)
            if target is not None:
                self._ownership.release(unit, target)
        try:
            await self._household.wait_for(lambda: not self._held(units), wait_s)
        except TimeoutError:
            self._events.add("drain-timeout", detail=", ".join(str(unit) for unit in self._held(units)))
        kept = self._held(units)
        await self._definitions.drain()
        given = tuple(str(unit) for unit in units if unit not in kept)
        return DrainAnswer(True, given, tuple(str(unit) for unit in kept))

    def _held(self, units: list[Unit]) -> list[Unit]:
        return [unit for unit in units if unit in self._ownership.state.holdings]

    def _heir(self, unit: Unit) -> str | None:
        """Its home, else the first worker after this host that shows signs of life."""
        others = [host for host in self._workers if host != self._host and self._ownership.alive(host)]
        own = self._workers.index(self._host)
        others.sort(
            key=lambda host: (host != unit.home, (self._workers.index(host) - own) % len(self._workers))
        )
        return others[0] if others else None

    async def end_drain(self) -> DrainAnswer:
        """Agents of this host may run again; its domain comes home after the hold-down."""
        self._definitions.resume()
        self._ownership.stand_back(False)
        try:
            await self._stays.delete(self._host, Why.DRAIN, timeout_s=STAYS_LIMIT_S)
        except EtcdError as error:
            raise ApiError(503, "unavailable", f"not written down, ask again: {error}") from None
        return DrainAnswer(False)
