"""Whether an agent's process serves as primary: what hostd tells it, checked against the fence each time.

A process acts at epoch *e* after hostd has promoted it to *e* (its state is loaded then) and while the fence
in the run folder allows *e*. Hence a process that was frozen, demoted or forgotten refuses with `fenced`,
which is definite: its callers look again who serves.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import msgspec

from infra.topology import AgentSpec
from services.agent import fence
from services.agent.channel import Channel, open_unix
from services.agent.connection import Scratch
from services.agent.errors import CallError, Code
from services.agent.sdk import Caller
from services.agent.store import WRITE_LIMIT_S, StateContent, StateRead, StateWrite, StoreState
from services.agent.wire import pack, unpack_as


class Effects:
    """Whether a call has had an effect so far; then a refusal halfway is no definite answer any more."""

    __slots__ = ("any",)

    def __init__(self) -> None:
        self.any = False


call_effects: ContextVar[Effects | None] = ContextVar("call_effects", default=None)


class Promote(msgspec.Struct, frozen=True):
    """Body of `_promote`: serve at this epoch. `state`: what hostd has read of this agent's after it had
    claimed that epoch; None: the agent is to ask for it."""

    epoch: int
    state: StateContent | None = None


class StandingAnswer(msgspec.Struct, frozen=True):
    """Answer of `_promote`, `_standing`, `_quiesce`, `_resume` and `_demote`.

    `epoch`: promoted to (0: standby). `acting`: the fence allows it now. `revision`: the state is loaded up
    to that revision of the store.
    """

    epoch: int
    acting: bool
    revision: int


class HostdBacking:
    """hostd over `hostd.sock`, on one connection that is dialled when needed."""

    def __init__(self, path: Path, scratch: Scratch) -> None:
        self._path = path
        self._scratch = scratch
        self._channel: Channel | None = None
        self._lock = asyncio.Lock()

    async def write(self, write: StateWrite) -> int:
        """The revision at which the store has it. Raises CallError."""
        return unpack_as(await self._ask("state-write", write), int)

    async def read(self, read: StateRead) -> StateContent:
        """Everything acknowledged so far. Raises CallError."""
        return unpack_as(await self._ask("state-read", read), StateContent)

    def close(self) -> None:
        """Closes the connection."""
        if self._channel is not None:
            self._channel.close()

    async def _ask(self, method: str, body: object) -> msgspec.Raw:
        async with self._lock:
            if self._channel is None or not self._channel.usable:
                self._channel = await open_unix(self._path, self._scratch, timeout_s=WRITE_LIMIT_S)
            channel = self._channel
        return await channel.request("hostd", method, pack(body), timeout_s=WRITE_LIMIT_S)


class Standing:
    """One agent's right to act. `refusal` is asked before each call is admitted."""

    def __init__(
        self,
        spec: AgentSpec,
        incarnation: int,
        reader: fence.FenceReader,
        backing: HostdBacking,
    ) -> None:
        self._spec = spec
        self._reader = reader
        self._backing = backing
        self._epoch = 0
        self._quiesced = False
        self.served_since = -math.inf
        """When it was last promoted or resumed, by the event loop's clock (seconds)."""
        self.state = StoreState(spec.name, incarnation, backing, self.check, _touched)

    @property
    def epoch(self) -> int:
        """The epoch that this process was promoted to; 0: it is a standby."""
        return self._epoch

    def acting(self) -> bool:
        """Whether this process may have effects now."""
        return self._epoch > 0 and self._reader.epoch(self._spec.home, self._spec.name) == self._epoch

    def check(self) -> int:
        """The epoch at which this process may act now. Raises CallError `fenced`."""
        if not self.acting():
            raise CallError(Code.FENCED, f"{self._spec.name} is not primary here (any more)")
        return self._epoch

    def refusal(self) -> tuple[Code, str] | None:
        """Why a call is not admitted."""
        if self._quiesced:
            return Code.DRAINING, f"{self._spec.name} is being handed over"
        if not self.acting():
            return Code.FENCED, f"{self._spec.name} is not primary here"
        return None

    # What hostd tells it.

    async def promote(self, wanted: Promote) -> StandingAnswer:
        """Takes the state, then serves at that epoch. Raises CallError; then it stands by."""
        if wanted.epoch != self._epoch:
            self._epoch = 0
            await self.state.load(wanted.state)
            self._epoch = wanted.epoch
            self.served_since = asyncio.get_running_loop().time()
        return self.resume()

    def resume(self) -> StandingAnswer:
        """Calls are admitted again."""
        if self._quiesced:
            self._quiesced = False
            self.served_since = asyncio.get_running_loop().time()
        return self.answer()

    async def quiesce(self, idle: Callable[[], Any]) -> StandingAnswer:
        """Admits no calls, and answers when none is in flight."""
        self._quiesced = True
        await idle()
        return self.answer()

    def demote(self) -> StandingAnswer:
        """Standby from now on."""
        self._epoch = 0
        self._quiesced = False
        self.state.forget()
        return self.answer()

    def answer(self) -> StandingAnswer:
        """How it stands."""
        return StandingAnswer(self._epoch, self.acting(), self.state.revision)

    def guarded(self, caller: Caller) -> Caller:
        """The way to others, open only while this process may act."""
        return _GuardedCaller(self, caller)

    def close(self) -> None:
        """Gives the fence and the connection back."""
        self._backing.close()
        self._reader.close()


class _GuardedCaller:
    def __init__(self, standing: Standing, caller: Caller) -> None:
        self._standing = standing
        self._caller = caller

    async def call(self, agent: str, method: str, body: object = None, *, timeout_s: float = 5.0) -> Any:
        self._standing.check()
        _touched()
        return await self._caller.call(agent, method, body, timeout_s=timeout_s)

    async def close(self) -> None:
        await self._caller.close()


def _touched() -> None:
    effects = call_effects.get()
    if effects is not None:
        effects.any = True


def open_standing(spec: AgentSpec, incarnation: int, run: Path, scratch: Scratch) -> Standing | None:
    """None on a host without ownership: there is no fence, and every process serves."""
    path = run / fence.NAME
    if not path.exists():
        return None
    return Standing(spec, incarnation, fence.FenceReader(path), HostdBacking(run / "hostd.sock", scratch))
