"""Proof that a fault took effect, from the kernel and not from the system under test."""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path

from loadtests.probe_output import Output
from loadtests.protocol import Arm, Armed, Proof
from loadtests.record import Kind
from services.agent import pidfile

FREEZE_POLL_S = 0.001


class NoProcess(Exception):
    """The agent has no process on this host that could be held."""


@dataclass
class _Held:
    agent: str
    trial: str
    pid: int
    incarnation: int
    pidfd: int
    freeze: asyncio.Task[None] | None = None
    frozen: bool = False
    exited: bool = False


class Proofs:
    """Holds processes by pidfd. Two operations for each: `frozen` (stopped by a signal) and `exited`."""

    def __init__(self, output: Output) -> None:
        self._output = output
        self._held: dict[str, _Held] = {}

    def arm(self, command: Arm) -> Armed:
        """Takes hold of the agent's process. Raises NoProcess."""
        self.release(command.agent)
        found = pidfile.read(Path(os.environ["THREENINES_RUN"]) / "agents" / f"{command.agent}.pid")
        if found is None:
            raise NoProcess(f"{command.agent} has no process id on this host")
        try:
            pidfd = os.pidfd_open(found.pid)
        except OSError as error:
            raise NoProcess(f"{command.agent}: process {found.pid}: {error.strerror}") from None
        if not pidfile.alive(found):
            os.close(pidfd)
            raise NoProcess(f"{command.agent}: process {found.pid} is another one by now")
        held = _Held(command.agent, command.trial, found.pid, found.incarnation, pidfd)
        self._held[command.agent] = held
        self._invoke(held, "frozen")
        self._invoke(held, "exited")
        asyncio.get_running_loop().add_reader(pidfd, self._exited, held)
        held.freeze = asyncio.create_task(self._watch_freeze(held))
        return Armed(pid=found.pid, incarnation=found.incarnation)

    def release(self, agent: str) -> None:
        """Lets go; a fact that did not come to pass is recorded as failed."""
        held = self._held.pop(agent, None)
        if held is None:
            return
        if held.freeze is not None:
            held.freeze.cancel()
        if not held.frozen:
            self._end(held, "frozen", Kind.FAIL)
        if not held.exited:
            asyncio.get_running_loop().remove_reader(held.pidfd)
            os.close(held.pidfd)
            self._end(held, "exited", Kind.FAIL)

    def close(self) -> None:
        """Lets go of all."""
        for agent in tuple(self._held):
            self.release(agent)

    def _exited(self, held: _Held) -> None:
        held.exited = True
        asyncio.get_running_loop().remove_reader(held.pidfd)
        os.close(held.pidfd)
        self._end(held, "exited", Kind.OK)

    async def _watch_freeze(self, held: _Held) -> None:
        while not held.exited:
            if _state(held.pid) == b"T":
                held.frozen = True
                self._end(held, "frozen", Kind.OK)
                return
            await asyncio.sleep(FREEZE_POLL_S)

    def _invoke(self, held: _Held, fact: str) -> None:
        self._output.invoke(self._process(held, fact), fact, held.agent, self._proof(held, "none"))

    def _end(self, held: _Held, fact: str, kind: Kind) -> None:
        told = fact if kind is Kind.OK else "none"
        self._output.end(self._process(held, fact), kind, fact, held.agent, self._proof(held, told))

    def _process(self, held: _Held, fact: str) -> str:
        return f"{fact}-{self._output.host}-{held.agent}"

    def _proof(self, held: _Held, fact: str) -> Proof:
        return Proof(trial=held.trial, pid=held.pid, incarnation=held.incarnation, fact=fact)


def _state(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0]
    except (OSError, IndexError):
        return b""
