"""How an agent is written: a small class with typed handlers.

    class Translator(Agent):
        @method(idempotent=True)
        async def translate(self, request: TranslateRequest) -> TranslateReply: ...

A handler takes nothing or one request (a msgspec struct or builtins, validated before it runs) and returns
what msgpack can say. A handler without `async` runs inside the event loop and must be short.
"""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, ClassVar, Final, Protocol, TypeVar

import msgspec

from infra.topology import AgentSpec, Setting
from services.agent.errors import CallError, Code
from services.agent.state import MemoryState, State
from services.agent.wellness import elsewhere

F = TypeVar("F", bound=Callable[..., Any])
_MARK: Final = "__threenines_method__"

call_deadline: ContextVar[float | None] = ContextVar("call_deadline", default=None)
"""When the call being handled is due, on the event loop's clock; None outside of a call."""


class AgentDefinitionError(Exception):
    """A class that cannot serve: which handler, and why."""


class Caller(Protocol):
    """What an agent needs to call others: `services.agent.client.Client`, or a fake."""

    async def call(self, agent: str, method: str, body: object = None, *, timeout_s: float = 5.0) -> Any:
        """The reply, as builtins. Raises `CallError`."""

    async def close(self) -> None:
        """Closes the connections."""


@dataclass(frozen=True, slots=True)
class Method:
    """One handler as the server sees it."""

    name: str
    function: Callable[..., Any]
    request: msgspec.msgpack.Decoder[Any] | None
    asynchronous: bool
    idempotent: bool


@dataclass(frozen=True, slots=True)
class _Mark:
    idempotent: bool


def method(*, idempotent: bool = False) -> Callable[[F], F]:
    """Marks a handler. An idempotent one may be run again when nobody knows whether it ran."""

    def mark(function: F) -> F:
        setattr(function, _MARK, _Mark(idempotent))
        return function

    return mark


class Agent:
    """Base of every agent. `concurrency` is how many calls are handled at once; more wait in line."""

    concurrency: ClassVar[int] = 64

    def __init__(
        self,
        spec: AgentSpec,
        *,
        incarnation: int = 0,
        caller: Caller | None = None,
        state: State | None = None,
    ) -> None:
        self.spec = spec
        self.incarnation = incarnation
        self.state: State = state if state is not None else MemoryState()
        self._caller = caller
        self._epoch: Callable[[], int] = int

    @property
    def epoch(self) -> int:
        """The epoch at which this process serves; 0: as a standby, or where no other host ever serves it."""
        return self._epoch()

    def stand(self, epoch: Callable[[], int]) -> None:
        """Tells the agent where it learns its epoch; the server does this."""
        self._epoch = epoch

    @property
    def name(self) -> str:
        """The agent's name."""
        return self.spec.name

    @property
    def settings(self) -> dict[str, Setting]:
        """The settings of the manifest."""
        return self.spec.settings

    def connect(self, caller: Caller) -> None:
        """Gives the agent its way to others; the server does this before `on_start`."""
        self._caller = caller

    async def call(self, agent: str, method: str, body: object = None, *, timeout_s: float = 5.0) -> Any:
        """Calls another agent. Inside a handler the time left of its own call bounds `timeout_s`."""
        if self._caller is None:
            raise CallError(Code.UNAVAILABLE, "this agent has no way to others")
        due = call_deadline.get()
        if due is not None:
            import asyncio

            timeout_s = min(timeout_s, due - asyncio.get_running_loop().time())
            if timeout_s <= 0:
                raise CallError(Code.DEADLINE, f"no time left to call {agent}.{method}")
        with elsewhere():
            return await self._caller.call(agent, method, body, timeout_s=timeout_s)

    async def on_start(self) -> None:
        """Runs before the first call; an exception ends the agent."""

    async def on_stop(self) -> None:
        """Runs after the last call."""


def methods_of(cls: type[Agent]) -> dict[str, Method]:
    """The handlers of a class by name. Raises `AgentDefinitionError`."""
    cached = cls.__dict__.get("_methods")
    if cached is not None:
        return typing.cast(dict[str, Method], cached)
    found: dict[str, Method] = {}
    for name, function in inspect.getmembers(cls, inspect.isfunction):
        mark = getattr(function, _MARK, None)
        if mark is not None:
            found[name] = _method(cls, name, function, mark)
    cls._methods = found  # type: ignore[attr-defined]
    return found


def _method(cls: type[Agent], name: str, function: Callable[..., Any], mark: _Mark) -> Method:
    where = f"{cls.__module__}.{cls.__qualname__}.{name}"
    if name.startswith("_"):
        raise AgentDefinitionError(f"{where}: names with a leading underscore are the SDK's own")
    parameters = list(inspect.signature(function).parameters.values())[1:]
    if len(parameters) > 1:
        raise AgentDefinitionError(f"{where}: takes {len(parameters)} arguments; a handler takes one request")
    decoder: msgspec.msgpack.Decoder[Any] | None = None
    if parameters:
        try:
            hints = typing.get_type_hints(function)
            decoder = msgspec.msgpack.Decoder(hints[parameters[0].name])
        except KeyError:
            raise AgentDefinitionError(f"{where}: {parameters[0].name} has no type") from None
        except (NameError, TypeError) as error:
            raise AgentDefinitionError(f"{where}: {error}") from None
    return Method(name, function, decoder, inspect.iscoroutinefunction(function), mark.idempotent)


def load_agent(handler: str) -> type[Agent]:
    """The class behind "module:Class". Raises `AgentDefinitionError` with one line."""
    import importlib

    module_name, _, class_name = handler.partition(":")
    if not module_name or not class_name:
        raise AgentDefinitionError(f"handler {handler!r}: must be module:Class")
    try:
        cls = getattr(importlib.import_module(module_name), class_name)
    except Exception as error:  # anything that a foreign module raises while it is imported
        raise AgentDefinitionError(f"handler {handler!r}: {type(error).__name__}: {error}") from error
    if not (isinstance(cls, type) and issubclass(cls, Agent)):
        raise AgentDefinitionError(f"handler {handler!r}: is no services.agent.sdk.Agent")
    methods_of(cls)
    return cls
