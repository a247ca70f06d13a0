"""Several load generators as one: a master gives each worker its place and collects what they did.

Over Locust's own messages. A worker that is told to start names its host and waits; when all have, the master
gives each host's workers their places and they begin. Workers send the lines of their seconds as they write
them, and say when they have ended.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import gevent
from gevent.event import Event
from locust.env import Environment
from locust.runners import MasterRunner, WorkerRunner

from loadtests.outcome import Outcome
from loadtests.recorder import Sink

HOST, PLACE, LINES, STOP, ENDED, TROUBLE = (
    f"threenines-{what}" for what in ("host", "place", "lines", "stop", "ended", "trouble")
)
GATHER_S = 30.0
"""For all workers to name their host, and to hand in their last lines."""


@dataclass
class Master:
    """The master's side. `write` takes the history of all workers."""

    environment: Environment
    runner: MasterRunner
    write: Sink
    fail: Callable[[str, int], None]
    outcome: Outcome = field(default_factory=Outcome)
    _hosts: dict[str, str] = field(default_factory=dict)
    _awaited: set[str] = field(default_factory=set)
    _running: set[str] = field(default_factory=set)
    _placed: Event = field(default_factory=Event)
    _all_ended: Event = field(default_factory=Event)

    def listen(self) -> None:
        """Takes the workers' messages from now on."""
        self.runner.register_message(HOST, self._on_host)
        self.runner.register_message(LINES, self._on_lines)
        self.runner.register_message(ENDED, self._on_ended)
        self.runner.register_message(TROUBLE, self._on_trouble)

    def start(self) -> None:
        """A load begins with the workers that are there now."""
        clients = self.runner.clients
        self.outcome = Outcome()
        self._hosts = {}
        self._awaited = {client.id for client in (*clients.ready, *clients.running, *clients.spawning)}
        self._running = set(self._awaited)
        self._placed.clear()
        self._all_ended.clear()
        gevent.spawn(self._gather)

    def finish(self) -> None:
        """Waits until all workers have handed in what they did.

        A master that is told to quit at the end of its time tells its workers nothing before: so this does.
        """
        for client in self._running:
            self.runner.send_message(STOP, {}, client)
        if self._running and not self._all_ended.wait(GATHER_S):
            gone = ", ".join(sorted(self._running))
            sys.stderr.write(
                f"threenines: load: no last word from {gone}; what they did counts as not done\n"
            )

    def _gather(self) -> None:
        if not self._placed.wait(GATHER_S):
            missing = ", ".join(sorted(self._awaited - set(self._hosts)))
            self.fail(f"load: workers {missing} did not name their host; look at their output", 3)

    def _on_host(self, msg: Any, **_: object) -> None:
        client = msg.node_id
        if self._placed.is_set() or client not in self._awaited:
            self.runner.send_message(PLACE, {"of": 0}, client)  # too late for this load
            return
        self._hosts[client] = msg.data["host"]
        if self._awaited <= set(self._hosts):
            self._give_places()

    def _give_places(self) -> None:
        for host in sorted(set(self._hosts.values())):
            mine = sorted(client for client, on in self._hosts.items() if on == host)
            for number, client in enumerate(mine):
                self.runner.send_message(PLACE, {"number": number, "of": len(mine)}, client)
        self._placed.set()

    def _on_lines(self, msg: Any, **_: object) -> None:
        lines = msg.data["lines"]
        self.outcome.take(lines)
        self.write(lines)

    def _on_ended(self, msg: Any, **_: object) -> None:
        self._running.discard(msg.node_id)
        if not self._running:
            self._all_ended.set()

    def _on_trouble(self, msg: Any, **_: object) -> None:
        self._on_ended(msg)
        self.fail(msg.data["line"], msg.data["status"])


@dataclass
class Worker:
    """A worker's side."""

    runner: WorkerRunner
    _placed: Event = field(default_factory=Event)
    _place: tuple[int, int] = (0, 1)

    def listen(self) -> None:
        """Takes the master's messages from now on."""
        self.runner.register_message(PLACE, self._on_place)
        self.runner.register_message(STOP, self._on_stop, concurrent=True)

    def place(self, host: str) -> tuple[int, int] | None:
        """Asks for this worker's place on its host: number and of how many. None: no part in this load.

        Raises TimeoutError when the master gives none.
        """
        self._placed.clear()
        self.runner.send_message(HOST, {"host": host})
        if not self._placed.wait(GATHER_S + 5):
            raise TimeoutError("the master gave no place")
        return self._place if self._place[1] else None

    def send(self, lines: bytes) -> None:
        """Hands in lines of history: plans and seconds, no single operations."""
        kept = [
            line
            for line in lines.splitlines(keepends=True)
            if b'"f":"load-second"' in line or b'"f":"load-plan"' in line
        ]
        if kept:
            self.runner.send_message(LINES, {"lines": b"".join(kept)})

    def ended(self) -> None:
        """All lines are handed in."""
        self.runner.send_message(ENDED, {})

    def trouble(self, line: str, status: int) -> None:
        """Why this worker cannot take part."""
        self.runner.send_message(TROUBLE, {"line": line, "status": status})

    def _on_stop(self, **_: object) -> None:
        self.runner.stop()

    def _on_place(self, msg: Any, **_: object) -> None:
        self._place = (msg.data.get("number", 0), msg.data["of"])
        self._placed.set()
