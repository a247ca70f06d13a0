"""What a run tells while it runs, on standard error: what, how far, the verdict so far."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import TaskID

PLAIN_EVERY_S = 5.0


class Progress(Protocol):
    """Where a run's progress goes."""

    def phase(self, title: str, total: int | None = None, unit: str = "trials") -> None:
        """A new stretch of work begins, of `total` trials, or of whatever its `unit` is."""
        ...

    def tick(self, done: int, note: str = "") -> None:
        """So much of the stretch is done; `note` is the verdict so far."""
        ...

    def say(self, text: str) -> None:
        """Something worth a line of its own."""
        ...

    def close(self) -> None:
        """The run is over."""
        ...


class PlainProgress:
    """Lines, for logs: each phase, and how far it is every few seconds."""

    def __init__(self, out: TextIO = sys.stderr) -> None:
        self._out = out
        self._begun = time.monotonic()
        self._title = ""
        self._total: int | None = None
        self._unit = ""
        self._told = 0.0

    def phase(self, title: str, total: int | None = None, unit: str = "trials") -> None:
        self._title, self._total, self._unit, self._told = title, total, unit, time.monotonic()
        self.say(title if total is None else f"{title}: {total} {unit}")

    def tick(self, done: int, note: str = "") -> None:
        now = time.monotonic()
        if now - self._told < PLAIN_EVERY_S and done != self._total:
            return
        self._told = now
        left = f"{self._total - done} left" if self._total is not None else f"{done} {self._unit}"
        self.say(f"{self._title}: {left}" + (f"; {note}" if note else ""))

    def say(self, text: str) -> None:
        self._out.write(f"{time.monotonic() - self._begun:6.1f} s  {text}\n")
        self._out.flush()

    def close(self) -> None:
        pass


class RichProgress:
    """One live line per phase, for terminals."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bars

        self._bars = Bars(
            SpinnerColumn(finished_text="[green]✓[/]"),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[note]}", style="dim", markup=False),
            console=Console(stderr=True),
        )
        self._bars.start()
        self._task: TaskID | None = None

    def phase(self, title: str, total: int | None = None, unit: str = "trials") -> None:
        self._finish()
        self._task = self._bars.add_task(title, total=total, note="")

    def tick(self, done: int, note: str = "") -> None:
        if self._task is not None:
            self._bars.update(self._task, completed=done, note=note)

    def say(self, text: str) -> None:
        self._bars.console.print(text, markup=False, highlight=False)

    def close(self) -> None:
        self._finish()
        self._bars.stop()

    def _finish(self) -> None:
        if self._task is not None:
            task = self._bars.tasks[self._task]
            total = task.total if task.total is not None else max(task.completed, 1)
            self._bars.update(self._task, total=total)
            self._bars.stop_task(self._task)


class NoProgress:
    """Says nothing, for tests."""

    def phase(self, title: str, total: int | None = None, unit: str = "trials") -> None:
        pass

    def tick(self, done: int, note: str = "") -> None:
        pass

    def say(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


def choose() -> Progress:
    """The one that fits standard error."""
    return RichProgress() if sys.stderr.isatty() else PlainProgress()
