"""Serves one agent on its Unix socket: deadlines, bounded concurrency, built-in methods, graceful drain."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import msgspec

from services.agent.connection import Deadlines, FrameConnection, Scratch
from services.agent.errors import AgentError, CallError, Code
from services.agent.line import PLACES, Line, Patience
from services.agent.metrics import OTHER, CallMetrics
from services.agent.sdk import Agent, Method, call_deadline, methods_of
from services.agent.sockets import UnixListener, listen_unix
from services.agent.standing import Effects, Promote, Standing, StandingAnswer, call_effects
from services.agent.wellness import Waiting, Wellness, call_waiting
from services.agent.wire import Failure, Message, Reply, Request, encode, goodbye, pack, unpack_as

DRAIN_LIMIT_S: Final = 5.0
FAREWELL_LIMIT_S: Final = 0.5
MAX_CONNECTIONS: Final = 512
DEADLINE_LIMIT_MS: Final = 3_600_000
ORDERS: Final = frozenset({"_promote", "_standing", "_quiesce", "_resume", "_demote"})
"""What hostd tells an agent about who serves; understood only where ownership is on."""

log = logging.getLogger("threenines.agent")


class ServerState(StrEnum):
    """What `_ping` answers. `FAILING`: it serves, but no call of late has gone well (`wellness`)."""

    STARTING = "starting"
    UP = "up"
    FAILING = "failing"
    DRAINING = "draining"
    STOPPED = "stopped"


class Pong(msgspec.Struct, frozen=True):
    """Answer of `_ping`."""

    incarnation: int
    state: str


class Description(msgspec.Struct, frozen=True):
    """Answer of `_describe`."""

    name: str
    incarnation: int
    methods: tuple[str, ...]
    idempotent: tuple[str, ...]
    tags: dict[str, str]


@dataclass(slots=True, eq=False)
class _Call:
    connection: _ServerConnection
    id: int
    method: str
    began: float
    task: asyncio.Task[None] | None = None
    answered: bool = False
    due: float = 0.0
    waiting: Waiting | None = None
    waited_s: float = 0.0
    """In the line before the agent."""


@dataclass(slots=True, eq=False, frozen=True)
class _Queued:
    """A call in the line before the agent."""

    call: _Call
    method: Method
    request: Request


class _ServerConnection(FrameConnection):
    def __init__(self, server: AgentServer) -> None:
        super().__init__(server.scratch)
        self._server = server

    def connected(self) -> None:
        self._server.connected(self)

    def received(self, message: Message) -> None:
        if isinstance(message, Request):
            self._server.handle(self, message)
        else:
            self.abort(ConnectionAbortedError("a peer sent a reply to a server"))

    def lost(self, cause: Exception | None) -> None:
        self._server.disconnected(self, cause)


class AgentServer:
    """The server of one agent. `start`, then calls are answered until `stop`."""

    def __init__(
        self,
        agent: Agent,
        path: Path,
        *,
        drain_limit_s: float = DRAIN_LIMIT_S,
        standing: Standing | None = None,
        patience: Patience | None = None,
    ) -> None:
        """`standing` None: no other host ever serves this agent. `patience`: of calls that find it busy."""
        self.agent = agent
        self.standing = standing
        self.path = path
        self.scratch = Scratch()
        self.state = ServerState.STARTING
        self.methods = methods_of(type(agent))
        self.metrics = CallMetrics(
            in_flight=lambda: len(self._calls),
            waiting=lambda: len(self._line) if self._listener is not None else 0,
            state_items=lambda: len(agent.state),
            up=lambda: self.state is ServerState.UP,
        )
        self._drain_limit_s = drain_limit_s
        self._patience = patience if patience is not None else Patience()
        self._calls: set[_Call] = set()
        self._connections: set[_ServerConnection] = set()
        self._listener: UnixListener | None = None
        self._idle = asyncio.Event()
        self._idle.set()
        self._alone = asyncio.Event()
        self._alone.set()
        self._builtin: dict[str, Callable[[], object]] = {
            "_ping": lambda: Pong(agent.incarnation, self._claimed_state()),
            "_describe": self.describe,
            "_metrics": self.metrics.text,
            "_collect": gc.collect,
        }
        self._orders: set[asyncio.Task[None]] = set()
        self._wellness = Wellness()
        if standing is not None:
            agent.stand(lambda: standing.epoch)

    def _claimed_state(self) -> ServerState:
        failing = self.state is ServerState.UP and self._wellness.failing(self._loop.time())
        return ServerState.FAILING if failing else self.state

    def describe(self) -> Description:
        """Name, methods and tags: what is told to hostd and to who asks `_describe`."""
        return Description(
            name=self.agent.name,
            incarnation=self.agent.incarnation,
            methods=tuple(self.methods),
            idempotent=tuple(name for name, method in self.methods.items() if method.idempotent),
            tags=self.agent.spec.tags,
        )

    async def start(self) -> None:
        """Runs `on_start` and listens; a predecessor's socket is replaced without a gap."""
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._loop, self._expire)
        places = PLACES * self.agent.concurrency
        self._line = Line[_Queued](self._loop, places, self._patience, self._refuse_late)
        await self.agent.on_start()
        self._listener = await listen_unix(self.path, lambda: _ServerConnection(self))
        self.state = ServerState.UP

    async def stop(self) -> None:
        """Refuses new calls, lets those in flight end (bounded), then runs `on_stop`."""
        if self.state in (ServerState.DRAINING, ServerState.STOPPED):
            return
        self.state = ServerState.DRAINING
        if self._listener is not None:
            self._listener.hide()
            self._disperse(Code.DRAINING, f"{self.agent.name} is {self.state}")
        for connection in list(self._connections):
            connection.send(goodbye(self.agent.name))
        try:
            async with asyncio.timeout(self._drain_limit_s):
                await self._idle.wait()
        except TimeoutError:
            log.warning("%d calls did not end within %g s", len(self._calls), self._drain_limit_s)
            for call in list(self._calls):
                self._answer_failure(call, Code.INDETERMINATE, "the agent stopped before its answer")
                self._cancel(call)
        await self.agent.on_stop()
        # Whoever sent a request before hearing the good-bye is still told `draining`: nothing is left unread.
        with suppress(TimeoutError):
            async with asyncio.timeout(FAREWELL_LIMIT_S):
                await self._alone.wait()
        if self._listener is not None:
            self._listener.close()
        self._deadlines.close()
        self._line.close()
        for connection in list(self._connections):
            connection.close()
        self.state = ServerState.STOPPED

    # Connections.

    def connected(self, connection: _ServerConnection) -> None:
        """A caller came."""
        if len(self._connections) >= MAX_CONNECTIONS:
            connection.abort(ConnectionAbortedError(f"more than {MAX_CONNECTIONS} connections"))
            return
        self._connections.add(connection)
        self._alone.clear()
        if self.state is ServerState.DRAINING:
            connection.send(goodbye(self.agent.name))

    def disconnected(self, connection: _ServerConnection, cause: Exception | None) -> None:
        """A caller went. What it asked for runs to its end: nobody can take back half a side effect."""
        self._connections.discard(connection)
        if not self._connections:
            self._alone.set()
        if cause is not None and not isinstance(cause, ConnectionResetError | BrokenPipeError):
            log.warning("connection closed: %s: %s", type(cause).__name__, cause)

    # Calls.

    def handle(self, connection: _ServerConnection, request: Request) -> None:
        """Answers `request`, now or from a task."""
        name = request.method
        call = _Call(connection, request.id, OTHER, self._loop.time())
        builtin = self._builtin.get(name)
        if builtin is not None:
            connection.send(encode(Reply(request.id, pack(builtin()))))
            return
        if request.agent != self.agent.name:
            self._answer_failure(call, Code.NOT_FOUND, f"this is {self.agent.name}, not {request.agent[:64]}")
            return
        if self.standing is not None and name in ORDERS:
            task = self._loop.create_task(self._obey(self.standing, call, request))
            self._orders.add(task)
            task.add_done_callback(self._orders.discard)
            return
        method = self.methods.get(name)
        if method is None:
            self._answer_failure(call, Code.NO_METHOD, f"{self.agent.name} has no method {name[:64]}")
            return
        call.method = name
        if self.state is not ServerState.UP:
            self._answer_failure(call, Code.DRAINING, f"{self.agent.name} is {self.state}")
        elif request.deadline_ms <= 0:
            self._answer_failure(call, Code.DEADLINE, "no time was left when the request arrived")
        elif self.standing is not None and (refusal := self.standing.refusal()) is not None:
            # Before anything is said about how busy it is: whoever serves next may not be.
            self._answer_failure(call, *refusal)
        elif len(self._calls) < self.agent.concurrency:
            self._begin(call, method, request)
        else:
            self._line_up(_Queued(call, method, request))

    def _line_up(self, queued: _Queued) -> None:
        size = len(memoryview(queued.request.body))
        left_s = min(queued.request.deadline_ms, DEADLINE_LIMIT_MS) / 1000
        served_since = -math.inf if self.standing is None else self.standing.served_since
        if not self._line.join(queued, size, served_since=served_since, left_s=left_s):
            message = f"{len(self._calls)} calls are in flight, {len(self._line)} wait"
            self._answer_failure(queued.call, Code.OVERLOADED, message)

    def _refuse_late(self, queued: _Queued) -> None:
        waited_s = self._loop.time() - queued.call.began
        message = f"{len(self._calls)} calls are in flight, this one waited for {waited_s:.3f} s"
        self._answer_failure(queued.call, Code.OVERLOADED, message)

    def _let_in(self) -> None:
        """Whoever waits gets the places that are free."""
        while len(self._calls) < self.agent.concurrency and (queued := self._line.pop()) is not None:
            call = queued.call
            call.waited_s = self._loop.time() - call.began
            if self.standing is not None and (refusal := self.standing.refusal()) is not None:
                self._answer_failure(call, *refusal)
            elif call.waited_s * 1000 >= queued.request.deadline_ms:
                self._refuse_late(queued)  # the loop was late: nothing is begun for who listens no more
            else:
                self._begin(call, queued.method, queued.request)

    def _disperse(self, code: Code, message: str) -> None:
        """Nobody who waits is served here any more; nothing was done for any of them."""
        for queued in self._line.all():
            self._answer_failure(queued.call, code, message)

    async def _come_to_rest(self) -> None:
        if self.standing is not None and (refusal := self.standing.refusal()) is not None:
            self._disperse(*refusal)
        await self._idle.wait()

    async def _obey(self, standing: Standing, call: _Call, request: Request) -> None:
        """An order of hostd about who serves."""
        try:
            up = self._listener is not None and self.state is ServerState.UP
            if not up and request.method != "_standing":  # who stops can still be asked
                raise CallError(Code.DRAINING, f"{self.agent.name} is {self.state}")
            answer: StandingAnswer
            match request.method:
                case "_promote":
                    answer = await standing.promote(unpack_as(request.body, Promote))
                case "_quiesce":
                    answer = await standing.quiesce(self._come_to_rest)
                case "_resume":
                    answer = standing.resume()
                case "_demote":
                    answer = standing.demote()
                    self._disperse(Code.FENCED, f"{self.agent.name} is not primary here")
                case _:
                    answer = standing.answer()
            self._answer(call, answer)
        except CallError as error:
            self._answer_failure(call, Code.UNAVAILABLE, _one_line(error))

    def _begin(self, call: _Call, method: Method, request: Request) -> None:
        try:
            arguments = () if method.request is None else (method.request.decode(request.body),)
        except (msgspec.DecodeError, ValueError, RecursionError, MemoryError) as error:
            self._answer_failure(call, Code.BAD_REQUEST, f"{method.name}: {error}")
            return
        if not method.asynchronous:
            try:
                self._answer(call, method.function(self.agent, *arguments))
            except Exception as error:
                self._answer_error(call, error)
            return
        due = call.began + min(request.deadline_ms, DEADLINE_LIMIT_MS) / 1000
        call.due = due
        self._calls.add(call)
        self._idle.clear()
        self._deadlines.add(call, due)
        call.task = self._loop.create_task(self._run(call, method, arguments, due))

    async def _run(self, call: _Call, method: Method, arguments: tuple[Any, ...], due: float) -> None:
        call.waiting = Waiting()
        call_deadline.set(due)
        call_waiting.set(call.waiting)
        effects = None
        if self.standing is not None:
            effects = Effects()
            call_effects.set(effects)
        try:
            self._answer(call, await method.function(self.agent, *arguments))
        except asyncio.CancelledError:
            # By the deadline or the drain, which have answered; else the handler cancelled itself.
            self._answer_failure(call, Code.INDETERMINATE, f"{method.name} was cancelled")
        except Exception as error:
            if isinstance(error, CallError) and error.code == Code.FENCED and effects is not None:
                # Refused before it had any effect: as if it had never been admitted.
                code = Code.INDETERMINATE if effects.any else Code.FENCED
                self._answer_failure(call, code, f"{call.method}: {_one_line(error)}")
            else:
                self._answer_error(call, error)
        finally:
            self._ended(call)

    def _ended(self, call: _Call) -> None:
        self._deadlines.discard(call)
        self._calls.discard(call)
        self._let_in()
        if not self._calls:
            self._idle.set()

    def _cancel(self, call: _Call) -> None:
        if call.task is not None:
            call.task.cancel()
            if call.waiting is None:  # before its first step: nothing of `_run` will run
                self._ended(call)

    def _expire(self, call: _Call) -> None:
        if not call.answered:
            elsewhere = call.waiting is not None and call.waiting.count > 0
            waited_s = call.waited_s
            given_s = call.due - call.began - waited_s
            self._wellness.late(self._loop.time(), call.due, given_s, waited_s=waited_s, elsewhere=elsewhere)
        self._answer_failure(call, Code.DEADLINE, f"{call.method} did not end in time")
        self._cancel(call)

    def _answer(self, call: _Call, result: object) -> None:
        if call.answered:
            return
        if self.standing is not None and call.task is not None and not self.standing.acting():
            # It ran, but whether all of it ran while this process was primary, nobody can say.
            self._answer_failure(call, Code.INDETERMINATE, f"{call.method}: its agent is primary no more")
            return
        try:
            frame = encode(Reply(call.id, pack(result)))
        except CallError as error:
            code = Code.TOO_LARGE if error.code == Code.TOO_LARGE else Code.HANDLER_ERROR
            self._answer_failure(call, code, f"{call.method}: reply: {error.message}")
            return
        call.answered = True
        self._wellness.good()
        self.metrics.count(call.method, "ok", self._loop.time() - call.began)
        call.connection.send(frame)

    def _answer_error(self, call: _Call, error: Exception) -> None:
        match error:
            case AgentError():
                self._answer_failure(call, Code.BAD_REQUEST, _one_line(error))
            case CallError():
                # A dependency's failure. Its uncertainty is ours: a definite code would promise too much.
                code = Code.HANDLER_ERROR if error.definite else Code.INDETERMINATE
                self._answer_failure(call, code, f"{call.method}: {_one_line(error)}")
            case _:
                if not call.answered:
                    self._wellness.bad(self._loop.time())
                    log.error("%s failed", call.method, exc_info=error)
                message = f"{call.method}: {type(error).__name__}: {_one_line(error)}"
                self._answer_failure(call, Code.HANDLER_ERROR, message)

    def _answer_failure(self, call: _Call, code: Code, message: str) -> None:
        if call.answered:
            return
        call.answered = True
        self.metrics.count(call.method, code, self._loop.time() - call.began)
        call.connection.send(encode(Failure(call.id, code, message)))


def _one_line(error: BaseException, limit: int = 300) -> str:
    lines = str(error).splitlines()
    return lines[0][:limit] if lines else "no message"
