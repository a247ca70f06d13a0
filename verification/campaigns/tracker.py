"""How far one fault trial has come, so that it ends when there is nothing more to see.

It decides only when to stop watching. What a trial proves is for the checkers, which read the history.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from loadtests.protocol import Event, View
from loadtests.record import Kind, Record
from verification.plan import FaultTrial

GOOD_CALLS = 3


@dataclass
class _Host:
    standing: bool = False
    streak: int = 0
    left: bool = False
    sound: int = 0


class Tracker:
    """Listens to the records of one agent on all hosts."""

    def __init__(self, trial: FaultTrial, hosts: tuple[str, ...]) -> None:
        self.incarnation: int | None = None
        self.ready = asyncio.Event()
        self.effect = asyncio.Event()
        self.done = asyncio.Event()
        self.exited = False
        self._trial = trial
        self._hosts = {host: _Host() for host in hosts}
        self._invoked: dict[str, int] = {}
        self._view: dict[str, View] = {}
        self._begin_ns: int | None = None
        self._gone_ns: int | None = None
        self._validated = False
        self._end_ns: int | None = None

    @property
    def begun(self) -> bool:
        """Whether the fault was sent."""
        return self._begin_ns is not None

    @property
    def took_effect(self) -> bool:
        """Whether the process was seen to be gone or frozen."""
        return self._gone_ns is not None

    @property
    def complete(self) -> bool:
        """Whether everything that is waited for has come."""
        return self.done.is_set()

    @property
    def took_ms(self) -> float | None:
        """From the fault to the last thing that was waited for, roughly."""
        if self._begin_ns is None or self._end_ns is None:
            return None
        return (self._end_ns - self._begin_ns) / 1e6

    def begin(self, time_ns: int) -> None:
        """The signal is about to be sent."""
        self._begin_ns = time_ns

    def listener(self, host: str) -> Callable[[Record], None]:
        """The listener for one host's records of this agent."""
        return lambda record: self._take(host, record)

    def events(self, record: Record) -> None:
        """Events of a host's daemon."""
        if record.f != "event" or record.type is not Kind.OK or self._begin_ns is None:
            return
        for event in msgspec.json.decode(record.value, type=list[Event]):
            if (
                event.event == "validated"
                and event.agent == self._trial.agent
                and event.incarnation != self.incarnation
            ):
                self._validated = True
        self._look(record.time_ns)

    def _take(self, host: str, record: Record) -> None:
        if record.type is Kind.INVOKE:
            self._invoked[record.process] = record.time_ns
            return
        begun_ns = self._invoked.pop(record.process, record.time_ns)
        match record.f:
            case "watch":
                self._view[host] = msgspec.json.decode(record.value, type=View)
            case "call":
                self._called(self._hosts[host], begun_ns, record.type is Kind.OK)
            case "exited" | "frozen" | "misbehaving" if record.type is Kind.OK and host == self._trial.home:
                self.exited = self.exited or record.f == "exited"
                if self._gone_ns is None and record.f == self._fact and self._begin_ns is not None:
                    self._gone_ns = record.time_ns
                    self.effect.set()
        self._look(record.time_ns)

    @property
    def _fact(self) -> str:
        return {"crash": "exited", "hang": "frozen"}.get(self._trial.fault, "misbehaving")

    def _called(self, host: _Host, begun_ns: int, good: bool) -> None:
        if self._begin_ns is None:
            host.streak = host.streak + 1 if good else 0
        elif self._gone_ns is not None and begun_ns >= self._gone_ns:
            host.sound = host.sound + 1 if good else 0

    def _look(self, time_ns: int) -> None:
        for name, host in self._hosts.items():
            view = self._view.get(name)
            host.standing = view is not None and any(
                one.host == self._trial.home and one.incarnation == self.incarnation for one in view.serving
            )
        if self._begin_ns is None:
            if all(host.standing and host.streak >= GOOD_CALLS for host in self._hosts.values()):
                self.ready.set()
            return
        if (
            self._gone_ns is not None
            and self._validated
            and all(not host.standing and host.sound > GOOD_CALLS for host in self._hosts.values())
            and not self.done.is_set()
        ):
            self._end_ns = time_ns
            self.done.set()
