"""Chaos Toolkit's way to our faults and looks: a module of actions and probes for its provider `python`.

    {"type": "action", "name": "…", "provider": {"type": "python", "module": "chaos.toolkit", "func": "fault",
     "arguments": {"fault": "process-kill", "parameters": {"target": "agent/asr-0"}, "for_s": 5}}}

Faults of one process share one session, so that actions may run in the background beside each other. What
cannot be done raises; the toolkit then says that the activity has failed. Its format: chaostoolkit.org,
"Concepts and vocabulary" (experiment, steady-state hypothesis, method, rollbacks, controls).
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

from chaos.active import Active
from chaos.clearing import panic as heal_everything
from chaos.errors import BadFault, ChaosError, Refused
from chaos.fault import Fault
from chaos.parameters import make_fault
from chaos.scenario import Value
from chaos.scenario_looks import AnyLook
from chaos.session import Session
from chaos.stage import Stage

MODULE = "chaos.toolkit"
DEFAULT_STACK = "local"

A = TypeVar("A", bound="Arguments")

BEGUN_WITHIN_S = 60.0
"""How long a look waits for the faults that it is about to begin."""

_lock = threading.Lock()
_sessions: dict[str, tuple[Session, int]] = {}
_held: list[str] = []
"""The stack that the harness of this process holds; none under the toolkit's own command."""
_beginnings: dict[str, list[float | None]] = {}
"""For each stack, when the faults that are on by now began (monotonic s); None: one that could not."""
_begun = threading.Condition()
_stop = threading.Event()
"""Set when the run is interrupted: faults end in order, before their time."""


class NoEffect(ChaosError):
    """A fault without proof that it took effect: whatever else was seen, it proves nothing."""


class NotAsBefore(ChaosError):
    """A fault is over and not all is as before."""


class NotHeld(ChaosError):
    """A look that had to hold did not come to hold in its time."""


