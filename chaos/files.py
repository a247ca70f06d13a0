"""Where a stack's chaos keeps what must outlive the harness: ledger, lease, locks, the guard's log."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.plan import Environment
from infra.substrates.files import explained, make_folder
from infra.substrates.layout import Layout

GUARD_PATIENCE_S = 1.0
PATIENCE_S = 15.0
"""How long the guard, and everybody else, waits for one who heals already."""
_AGAIN_S = 0.01


@dataclass(frozen=True)
class Files:
    """The places of one stack."""

    folder: Path
    run: Path

    @property
    def ledger(self) -> Path:
        """Every fault with its undo, before it begins."""
        return self.folder / "ledger.jsonl"

    @property
    def lease(self) -> Path:
        """Until when the harness is taken to live."""
        return self.run / "chaos-lease.json"  # volatile: renewing it must not need room on a disk

    @property
    def guard_lock(self) -> Path:
        """Held by the guard; says who it is."""
        return self.folder / "guard.lock"

    @property
    def heal_lock(self) -> Path:
        """Held by whoever heals."""
        return self.folder / "heal.lock"

    @property
    def guard_log(self) -> Path:
        """What the guard did."""
        return self.folder / "guard.log"

    @property
    def journal(self) -> Path:
        """What the harness did, where no run says another place."""
        return self.folder / "journal.jsonl"


def files_of(environment: Environment) -> Files:
    """The places of a stack; the folder that lasts is made. Raises SubstrateError."""
    layout = Layout(environment)
    return Files(make_folder(layout.state / "chaos"), layout.run())


@contextlib.contextmanager
def held_for(path: Path, patience_s: float) -> Iterator[bool]:
    """Holds a lock file if it can be had in time, and says whether it could.

    Whoever holds it may be standing still for good (a harness under SIGSTOP, a machine short of memory), so
    nothing that heals may wait for it without an end: undos may be performed twice at once.
    """
    with explained(path):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield take(handle, patience_s)
    finally:
        os.close(handle)


def take(handle: int, patience_s: float) -> bool:
    """Locks an open file, if that can be had in time."""
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= end:
                return False
            time.sleep(_AGAIN_S)
        else:
            return True
