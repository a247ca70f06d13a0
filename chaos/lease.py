"""Until when the harness is taken to live: a file that it renews each second, five seconds long.

Time is CLOCK_BOOTTIME, which goes on while the machine sleeps: a harness that wakes up late has lost it.
"""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import msgspec

from chaos.ledger import boottime_ns
from infra.substrates.census import Process, identify, send

LEASE_S = 5.0
RENEW_S = 1.0


class Lease(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds the stack's faults, and until when."""

    session: str
    pid: int
    starttime: int
    deadline_ns: int

    def holder_lives(self) -> bool:
        """Whether the process that wrote it is there."""
        return identify(self.pid) == Process(self.pid, self.starttime)

    def end_holder(self) -> None:
        """SIGKILL to exactly the process that wrote it, unless that is this one."""
        if self.pid != os.getpid():
            send(Process(self.pid, self.starttime), signal.SIGKILL)

    def valid(self, now_ns: int) -> bool:
        """Whether the harness is to be taken for alive."""
        return now_ns < self.deadline_ns and self.holder_lives()


def read_lease(path: Path) -> Lease | None:
    """The lease as it is, None when there is none (or one that cannot be read: nobody renews it)."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Lease)
    except (OSError, msgspec.MsgspecError):
        return None


class Renewal:
    """Renews a lease in a thread of its own until `stop`; `lost` says that it could not in time."""

    def __init__(
        self, path: Path, session: str, *, lease_s: float = LEASE_S, renew_s: float = RENEW_S
    ) -> None:
        self._path = path
        self._session = session
        self._lease_ns = int(lease_s * 1e9)
        self._renew_s = renew_s
        self._stop = threading.Event()
        self._lost = threading.Event()
        self._deadline_ns = 0
        self._thread = threading.Thread(target=self._run, name="chaos-lease", daemon=True)

    @property
    def lost(self) -> bool:
        """Whether the lease has run out or was taken away: then nothing may be injected any more."""
        if not self._lost.is_set():
            found = read_lease(self._path)
            if found is None or found.session != self._session or boottime_ns() >= self._deadline_ns:
                self._lost.set()
        return self._lost.is_set()

    def start(self) -> None:
        """Takes the lease."""
        self._write()
        self._thread.start()

    def stop(self) -> None:
        """Gives the lease back."""
        self._stop.set()
        self._thread.join()
        found = read_lease(self._path)
        if found is not None and found.session == self._session:
            self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._stop.wait(self._renew_s):
            if self.lost:
                return
            try:
                self._write()
            except OSError:
                continue  # the deadline decides whether that was too often

    def _write(self) -> None:
        myself = identify(os.getpid())
        assert myself is not None
        deadline_ns = boottime_ns() + self._lease_ns
        lease = Lease(
            session=self._session, pid=myself.pid, starttime=myself.starttime, deadline_ns=deadline_ns
        )
        part = self._path.with_suffix(f".{os.getpid()}.part")
        part.write_bytes(msgspec.json.encode(lease))
        part.replace(self._path)
        self._deadline_ns = deadline_ns