class Arguments(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What an activity is given. `stack` empty: the one that the harness holds, else the local one."""

    stack: str = ""

    def check(self, stage: Stage) -> None:
        """Raises BadFault for names that the stack's fleet does not have; other ChaosErrors by its state."""


class OfFault(Arguments, frozen=True, kw_only=True):
    """Arguments of `fault`."""

    fault: str
    parameters: dict[str, Value] = {}
    for_s: Annotated[float, Meta(gt=0, le=3600)] = 5.0

    def make(self) -> Fault:
        """The fault itself. Raises BadFault."""
        return make_fault(self.fault, self.parameters)

    def check(self, stage: Stage) -> None:
        self.make().check(stage)


class OfLook(Arguments, frozen=True, kw_only=True):
    """Arguments of `look`."""

    look: AnyLook
    must: bool = False
    faults: Annotated[int, Meta(ge=0, le=500)] = 0

    def check(self, stage: Stage) -> None:
        if not self.look.live:
            raise BadFault(str(self.look), "only a scenario's own load tells it", "leave it out")
        self.look.check(stage)


ARGUMENTS: dict[str, type[Arguments]] = {"fault": OfFault, "look": OfLook, "panic": Arguments}
"""What each of our functions takes."""


def fault(
    fault: str, parameters: dict[str, Value] | None = None, for_s: float = 5.0, stack: str = ""
) -> dict[str, Any]:
    """An action: one fault from its beginning to its proved end, `for_s` seconds.

    Raises BadFault and Refused before it, NoEffect when it is void, NotAsBefore, other ChaosErrors.
    """
    given = {"fault": fault, "parameters": parameters or {}, "for_s": for_s, "stack": stack}
    wanted = converted(given, OfFault)
    made, name = wanted.make(), _stack_of(wanted)
    session, active = _begin(made, name)
    try:
        try:
            with _interruptible():
                session.wait(wanted.for_s, _stop)
        finally:
            outcome = session.end(active)
    finally:
        _leave(name)
    if not outcome.whole:
        trouble = outcome.trouble or "; ".join(str(one) for one in outcome.restored if not one.holds)
        raise NotAsBefore(str(made), f"not as before: {trouble}", "run threenines chaos panic")
    if outcome.void:
        what = outcome.trouble or str(outcome.effect)
        raise NoEffect(str(made), f"no proof of effect: {what}", "see the journal of the stack's chaos")
    found: dict[str, Any] = msgspec.to_builtins(outcome)
    return found


def look(look: dict[str, Any], stack: str = "", must: bool = False, faults: int = 0) -> bool:
    """A probe: whether one of our looks holds, or comes to hold within its `within_s`; tolerance `true`.

    The toolkit compares with a tolerance in its hypothesis alone: a probe of a method that must hold says
    `must`, and raises NotHeld when it does not. `faults`: it looks when so many faults of this process are
    on, and its time counts from the beginning of the last one; NoEffect when they are not. Raises BadFault.
    """
    wanted = converted({"look": look, "stack": stack, "must": must, "faults": faults}, OfLook)
    name = _stack_of(wanted)
    with closing(_stage(name)) as stage:
        wanted.check(stage)
        since = _await_faults(name, wanted)
        left_s = max(0.0, since + wanted.look.within_s - time.monotonic())
        with _interruptible():
            proof = stage.until(lambda: wanted.look.now(stage), left_s)
    if must and not proof.holds:
        what = f"does not hold within {wanted.look.within_s:g} s: {proof}"
        raise NotHeld(str(wanted.look), what, "see threenines status")
    return proof.holds


def panic(stack: str = "") -> list[str]:
    """A rollback: ends every fault of the stack now."""
    with closing(_stage(_stack_of(converted({"stack": stack}, Arguments)))) as stage:
        return list(heal_everything(stage))


def converted(given: dict[str, Any], kind: type[A]) -> A:
    """An activity's arguments, typed. Raises BadFault."""
    try:
        return msgspec.convert(given, kind, strict=False)
    except msgspec.ValidationError as error:
        what, _, place = str(error).partition(" - at ")
        where = place.strip("`").removeprefix("$.") or "its arguments"
        raise BadFault(where, what[:1].lower() + what[1:], "see docs/scenarios.md") from None


@contextmanager
def held(stack: str, *, faults: bool = False) -> Iterator[None]:
    """For the block: the caller holds this stack alone, and activities of this process are about it.

    `faults`: there will be some. Their session begins now, so that the first one is not late by its start.
    Raises what `Session.open` raises.
    """
    if faults:
        with _lock:
            _sessions[stack] = (_opened(stack, lock=False), 0)
    _held.append(stack)
    _stop.clear()
    try:
        yield
    finally:
        _held.remove(stack)
        _stop.set()
        with _lock:
            left = tuple(session for session, _ in _sessions.values())
            _sessions.clear()
        _beginnings.pop(stack, None)
        for session in left:  # no fault came, or the toolkit did not wait for an action
            session.close()


def _begin(made: Fault, stack: str) -> tuple[Session, Active]:
    """Begins a fault; looks at its time learn of it when its effect was looked for, or it could not be."""
    began: float | None = None
    try:
        session = _enter(stack)
        try:
            since = time.monotonic()
            active = session.begin(made)
            began = since
        except BaseException:
            _leave(stack)
            raise
    finally:
        with _begun:
            _beginnings.setdefault(stack, []).append(began)
            _begun.notify_all()
    return session, active


def _await_faults(stack: str, wanted: OfLook) -> float:
    """Waits until the faults of a look are on; from when its time counts. Raises NoEffect."""
    if not wanted.faults:
        return time.monotonic()
    with _begun:
        _begun.wait_for(lambda: len(_beginnings.get(stack, ())) >= wanted.faults, BEGUN_WITHIN_S)
        began = [one for one in _beginnings.get(stack, ()) if one is not None]
    if len(began) < wanted.faults:
        what = f"{len(began)} of the {wanted.faults} faults that it is about have begun"
        raise NoEffect(str(wanted.look), what, "mend those first")
    return max(began)


def interrupt() -> None:
    """The run is to end: faults that are on end now, in order."""
    _stop.set()


@contextmanager
def _interruptible() -> Iterator[None]:
    """The toolkit's answer to SIGTERM is an exception that it takes for a failed activity, and goes on."""
    try:
        yield
    except Exception as error:
        if type(error).__name__ != "InterruptExecution":
            raise
        interrupt()
        raise KeyboardInterrupt from error


def _stack_of(wanted: Arguments) -> str:
    """Raises Refused for a stack other than the one that is held."""
    name = wanted.stack or (_held[-1] if _held else DEFAULT_STACK)
    if _held and name != _held[-1]:
        raise Refused(f"stack {name}", f"this run is about stack {_held[-1]}", f"run it with --stack {name}")
    return name


def _stage(stack: str) -> Stage:
    from infra.project import deployed_environment

    return Stage(deployed_environment(stack))


def _opened(stack: str, *, lock: bool) -> Session:
    stage = _stage(stack)
    return Session.open(stage.environment, purpose="Chaos Toolkit", lock=lock, stage=stage)


def _enter(stack: str) -> Session:
    with _lock:
        session, users = _sessions.get(stack, (None, 0))
        if session is None:
            session = _opened(stack, lock=stack not in _held)
        _sessions[stack] = (session, users + 1)
        return session


def _leave(stack: str) -> None:
    with _lock:
        session, users = _sessions.pop(stack, (None, 0))
        if session is None:
            return
        if users > 1:
            _sessions[stack] = (session, users - 1)
        else:
            session.close()
