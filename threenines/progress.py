"""How a deployment's progress is shown: a bar on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from infra.automation import Progress

LINES_EVERY = 10


@contextmanager
def shown(what: str, *, quiet: bool = False) -> Iterator[Callable[[Progress], None] | None]:
    """Gives the callback that shows progress on stderr while the block runs; None when `quiet`."""
    if quiet:
        yield None
    elif sys.stderr.isatty():
        with _bar(what) as callback:
            yield callback
    else:
        yield _lines(what)


@contextmanager
def _bar(what: str) -> Iterator[Callable[[Progress], None]]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[now]}[/dim]"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None, now="preparing")

        def callback(event: Progress) -> None:
            bar.update(
                task, total=event.total or None, completed=event.done, now=f"{event.step} {event.resource}"
            )

        yield callback


def _lines(what: str) -> Callable[[Progress], None]:
    told = 0

    def callback(event: Progress) -> None:
        nonlocal told
        if event.kind == "failed":
            print(f"{what}: {event.step} {event.resource} failed", file=sys.stderr, flush=True)
        elif event.done >= told + LINES_EVERY:
            told = event.done
            print(f"{what}: {event.done} of {event.total}", file=sys.stderr, flush=True)

    return callback
