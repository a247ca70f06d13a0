"""The blocking client: plain sockets, for scripts, threads and gevent (which patches them)."""

from __future__ import annotations

import os
import socket
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from services.agent.directory import (
    Directory,
    NoView,
    OpenView,
    Target,
    open_snapshot,
    run_folder,
)
from services.agent.errors import CallError, Code, FrameError
from services.agent.wire import Failure, FrameDecoder, Reply, Request, encode, pack, unpack, unpack_as
from services.registry.model import Resolution

MAX_IDLE: Final = 16
_READ_BYTES: Final = 64 << 10


class BlockingClient:
    """Calls agents by name, from any number of threads or greenlets. Errors: `CallError`.

    Each call has a connection to itself while it runs; finished ones are kept for the next. The rules for
    repeating a call are those of `services.agent.client.Client`.
    """

    def __init__(
        self,
        run: Path | None = None,
        host: str | None = None,
        *,
        open_view: OpenView = open_snapshot,
    ) -> None:
        host = host if host is not None else os.environ.get("THREENINES_HOST")
        self._directory = Directory(run_folder(run), host, open_view)
        self._lock = threading.Lock()
        self._idle: dict[tuple[str, int], list[_Connection]] = {}
        self._inflight: dict[str, dict[str, int]] = {}
        self._closed = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def call(self, agent: str, method: str, body: object = None, *, timeout_s: float = 5.0) -> Any:
        """The reply of `method`, as builtins. Raises `CallError`."""
        due = time.monotonic() + timeout_s
        packed = pack(body)
        target: Target | None = None
        try:
            target = self._target(agent, due)
            reply = self._send(target, agent, method, packed, due)
        except CallError as error:
            idempotent = target is not None and method in target.idempotent
            reply = self._repeat(error, agent, method, packed, due, idempotent)
        if self._directory.budget.spent:
            with self._lock:
                self._directory.budget.earn(agent)
        return unpack(reply)

    def _repeat(
        self, error: CallError, agent: str, method: str, body: msgspec.Raw, due: float, idempotent: bool
    ) -> msgspec.Raw:
        """The reply after all, or the last error when the call is to be repeated no more."""
        repeats = self._directory.repeats(agent)
        while True:
            with self._lock:
                pause_s = repeats.pause_s(error, idempotent=idempotent)
                if pause_s is None or time.monotonic() + pause_s >= due:
                    raise error
                if error.code != Code.OVERLOADED:
                    self._directory.doubt(agent)
            if pause_s > 0:
                time.sleep(pause_s)
            try:
                return self._send(self._target(agent, due), agent, method, body, due)
            except CallError as failed:
                error = failed

    def resolve(self, agent: str) -> Resolution:
        """Where `agent` serves now: a read of the discovery snapshot. Raises `CallError`."""
        try:
            with self._lock:
                return self._directory.resolve(agent)
        except NoView as error:
            raise CallError(Code.UNAVAILABLE, str(error)) from None

    def close(self) -> None:
        """Closes the idle connections; those in use close when their call ends."""
        with self._lock:
            self._closed = True
            connections = [connection for idle in self._idle.values() for connection in idle]
            self._idle.clear()
            self._directory.close()
        for connection in connections:
            connection.close()

    def _target(self, agent: str, due: float) -> Target:
        try:
            with self._lock:
                return self._directory.target(agent, self._inflight.get(agent, {}))
        except NoView:
            pass
        try:
            answer = self._ask_hostd(agent, due)
            with self._lock:
                self._directory.remember(answer)
        except CallError as error:
            with self._lock:
                last = self._directory.last_good(agent)
            if last is None or error.code == Code.NOT_FOUND:
                raise
            answer = last
        with self._lock:
            return self._directory.target(agent, self._inflight.get(agent, {}), answer)

    def _ask_hostd(self, agent: str, due: float) -> Resolution:
        connection = _Connection(self._directory.run / "hostd.sock", due)
        try:
            return unpack_as(connection.request("hostd", "resolve", pack({"name": agent}), due), Resolution)
        except CallError as error:
            if error.code == Code.NOT_FOUND:
                raise
            raise CallError(Code.UNAVAILABLE, f"cannot resolve {agent}: {error}") from None
        finally:
            connection.close()

    def _send(self, target: Target, agent: str, method: str, body: msgspec.Raw, due: float) -> msgspec.Raw:
        connection = self._take(target, due)
        with self._lock:
            by_host = self._inflight.setdefault(agent, {})
            by_host[target.host] = by_host.get(target.host, 0) + 1
        try:
            return connection.request(agent, method, body, due)
        except CallError as error:
            if error.code == Code.DRAINING:
                connection.usable = False
            raise
        finally:
            self._give_back(target, connection)
            with self._lock:
                by_host[target.host] -= 1

    def _take(self, target: Target, due: float) -> _Connection:
        key = (target.key, target.incarnation)
        while True:
            with self._lock:
                if self._closed:
                    raise CallError(Code.UNAVAILABLE, "this client is closed")
                idle = self._idle.get(key)
                connection = idle.pop() if idle else None
            if connection is None:
                return _Connection(target.socket, due)
            if connection.fresh():
                return connection
            connection.close()

    def _give_back(self, target: Target, connection: _Connection) -> None:
        key = (target.key, target.incarnation)
        outdated: list[_Connection] = []
        with self._lock:
            keep = connection.usable and not self._closed
            if keep:
                if key not in self._idle:
                    for other in [k for k in self._idle if k[0] == key[0]]:
                        outdated += self._idle.pop(other)
                idle = self._idle.setdefault(key, [])
                keep = len(idle) < MAX_IDLE
                if keep:
                    idle.append(connection)
        for gone in outdated if keep else [*outdated, connection]:
            gone.close()


