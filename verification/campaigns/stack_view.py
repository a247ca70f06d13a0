"""What the harness asks the stack itself between trials: is everything back, who holds which domain.

Nothing here carries a verdict; it decides when the next trial may begin and how the stack is left.
"""

from __future__ import annotations

import ssl
from collections import Counter
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TypeVar

import aiohttp
import msgspec

from infra.substrates.base import Substrate, SubstrateError
from infra.topology import Port

T = TypeVar("T")

ASK_LIMIT_S = 2.0
READY_STATES = frozenset({"up", "standby"})


class _Instance(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    host: str
    state: str


class _Agents(msgspec.Struct, frozen=True, kw_only=True):
    agents: tuple[_Instance, ...] = ()


class Domain(msgspec.Struct, frozen=True, kw_only=True):
    """A row of `/v1/domains`."""

    home: str
    holder: str
    epoch: int
    acting: bool = False
    exceptions: dict[str, str] = {}


class _Domains(msgspec.Struct, frozen=True, kw_only=True):
    domains: tuple[Domain, ...] = ()


class _Health(msgspec.Struct, frozen=True, kw_only=True):
    health: str | bool = False


class _Header(msgspec.Struct, frozen=True, kw_only=True):
    member_id: str = ""


class _Member(msgspec.Struct, frozen=True, kw_only=True):
    """What a member of etcd says of itself; ids are numbers, which JSON carries as text."""

    header: _Header = _Header()
    leader: str = ""

    @property
    def leads(self) -> bool:
        return bool(self.leader) and self.leader == self.header.member_id


class AskError(Exception):
    """A host gave no answer, or not the one that was asked for."""


class NotThere(AskError):
    """The host knows no such thing."""


@dataclass
class StackView:
    """The operator's questions to hostd and etcd of each host."""

    substrate: Substrate
    workers: tuple[str, ...]
    _session: aiohttp.ClientSession | None = None
    _context: ssl.SSLContext | None = None
    usual: dict[str, int] = field(default_factory=dict)
    """How many instances each worker runs when all is well; `learn` sets it."""

    async def close(self) -> None:
        """Closes the connections."""
        if self._session is not None:
            await self._session.close()

    async def instances(self, asked: str) -> Counter[str]:
        """How many instances that serve or stand by each host has, as `asked` sees it. Raises AskError."""
        found = await self._json(asked, "/v1/agents", _Agents)
        return Counter(one.host for one in found.agents if one.state in READY_STATES)

    async def domains(self, asked: str) -> dict[str, Domain]:
        """Who holds which domain, as `asked` sees it; empty where there is no ownership. Raises AskError."""
        try:
            found = await self._json(asked, "/v1/domains", _Domains)
        except NotThere:
            return {}
        return {domain.home: domain for domain in found.domains}

    async def switch_over(self, asked: str, home: str, to: str, limit_s: float) -> str | None:
        """Asks `asked` to hand a domain over; None when it was done, else why not."""
        path = f"/v1/switchover?wait_s={limit_s:g}"
        try:
            status, body = await self._ask(
                "POST", asked, path, {"home": home, "to": to}, limit_s + ASK_LIMIT_S
            )
        except AskError as error:
            return str(error)
        return None if status == 200 else f"{status} {body[:200].decode(errors='replace')}"

    async def member_well(self, host: str) -> bool:
        """Whether the etcd member of a host is part of a working cluster."""
        try:
            status, body = await self._ask("GET", host, "/health", None, ASK_LIMIT_S, int(Port.ETCD_CLIENT))
            told = msgspec.json.decode(body, type=_Health).health
        except (AskError, msgspec.MsgspecError):
            return False
        return status == 200 and told in (True, "true")

    async def leader(self, members: Iterable[str]) -> str | None:
        """The host whose member of etcd says that it leads; None: no member does."""
        for host in members:
            with suppress(AskError):
                if (await self._member(host)).leads:
                    return host
        return None

    async def lead(self, host: str, members: Iterable[str]) -> None:
        """Has the member of `host` lead etcd from now on. Raises AskError."""
        leader = await self.leader(members)
        if leader is None:
            raise AskError("no member of etcd leads")
        if leader == host:
            return
        wanted = (await self._member(host)).header.member_id
        await self._etcd(leader, "/v3/maintenance/transfer-leadership", {"targetID": wanted}, object)

    async def _member(self, host: str) -> _Member:
        return await self._etcd(host, "/v3/maintenance/status", {}, _Member)

    async def learn(self) -> None:
        """Takes the present state for the usual one. Raises AskError."""
        found = await self.instances(self.workers[0])
        self.usual = {host: found[host] for host in self.workers}

    async def whole(self, least: Mapping[str, int] | None = None) -> str | None:
        """None when every worker sees the usual instances on every worker, or `least`; else what lacks."""
        wanted = self.usual if least is None else least
        for host in self.workers:
            try:
                found = await self.instances(host)
            except AskError as error:
                return f"{host}: {error}"
            for other in self.workers:
                if found[other] < wanted.get(other, 0):
                    return f"{host} sees {found[other]} of {wanted[other]} instances on {other}"
            if least is not None:
                self.usual = {other: min(found[other], self.usual.get(other, 0)) for other in self.workers}
        return None

    async def _json(self, host: str, path: str, kind: type[T]) -> T:
        return _decoded(path, kind, *await self._ask("GET", host, path, None, ASK_LIMIT_S))

    async def _etcd(self, host: str, path: str, wish: object, kind: type[T]) -> T:
        """What the member of a host answers over etcd's JSON API."""
        answer = await self._ask("POST", host, path, wish, ASK_LIMIT_S, int(Port.ETCD_CLIENT))
        return _decoded(path, kind, *answer)

    async def _ask(
        self, verb: str, host: str, path: str, body: object, limit_s: float, port: int = int(Port.HOSTD)
    ) -> tuple[int, bytes]:
        if self._session is None:
            self._session = aiohttp.ClientSession()
        try:
            url = f"https://{self.substrate.address(host)}:{port}{path}"
            async with self._session.request(
                verb,
                url,
                json=body,
                ssl=self._tls(),
                server_hostname=host,
                timeout=aiohttp.ClientTimeout(total=limit_s),
            ) as response:
                return response.status, await response.read()
        except (aiohttp.ClientError, TimeoutError, OSError, SubstrateError) as error:
            raise AskError(f"{type(error).__name__} {error}".strip()) from error

    def _tls(self) -> ssl.SSLContext:
        if self._context is None:
            credentials = self.substrate.credentials()
            self._context = ssl.create_default_context(cafile=str(credentials.ca))
            self._context.load_cert_chain(str(credentials.cert), str(credentials.key))
        return self._context


def _decoded(path: str, kind: type[T], status: int, body: bytes) -> T:
    if status == 404:
        raise NotThere(f"{path}: 404")
    if status != 200:
        raise AskError(f"{path}: {status} {body[:200].decode(errors='replace')}".strip())
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.MsgspecError as error:
        raise AskError(f"{path}: {error}") from error
