"""Programs that hostd did not start: they register by HTTP, are checked like the others, and never restarted.

Their registrations are kept on disk, so that they survive hostd; who is silent for good leaves by DELETE.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import aiohttp
import msgspec

from infra.topology import NAME_PATTERN, Criticality, HealthCheck, HealthKind
from services.hostd.disk import read_json, write_bytes
from services.hostd.health import PollCheck
from services.registry.model import Instance, InstanceState, Transport

MAX_EXTERNALS = 1000
Name = Annotated[str, msgspec.Meta(pattern=f"^{NAME_PATTERN}$")]
PortNumber = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class ExternalSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Body of `POST /v1/registrations`: a program that listens on this host's local address."""

    name: Name
    port: PortNumber
    category: str = ""
    criticality: Criticality = Criticality.STANDARD
    tags: dict[str, str] = {}
    methods: tuple[str, ...] = ()
    health: HealthCheck = HealthCheck(kind=HealthKind.TCP, interval_ms=1000, timeout_ms=500)


class External:
    """One such program: checked, in the answers while it is well."""

    def __init__(
        self,
        spec: ExternalSpec,
        incarnation: int,
        *,
        local: str,
        http: aiohttp.ClientSession,
        now_ns: Callable[[], int],
        changed: Callable[[str], None],
    ) -> None:
        self.spec = spec
        self.incarnation = incarnation
        self.state = InstanceState.STARTING
        self.since_ns = now_ns()
        self._now_ns = now_ns
        self._changed = changed
        self._missed = 0
        self._check = PollCheck(
            spec.health, address=local, port=spec.port, incarnation=incarnation, watcher=self, http=http
        )
        self._check.start()

    def pong(self, incarnation: int, state: str, late: bool) -> None:
        """It is well."""
        self._missed = 0
        self._become(InstanceState.UP)

    def miss(self) -> None:
        """It did not answer."""
        self._missed += 1
        if self._missed >= self.spec.health.unhealthy_after and self.state is InstanceState.UP:
            self._become(InstanceState.UNHEALTHY)

    def stop(self) -> None:
        """Ends the check."""
        self._check.stop()

    def _become(self, state: InstanceState) -> None:
        if state is not self.state:
            self.state = state
            self.since_ns = self._now_ns()
            self._changed(self.spec.name)


class Externals:
    """All of them on this host. `changed` is told whenever a record changed."""

    def __init__(
        self,
        host: str,
        local: str,
        path: Path,
        *,
        http: aiohttp.ClientSession,
        now_ns: Callable[[], int],
        changed: Callable[[str], None],
        epoch: Callable[[], int],
    ) -> None:
        self._host = host
        self._local = local
        self._path = path
        self._http = http
        self._now_ns = now_ns
        self._changed = changed
        self._epoch = epoch
        self._all: dict[str, External] = {}

    def load(self) -> None:
        """Takes up what was registered before hostd restarted."""
        specs: tuple[ExternalSpec, ...] = ()
        with contextlib.suppress(OSError, msgspec.DecodeError):  # lost: they register again
            specs = read_json(self._path, tuple[ExternalSpec, ...]) or ()
        for spec in specs:
            self._add(spec)

    def register(self, spec: ExternalSpec) -> External:
        """Adds or replaces one. Raises OSError when the disk refuses, ValueError when there are too many."""
        if spec.name not in self._all and len(self._all) >= MAX_EXTERNALS:
            raise ValueError(f"{MAX_EXTERNALS} programs are registered already")
        known = self._all.get(spec.name)
        if known is not None and known.spec == spec:
            return known
        external = self._add(spec)
        self._save()
        return external

    def remove(self, name: str) -> bool:
        """Forgets one; False when there is none. Raises OSError."""
        external = self._all.pop(name, None)
        if external is None:
            return False
        external.stop()
        self._changed(name)
        self._save()
        return True

    def get(self, name: str) -> External | None:
        """One of them."""
        return self._all.get(name)

    def instance(self, name: str) -> Instance | None:
        """Its record."""
        external = self._all.get(name)
        if external is None:
            return None
        spec = external.spec
        return Instance(
            name=spec.name,
            host=self._host,
            incarnation=external.incarnation,
            state=external.state,
            transport=Transport.TCP if spec.health.kind is HealthKind.TCP else Transport.HTTP,
            port=spec.port,
            category=spec.category,
            criticality=spec.criticality,
            tags=spec.tags,
            methods=spec.methods,
            epoch=self._epoch(),
            since_ns=external.since_ns,
        )

    def names(self) -> tuple[str, ...]:
        """Who is registered."""
        return tuple(self._all)

    def stop(self) -> None:
        """Ends all checks."""
        for external in self._all.values():
            external.stop()

    def _add(self, spec: ExternalSpec) -> External:
        earlier = self._all.get(spec.name)
        if earlier is not None:
            earlier.stop()
        incarnation = self._now_ns() if earlier is None else max(self._now_ns(), earlier.incarnation + 1)
        external = External(
            spec,
            incarnation,
            local=self._local,
            http=self._http,
            now_ns=self._now_ns,
            changed=self._changed,
        )
        self._all[spec.name] = external
        self._changed(spec.name)
        return external

    def _save(self) -> None:
        write_bytes(self._path, msgspec.json.encode([one.spec for one in self._all.values()]))
