"""What every campaign works with: the plan, the substrate, a probe on each host, the history."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infra.substrates.base import Substrate
from loadtests.record import Kind, Record, now_ns, raw
from verification.history import History, Journal
from verification.links import LinkError, ProbeLink
from verification.plan import RunPlan
from verification.progress import Progress


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
