"""Kills a reckless harness at a random moment and looks at what is left; for tests and the benchmark."""

from __future__ import annotations

import random
import subprocess
import sys
import time

import msgspec

from chaos.files import files_of
from chaos.guard import Charge, guard_pid
from chaos.healing import leftovers, restored
from chaos.ledger import Ledger
from chaos.stage import Stage
from infra.tools.paths import PROJECT_ROOT
from tests.chaos.conftest import Standing


class Kill(msgspec.Struct, frozen=True):
    """One killed harness: how many faults were on, and how long until none was."""

    seed: int
    after_s: float
    on: int
    healed_s: float
    left: tuple[str, ...]
    not_as_before: tuple[str, ...]


def start(standing: Standing, seed: int) -> subprocess.Popen[bytes]:
    """A reckless harness that is at work."""
    program = subprocess.Popen(
        (sys.executable, "-m", "tests.chaos.reckless", str(seed)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        cwd=PROJECT_ROOT,
    )
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(msgspec.json.encode(Charge(standing.environment, standing.fleet)))
    program.stdin.close()
    assert program.stdout.readline() == b"at work\n"
    return program


def kill_one(standing: Standing, stage: Stage, seed: int, *, patience_s: float, look_s: float = 0.05) -> Kill:
    """Starts a harness, kills it, waits until the ledger has nothing open, and looks at the stack."""
    files = files_of(standing.environment)
    ledger = Ledger(files.ledger)
    program = start(standing, seed)
    after_s = random.Random(seed).uniform(0.0, 4.0)
    time.sleep(after_s)
    program.kill()
    begin = time.monotonic()
    program.wait()
    on = len(ledger.read().open)
    while ledger.read().open and time.monotonic() - begin < patience_s:
        time.sleep(look_s)
    healed_s = time.monotonic() - begin
    left = leftovers(stage)
    contents = ledger.read()
    undos = [undo for entry in contents.opened for undo in entry.undo]
    last = {str(undo): undo for undo in undos}
    proofs = restored(stage, last.values())
    while guard_pid(files) is not None and time.monotonic() - begin < patience_s:
        time.sleep(look_s)
    return Kill(
        seed,
        after_s,
        on,
        healed_s,
        (*left, *(entry.fault for entry in contents.open)),
        tuple(str(proof) for proof in proofs if not proof.holds),
    )
