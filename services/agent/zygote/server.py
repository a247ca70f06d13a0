"""The zygote's loop: blocking calls on few sockets, one fork at a time, children reaped by their pidfds."""

from __future__ import annotations

import os
import resource
import selectors
import signal
import socket
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from services.agent import pidfile
from services.agent.errors import CallError, Code, FrameError
from services.agent.wire import Failure, FrameDecoder, Reply, Request, encode, pack, unpack_as
from services.agent.zygote.child import run_child
from services.agent.zygote_messages import FDS_PER_MESSAGE, Exit, Forked, ForkRequest, Running

MAX_CONNECTIONS: Final = 32
MAX_EXITS: Final = 256
_READ_BYTES: Final = 64 << 10


@dataclass(slots=True)
class _Child:
    running: Running
    forked_ns: int
    pidfd: int
    ours: bool


class _Peer:
    __slots__ = ("decoder", "socket")

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.decoder = FrameDecoder()


class Zygote:
    """Forks agents on request over `zygote.sock`."""

    def __init__(self, run: Path) -> None:
        self._run = run
        self._agents = run / "agents"
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._selector = selectors.PollSelector()
        self._peers: dict[int, _Peer] = {}
        self._children: dict[int, _Child] = {}  # by pidfd
        self._exits: deque[Exit] = deque(maxlen=MAX_EXITS)
        self._forks = 0

    def open(self) -> None:
        """Adopts running agents and listens. Raises OSError when another zygote serves here."""
        path = self._run / "zygote.sock"
        self._agents.mkdir(parents=True, exist_ok=True)
        self._descriptor_limit = _raise_descriptor_limit()
        probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            pass
        else:
            raise OSError(f"{path}: in use")
        finally:
            probe.close()
        self._adopt()
        # Whoever sees the path can connect: it gets its name when it listens.
        temporary = path.with_name(f".zygote.{os.getpid():x}")
        temporary.unlink(missing_ok=True)
        self._listener.bind(str(temporary))
        self._listener.listen(MAX_CONNECTIONS)
        self._listener.setblocking(False)
        temporary.rename(path)
        self._selector.register(self._listener, selectors.EVENT_READ)

    def serve(self) -> int:
        """Answers for ever; returns only in a child, with its exit status."""
        while True:
            for key, _ in self._selector.select():
                fd = key.fd
                if key.fileobj is self._listener:
                    self._accept()
                elif fd in self._children:
                    self._reap(fd)
                elif fd in self._peers:
                    self._read(self._peers[fd])

    # Connections.

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return
        if len(self._peers) >= MAX_CONNECTIONS:
            # The oldest has had its time; hostd comes again when it was its.
            self._drop(next(iter(self._peers.values())))
        connection.setblocking(False)
        self._peers[connection.fileno()] = _Peer(connection)
        self._selector.register(connection, selectors.EVENT_READ)

    def _drop(self, peer: _Peer) -> None:
        fd = peer.socket.fileno()
        if self._peers.pop(fd, None) is not None:
            self._selector.unregister(peer.socket)
            peer.socket.close()

    def _read(self, peer: _Peer) -> None:
        try:
            data = peer.socket.recv(_READ_BYTES)
            messages = peer.decoder.feed(data)
        except BlockingIOError:
            return
        except (OSError, FrameError) as error:
            _log(f"connection closed: {error}")
            self._drop(peer)
            return
        if not data:
            self._drop(peer)
            return
        for message in messages:
            if not isinstance(message, Request):
                _log("connection closed: a peer sent a reply to a server")
                self._drop(peer)
                return
            self._answer(peer, message)

    def _answer(self, peer: _Peer, request: Request) -> None:
        descriptors: list[int] = []
        try:
            body: object
            match request.method:
                case "fork":
                    child = self._fork(unpack_as(request.body, ForkRequest))
                    body, descriptors = Forked(child.running.pid, child.forked_ns), [child.pidfd]
                case "list":
                    body = [child.running for child in self._children.values()]
                    descriptors = list(self._children)
                case "exits":
                    body = list(self._exits)
                case "_ping":
                    body = {"incarnation": os.getpid(), "state": "up"}
                case "_metrics":
                    body = self._metrics()
                case _:
                    raise CallError(Code.NO_METHOD, f"zygote has no method {request.method[:64]}")
            frame = encode(Reply(request.id, pack(body)))
        except CallError as error:
            frame, descriptors = encode(Failure(request.id, error.code, error.message)), []
        self._send(peer, frame, descriptors)

    def _send(self, peer: _Peer, frame: bytes, descriptors: list[int]) -> None:
        # Descriptors travel with bytes, so a long list goes on one byte each but the last.
        try:
            while len(descriptors) > FDS_PER_MESSAGE:
                socket.send_fds(peer.socket, [frame[:1]], descriptors[:FDS_PER_MESSAGE])
                frame, descriptors = frame[1:], descriptors[FDS_PER_MESSAGE:]
            sent = socket.send_fds(peer.socket, [frame], descriptors)
            if sent < len(frame):
                raise BlockingIOError(f"{len(frame) - sent} bytes left unread")
        except OSError as error:
            _log(f"connection closed: {error}")
            self._drop(peer)

    # Children.

    def _fork(self, request: ForkRequest) -> _Child:
        spec, incarnation = request.spec, request.incarnation
        if spec.handler is None and spec.command is None:
            raise CallError(Code.BAD_REQUEST, f"{spec.name} has neither handler nor command")
        for child in self._children.values():
            if (child.running.name, child.running.incarnation) == (spec.name, incarnation):
                return child
        forked_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        try:
            pid = os.fork()
        except OSError as error:
            raise CallError(Code.HANDLER_ERROR, f"cannot fork: {error.strerror}") from None
        if pid == 0:
            run_child(request, self._run, self._descriptor_limit)  # does not return
        self._forks += 1
        try:
            pidfd = os.pidfd_open(pid)
            pidfile.write(self._agents / f"{spec.name}.pid", pid, incarnation)
        except OSError as error:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise CallError(Code.HANDLER_ERROR, f"cannot keep {spec.name}: {error.strerror}") from None
        child = _Child(Running(spec.name, pid, incarnation), forked_ns, pidfd, ours=True)
        self._keep(child)
        return child

    def _adopt(self) -> None:
        for path in sorted(self._agents.glob("*.pid")):
            content = pidfile.read(path)
            if content is None or not pidfile.alive(content):
                path.unlink(missing_ok=True)
                continue
            try:
                pidfd = os.pidfd_open(content.pid)
            except OSError:
                continue
            if not pidfile.alive(content):  # it went, and its number was given away, while we looked
                os.close(pidfd)
                continue
            running = Running(path.stem, content.pid, content.incarnation)
            self._keep(_Child(running, 0, pidfd, ours=False))
            _log(f"adopted {running.name}, pid {running.pid}")

    def _keep(self, child: _Child) -> None:
        self._children[child.pidfd] = child
        self._selector.register(child.pidfd, selectors.EVENT_READ)

    def _reap(self, pidfd: int) -> None:
        child = self._children.pop(pidfd)
        self._selector.unregister(pidfd)
        os.close(pidfd)
        running = child.running
        if child.ours:
            _, wait_status = os.waitpid(running.pid, 0)
            status = os.waitstatus_to_exitcode(wait_status)
            self._exits.append(Exit(running.name, running.pid, running.incarnation, status))
        path = self._agents / f"{running.name}.pid"
        content = pidfile.read(path)
        if content is not None and content.pid == running.pid:
            path.unlink(missing_ok=True)

    def _metrics(self) -> str:
        times = os.times()
        return "".join(
            f"# HELP threenines_zygote_{name} {text}\n# TYPE threenines_zygote_{name} {kind}\n"
            f"threenines_zygote_{name} {value}\n"
            for name, kind, text, value in (
                ("children", "gauge", "Agents that run.", len(self._children)),
                ("forks_total", "counter", "Agents started.", self._forks),
                ("cpu_seconds_total", "counter", "CPU time of the zygote.", times.user + times.system),
            )
        )


def _raise_descriptor_limit() -> int:
    # One pidfd per agent: the usual soft limit of 1,024 is too low for a large fleet. Children get it back.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return soft


def _log(line: str) -> None:
    print(f"zygote: {line}", file=sys.stderr, flush=True)
