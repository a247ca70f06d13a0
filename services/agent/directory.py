"""From a name to the socket that takes the call: the snapshot, else the last good answer.

What the two clients share; no network in it.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

import msgspec

from services.agent.errors import CallError, Code
from services.registry.model import Resolution, SnapshotError, Transport, UnknownAgent
from services.routing.choice import NoInstance, choose

MAX_REMEMBERED: Final = 4096


class View(Protocol):
    """What a `SnapshotReader` offers; tests put something else here."""

    def resolve(self, name: str) -> Resolution:
        """Raises `UnknownAgent` (a KeyError) or `SnapshotError`."""
        ...

    def generation(self) -> int:
        """Changes when any answer may have changed. Raises `SnapshotError`."""
        ...

    def close(self) -> None:
        """Gives the file back."""
        ...


@dataclass(frozen=True, slots=True)
class Target:
    """Where a call goes: a socket of this host, and what is known about the instance behind it."""

    socket: Path
    host: str
    incarnation: int
    idempotent: tuple[str, ...]

    @property
    def key(self) -> str:
        """Equal for targets that share a connection."""
        return self.socket.name


class NoView(Exception):
    """The snapshot cannot be read and nothing is remembered: ask hostd."""


class Directory:
    """Resolves names on one host. Not safe for several threads without a lock."""

    def __init__(self, run: Path, host: str | None, open_view: Callable[[Path], View]) -> None:
        self.run = run
        self.host = host
        self._open_view = open_view
        self._view: View | None = None
        self._generation = -1
        self._answers: dict[str, Resolution] = {}
        self._last_good: dict[str, Resolution] = {}

    def resolve(self, name: str) -> Resolution:
        """The newest answer there is. Raises `CallError` `not-found`, or `NoView`."""
        try:
            if self._view is None:
                self._view = self._open_view(self.run / "discovery.snap")
            return self._view.resolve(name)
        except UnknownAgent:
            raise _unknown(name) from None
        except (SnapshotError, OSError) as error:
            return self._fall_back(name, error)

    def target(self, name: str, inflight: Mapping[str, int]) -> Target:
        """The socket for a call to `name`. Raises `CallError` (`not-found`, `unavailable`) or `NoView`."""
        resolution = self._current(name)
        try:
            instance = choose(resolution, self.host, inflight)
        except NoInstance as error:
            raise CallError(Code.UNAVAILABLE, str(error)) from None
        direct = instance.host == self.host and instance.transport is Transport.UNIX
        socket = self.run / "agents" / f"{name}.sock" if direct else self.run / "gateway.sock"
        return Target(socket, instance.host, instance.incarnation if direct else 0, instance.idempotent)

    def remember(self, resolution: Resolution) -> None:
        """Keeps an answer that came from elsewhere (hostd)."""
        if len(self._last_good) >= MAX_REMEMBERED:
            self._last_good.pop(next(iter(self._last_good)))
        self._last_good[resolution.name] = resolution

    def close(self) -> None:
        """Gives the snapshot back."""
        if self._view is not None:
            self._view.close()
            self._view = None

    def _current(self, name: str) -> Resolution:
        # For calls an answer of the same generation is the same answer: one small read instead of a look-up.
        try:
            if self._view is None:
                self._view = self._open_view(self.run / "discovery.snap")
            generation = self._view.generation()
            if generation != self._generation:
                self._answers.clear()
                self._generation = generation
            answer = self._answers.get(name)
            if answer is None:
                answer = self._answers[name] = self._view.resolve(name)
                self.remember(answer)
            return answer
        except UnknownAgent:
            raise _unknown(name) from None
        except (SnapshotError, OSError) as error:
            return self._fall_back(name, error)

    def _fall_back(self, name: str, error: Exception) -> Resolution:
        # The view may be a file that was replaced or mended meanwhile: open it anew next time.
        self.close()
        self._generation = -1
        last = self._last_good.get(name)
        if last is None:
            raise NoView(f"discovery snapshot: {error}") from error
        return msgspec.structs.replace(last, stale=True)


def may_repeat(error: CallError, method: str, target: Target | None) -> bool:
    """True when the call may be sent once more: it did not run, or running it twice is the same as once."""
    if error.code in (Code.UNAVAILABLE, Code.DRAINING):
        return True
    return error.code == Code.INDETERMINATE and target is not None and method in target.idempotent


def open_snapshot(path: Path) -> View:
    """The real view."""
    from services.registry.snapshot import SnapshotReader

    return SnapshotReader(path)


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


def _unknown(name: str) -> CallError:
    return CallError(Code.NOT_FOUND, f"no agent {name!r} is registered")