class _Connection:
    """One socket, one request at a time. `usable` turns False when its stream cannot be trusted any more."""

    def __init__(self, path: Path, due: float) -> None:
        self.usable = True
        self._name = path.name
        self._number = 0
        self._decoder = FrameDecoder()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(max(0.001, due - time.monotonic()))
            self._socket.connect(str(path))
        except OSError as error:
            self._socket.close()
            reason = error.strerror or type(error).__name__
            raise CallError(Code.UNAVAILABLE, f"cannot connect to {path.name}: {reason}") from None

    def fresh(self) -> bool:
        """False when the peer closed it while it was idle (or sent what nobody asked for)."""
        self._socket.setblocking(False)
        try:
            self._socket.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        except OSError:
            return False
        return False

    def close(self) -> None:
        """Gives the socket back."""
        self.usable = False
        self._socket.close()

    def request(self, agent: str, method: str, body: msgspec.Raw, due: float) -> msgspec.Raw:
        """The reply's body. Raises `CallError`: `unavailable` only when nothing was sent."""
        self._number += 1
        left_s = due - time.monotonic()
        if left_s <= 0:
            raise CallError(Code.UNAVAILABLE, f"no time was left to send the call to {agent}")
        frame = encode(Request(self._number, agent, method, max(1, int(left_s * 1000)), body))
        self.usable = False
        try:
            self._socket.settimeout(left_s)
            self._socket.sendall(frame)
            answer = self._receive(due)
        except TimeoutError:
            raise CallError(Code.DEADLINE, f"no answer from {self._name} in time") from None
        except (OSError, FrameError) as error:
            message = f"{self._name} was lost before its answer: {error}"
            raise CallError(Code.INDETERMINATE, message) from None
        self.usable = True
        if isinstance(answer, Failure):
            raise CallError(answer.code, answer.message)
        return answer.body

    def _receive(self, due: float) -> Reply | Failure:
        while True:
            left_s = due - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._socket.settimeout(left_s)
            data = self._socket.recv(_READ_BYTES)
            if not data:
                raise ConnectionResetError("closed by the peer")
            for message in self._decoder.feed(data):
                if isinstance(message, Request) or message.id != self._number:
                    raise FrameError("an answer to another question")
                return message
