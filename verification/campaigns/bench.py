"""What every campaign works with: the plan, the substrate, a probe on each host, the history."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from infra.substrates.base import Substrate
from loadtests.protocol import AnyCommand
from loadtests.record import Kind, Record, now_ns, raw
from verification.campaigns.guarded import Guarded
from verification.history import History, Journal
from verification.links import LinkError, ProbeLink
from verification.plan import RunPlan
from verification.progress import Progress

OBEY_LIMIT_S = 15.0
OBEY_EVERY_S = 0.25


@dataclass
class Bench:
    """The measuring bench of one run."""

    plan: RunPlan
    substrate: Substrate
    probes: dict[str, ProbeLink]
    nemesis: Journal
    prometheus: Journal
    journal: Journal
    progress: Progress
    folder: Path
    start_probe: Callable[[str], Awaitable[ProbeLink]]
    """Starts a probe on a host, with a history file of its own."""
    guarded: Guarded
    """By which every fault of the campaigns is covered."""
    over: Callable[[], bool] = lambda: False
    """Whether the time is up: no further trial begins, those under way are brought to their end."""

    def __post_init__(self) -> None:
        self.guarded.say = lambda line: self.note("guard", said=line)

    def round(self, trial: str) -> str:
        """The name under which a trial's registers stand: never used before, also not by another run."""
        return f"{self.folder.name}.{trial}"

    @property
    def witness(self) -> str | None:
        """The host that only votes."""
        return self.plan.witness

    @property
    def members(self) -> tuple[str, ...]:
        """All hosts that vote."""
        return self.plan.hosts if self.witness is None else (*self.plan.hosts, self.witness)

    async def revive(self, host: str) -> None:
        """A new probe in place of one that was lost with its host; it asks nobody yet. Raises LinkError."""
        self.probes[host] = await self.start_probe(host)

    def history(self) -> History:
        """What probes and harness have written so far, the load's records left out. Raises HistoryError."""
        return History.read(self.folder, leave_out="load-*.jsonl")

    def note(self, what: str, **facts: str) -> None:
        """Writes down what the harness does, on disk before it is done."""
        record = Record(process="harness", type=Kind.INFO, f=what, value=raw(facts), time_ns=now_ns())
        self.journal.record(record)
        self.journal.sync()


def require(done_error: str | None, host: str) -> None:
    """Raises LinkError when a probe could not do what every run needs."""
    if done_error is not None:
        raise LinkError(f"probe on {host}", done_error, "see `threenines status`")


async def obeyed(probe: ProbeLink, command: AnyCommand, limit_s: float = OBEY_LIMIT_S) -> None:
    """Until the probe has done it: a daemon or gateway that has just come back may not listen yet.

    Only for what may be asked again. Raises LinkError when it is not done in time.
    """
    loop = asyncio.get_running_loop()
    end = loop.time() + limit_s
    while (error := (await probe.ask(command)).error) is not None:
        if loop.time() >= end:
            require(error, probe.host)
        await asyncio.sleep(OBEY_EVERY_S)
