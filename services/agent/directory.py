"""From a name to the socket that takes the call: the snapshot, else the last good answer.

What the two clients share; no network in it.
"""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import msgspec

from services.agent import fence
from services.agent.errors import CallError, Code
from services.agent.repeats import Budget, Repeats
from services.registry.model import Instance, Resolution, SnapshotError, Transport, UnknownAgent
from services.routing.choice import NoInstance, choose

MAX_REMEMBERED: Final = 4096


class View(Protocol):
    """What a `SnapshotReader` offers; tests put something else here."""

    def resolve(self, name: str) -> Resolution:
        """Raises `UnknownAgent` (a KeyError) or `SnapshotError`."""
        ...

    def last_good(self, name: str) -> Resolution | None:
        """What was last read intact about a name, marked stale."""
        ...

    def close(self) -> None:
        """Gives the file back."""
        ...


OpenView = Callable[[Path, str | None], View]
"""From the snapshot's path and the caller's host to a view of it."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where a call goes: a socket of this host, and what is known about the instance behind it."""

    socket: Path
    key: str
    """Equal for targets that share a connection."""
    host: str
    incarnation: int
    idempotent: tuple[str, ...]
    alone: bool
    """No other instance could have been chosen."""


class NoView(Exception):
    """The snapshot cannot be read and nothing is remembered: ask hostd."""


class Directory:
    """Resolves names on one host. Not safe for several threads without a lock."""

    def __init__(
        self,
        run: Path,
        host: str | None,
        open_view: OpenView,
        draw: Callable[[], float] = random.random,
    ) -> None:
        self.run = run
        self.host = host
        self._view = open_view(run / "discovery.snap", host)
        self._remembered: dict[str, Resolution] = {}
        self._doubted: set[str] = set()
        self._targets: dict[str, tuple[Instance, Target]] = {}
        self._draw = draw
        self.budget = Budget()
        """Of repeats after `overloaded`."""

    def resolve(self, name: str) -> Resolution:
        """The newest answer there is. Raises `CallError` `not-found`, or `NoView`."""
        try:
            return self._view.resolve(name)
        except UnknownAgent:
            raise CallError(Code.NOT_FOUND, f"no agent {name!r} is registered") from None
        except (SnapshotError, OSError) as error:
            last = None if name in self._doubted else self.last_good(name)
            if last is None:
                raise NoView(str(error)) from error
            return last

    def last_good(self, name: str) -> Resolution | None:
        """What hostd or the snapshot said last, marked stale."""
        return self._remembered.get(name) or self._view.last_good(name)

    def instance(self, name: str, inflight: Mapping[str, int], known: Resolution | None = None) -> Instance:
        """The instance for a call to `name`, resolved as `known` says or by the snapshot.

        Raises `CallError` (`not-found`, `unavailable`) or `NoView`.
        """
        resolution = known if known is not None else self.resolve(name)
        try:
            return choose(resolution, self.host, inflight)
        except NoInstance as error:
            raise CallError(Code.UNAVAILABLE, str(error)) from None

    def target(self, name: str, inflight: Mapping[str, int], known: Resolution | None = None) -> Target:
        """The socket for a call to `name`. Raises as `instance` does."""
        resolution = known if known is not None else self.resolve(name)
        instance = self.instance(name, inflight, resolution)
        alone = len(resolution.instances) == 1
        last = self._targets.get(name)
        if last is not None and last[0] is instance and last[1].alone is alone:
            return last[1]  # a view gives the same object for as long as nothing changed
        direct = instance.host == self.host and instance.transport is Transport.UNIX
        socket = self.run / "agents" / f"{name}.sock" if direct else self.run / "gateway.sock"
        target = Target(
            socket,
            socket.name,
            instance.host,
            instance.incarnation if direct else 0,
            instance.idempotent,
            alone,
        )
        if len(self._targets) >= MAX_REMEMBERED:
            self._targets.clear()
        self._targets[name] = (instance, target)
        return target

    def remember(self, resolution: Resolution) -> None:
        """Keeps an answer of hostd for as long as the snapshot cannot be read."""
        if len(self._remembered) >= MAX_REMEMBERED:
            self._remembered.pop(next(iter(self._remembered)))
        self._doubted.discard(resolution.name)
        self._remembered[resolution.name] = msgspec.structs.replace(resolution, stale=True)

    def doubt(self, name: str) -> None:
        """A call by this answer was not delivered: an old answer must be confirmed by hostd."""
        self._doubted.add(name)

    def repeats(self, name: str) -> Repeats:
        """When a call to `name` that failed is sent again. Where there is a fence in the run folder, another
        host may take the agent over."""
        return Repeats(name, self.budget, self._draw, (self.run / fence.NAME).exists)

    def close(self) -> None:
        """Gives the snapshot back."""
        self._view.close()


def open_snapshot(path: Path, host: str | None) -> View:
    """The real view; it opens the file when it is first asked."""
    from services.registry.snapshot import SnapshotReader

    return SnapshotReader(path, host=host)


def run_folder(run: Path | None) -> Path:
    """`run`, or `THREENINES_RUN`. Raises `CallError` `unavailable`."""
    if run is not None:
        return run
    try:
        return Path(os.environ["THREENINES_RUN"])
    except KeyError:
        raise CallError(
            Code.UNAVAILABLE, "THREENINES_RUN is not set: run this on a host of a stack"
        ) from None
