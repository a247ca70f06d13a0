"""How far one fault on a host has come, so that its trial ends when there is nothing more to see.

It decides only when to stop watching. What a trial proves is for the checkers, which read the history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import msgspec

from loadtests.protocol import Acted, Picture, RegisterWish
from loadtests.record import Kind, Record

GOOD_CALLS = 3


@dataclass
class _Agent:
    streak: int = 0
    sound: bool = False


@dataclass
class _Register:
    acknowledged: int = -1
    owed: int = -1
    read: int = -1


class HostTracker:
    """Listens to what one observing host's probe sees of the fleet, of agents' calls and of registers."""

    def __init__(self, agents: Iterable[str], registers: int, wanted: int) -> None:
        """`agents`: those that are called; `registers`: how many are read; `wanted`: agents to be served."""
        self.ready = asyncio.Event()
        """Everybody is served and calls succeed; before the fault."""
        self.done = asyncio.Event()
        """The victim serves nobody, everybody is served and answers, registers have what they should."""
        self._agents = {agent: _Agent() for agent in agents}
        self._registers: dict[str, _Register] = {}
        self._wanted = wanted
        self._read_registers = registers
        self._picture: Picture | None = None
        self._victim: str | None = None
        self._effect_ns: int | None = None
        self._end_ns: int | None = None
        self._begun: dict[str, tuple[int, int | None]] = {}

    @property
    def serving(self) -> dict[str, int]:
        """How many agents each host serves now, as last seen."""
        return {} if self._picture is None else self._picture.serving

    @property
    def end_ns(self) -> int | None:
        """When the last thing that was waited for was seen."""
        return self._end_ns

    def lost(self, victim: str, effect_ns: int) -> None:
        """The fault took effect at that instant at the latest: what began before does not count."""
        self._victim, self._effect_ns = victim, effect_ns
        for agent in self._agents.values():
            agent.streak, agent.sound = 0, False
        for register in self._registers.values():
            register.owed = max(register.acknowledged, register.read)
            register.read = -1
        self._look(effect_ns)

    def untouched(self, effect_ns: int) -> None:
        """As `lost`, for a fault that takes nobody's agents away, or that is over: all begins anew."""
        self.done.clear()
        self._end_ns = None
        self.lost("", effect_ns)

    def blinded(self) -> None:
        """The observing probe ended: what it had seen last says nothing about now."""
        self._picture = None

    def listener(self) -> Callable[[Record], None]:
        """What every record of the observing host's probe is given to."""
        return self._take

    def _take(self, record: Record) -> None:
        if record.type is Kind.INVOKE:
            if record.f in ("call", "write", "read"):
                wish = record.f == "write" and msgspec.json.decode(record.value, type=RegisterWish).value
                value = wish if isinstance(wish, int) and not isinstance(wish, bool) else None
                self._begun[record.process] = record.time_ns, value
            return
        match record.f:
            case "fleet":
                self._picture = msgspec.json.decode(record.value, type=Picture)
            case "call" | "write" | "read":
                begun_ns, value = self._begun.pop(record.process, (0, None))
                self._answered(record, begun_ns, value)
            case _:
                return
        self._look(record.time_ns)

    def _answered(self, record: Record, begun_ns: int, value: int | None) -> None:
        good = record.type is Kind.OK
        counts = self._effect_ns is None or begun_ns >= self._effect_ns
        key = record.key or ""
        if record.f == "call":
            agent = self._agents.get(key)
            if agent is not None and counts:
                agent.streak = agent.streak + 1 if good else 0
                agent.sound = agent.sound or agent.streak >= GOOD_CALLS
            return
        register = self._registers.setdefault(key, _Register())
        if record.f == "write" and good and value is not None:
            register.acknowledged = max(register.acknowledged, value)
        elif record.f == "read" and good and counts:
            told = msgspec.json.decode(record.value, type=Acted).value
            register.read = max(register.read, -1 if told is None else told)

    def _look(self, time_ns: int) -> None:
        picture = self._picture
        if picture is None:
            return
        if picture.unserved or sum(picture.serving.values()) < self._wanted:
            return
        if self._effect_ns is None:
            if any(agent.streak < GOOD_CALLS for agent in self._agents.values()):
                return
            if sum(one.read >= 0 for one in self._registers.values()) >= self._read_registers:
                self.ready.set()
            return
        if picture.serving.get(self._victim or "", 0) or self.done.is_set():
            return
        if not all(agent.sound for agent in self._agents.values()):
            return
        if all(one.read >= one.owed for one in self._registers.values()):
            self._end_ns = time_ns
            self.done.set()
