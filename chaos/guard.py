"""`python -m chaos.guard`: heals a stack's faults when its harness is gone or its lease has run out.

One for each stack, in a session of its own, with nothing of a host's marks: it outlives the harness, its
terminal, and any host that is killed. It ends when no harness lives and nothing is open.
Its standard input is the environment as JSON.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import math
import os
import signal
import subprocess
import sys
import time

import msgspec

from chaos.errors import ChaosError
from chaos.files import GUARD_PATIENCE_S, Files, files_of, held_for
from chaos.healing import IN_THE_WAY_S, TRIES_S, heal
from chaos.lease import Lease, read_lease
from chaos.ledger import Ledger, Opened, boottime_ns
from chaos.stage import Stage
from infra.plan import Environment
from infra.substrates.base import SubstrateError
from infra.substrates.files import lock_patience
from infra.tools.paths import PROJECT_ROOT
from infra.topology import Fleet, TopologyError

LOOK_S = 0.1
AGAIN_S = 1.0
LOCK_S = 1.0
"""How long a healer waits for the lock of a host: a harness that stands still may hold it."""
_START_S = 20.0

log = logging.getLogger("threenines.guard")


class Charge(msgspec.Struct, frozen=True):
    """What a guard is told: the stack, and its fleet where that is not the manifest's."""

    environment: Environment
    fleet: Fleet | None = None


class Watch:
    """What the guard decides, look by look. Everything it needs to know is on disk."""

    def __init__(self, stage: Stage, files: Files) -> None:
        self._stage = stage
        self._files = files
        self._ledger = Ledger(files.ledger)
        self._seen: Lease | None = None
        self._doubtful: tuple[Opened, ...] = ()
        """Healed while their harness still lived: it may have been about to inject."""
        self._handled = -math.inf

    def look(self) -> bool:
        """One look; False when there is nothing left to guard."""
        lease = read_lease(self._files.lease)
        if lease is None and self._files.lease.exists():
            return True  # it is being replaced
        self._seen = lease or self._seen
        now_ns = boottime_ns()
        if lease is not None and lease.valid(now_ns):
            return True
        lives = self._seen is not None and self._seen.holder_lives()
        if not lives and self._doubtful:
            self._heal(self._doubtful, "its harness has ended after its lease")
            self._doubtful = ()
        if self._ledger.read().open and self._stage.clock() >= self._handled + AGAIN_S:
            why = "its lease has run out" if lives else "the harness is gone"
            with held_for(self._files.heal_lock, GUARD_PATIENCE_S):
                opened = self._ledger.read().open
                healed = self._heal(opened, why, IN_THE_WAY_S if lives else TRIES_S)
            self._handled = self._stage.clock()
            if lives and not healed and self._seen is not None:
                log.error("the harness (process %d) stands still and in the way: it is ended", self._seen.pid)
                self._seen.end_holder()
                self._handled = -math.inf  # its locks are free now
            if lives:
                self._doubtful += opened
        return (lives and (lease is not None or bool(self._doubtful))) or bool(self._ledger.read().open)

    def _heal(self, opened: tuple[Opened, ...], why: str, tries_s: float = TRIES_S) -> bool:
        """Whether all is healed."""
        healings = heal(self._stage, self._ledger, opened, "guard", tries_s)
        for healing in healings:
            state = "; ".join(healing.trouble) or "healed"
            log.warning("%s: %s: %s", why, healing.fault, state)
        return not any(healing.trouble for healing in healings)


def guard(stage: Stage, files: Files) -> int:
    """Watches until there is nothing to guard. 0; also when another one watches already."""
    handle = os.open(files.guard_lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return 0
    os.ftruncate(handle, 0)
    os.pwrite(handle, str(os.getpid()).encode(), 0)
    watch = Watch(stage, files)
    while True:
        try:
            # Under the lock under which a session takes its lease: it either finds this guard or starts one.
            if not watch.look():
                with held_for(files.heal_lock, GUARD_PATIENCE_S) as alone:
                    lease = read_lease(files.lease)
                    if not alone:
                        continue
                    if lease is None or not lease.holder_lives():
                        files.lease.unlink(missing_ok=True)
                        os.close(handle)
                        return 0
        except (ChaosError, SubstrateError, OSError) as error:
            log.error("%s", error)
            stage.sleep(AGAIN_S)
        stage.sleep(LOOK_S)


def guard_pid(files: Files) -> int | None:
    """The process that guards the stack now, None when there is none."""
    try:
        handle = os.open(files.guard_lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        with contextlib.suppress(ValueError):
            return int(os.pread(handle, 20, 0))
        return None  # it is writing its number at this moment
    else:
        return None
    finally:
        os.close(handle)


def start_guard(charge: Charge, files: Files) -> subprocess.Popen[bytes] | None:
    """Sees that a guard watches: starts one where there is none, and waits until it does.

    Raises ChaosError when it does not come: then nothing may be injected.
    """
    if guard_pid(files) is not None:
        return None
    with files.guard_log.open("ab") as output:
        program = subprocess.Popen(
            (sys.executable, "-m", "chaos.guard"),
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=output,
            start_new_session=True,
            cwd="/",
            env={
                **{key: value for key, value in os.environ.items() if not key.startswith("THREENINES_")},
                "PYTHONPATH": str(PROJECT_ROOT),
            },
        )
    assert program.stdin is not None
    with contextlib.suppress(OSError):
        program.stdin.write(msgspec.json.encode(charge))
        program.stdin.close()
    end = time.monotonic() + _START_S
    while guard_pid(files) is None:
        if program.poll() is not None or time.monotonic() >= end:
            if program.poll() is None:
                program.kill()
            program.wait()
            raise ChaosError(
                f"stack {charge.environment.stack}",
                "the guard that would heal its faults does not start",
                f"see {files.guard_log}",
            )
        time.sleep(0.02)
    return program


def main() -> int:
    """Reads the charge and watches."""
    logging.basicConfig(format="%(asctime)s %(name)s %(levelname)s %(message)s", level=logging.INFO)
    for number in (signal.SIGHUP, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    try:
        charge = msgspec.json.decode(sys.stdin.buffer.read(), type=Charge)
        stage = Stage(charge.environment, fleet=charge.fleet)
        with lock_patience(LOCK_S):
            return guard(stage, files_of(charge.environment))
    except (msgspec.MsgspecError, SubstrateError, TopologyError, OSError) as error:
        log.error("cannot guard: %s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
