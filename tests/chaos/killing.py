"""Kills a reckless harness at a random moment and looks at what is left; for tests and the benchmark."""

from __future__ import annotations

import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from chaos.files import files_of
from chaos.guard import Charge, guard_pid
from chaos.healing import leftovers, restored
from chaos.ledger import Ledger
from chaos.stage import Stage
from infra.tools.paths import PROJECT_ROOT
from tests.chaos.conftest import Standing, stand

LIMIT_S = 10.0
"""What the product promises."""


class Kill(msgspec.Struct, frozen=True):
    """One killed harness: how many faults were on, and how long until none was."""

    seed: int
    after_s: float
    on: int
    healed_s: float
    left: tuple[str, ...]
    not_as_before: tuple[str, ...]


def start(standing: Standing, seed: int, *words: str) -> subprocess.Popen[bytes]:
    """A reckless harness that is at work."""
    return launched(standing, "tests.chaos.reckless", "at work", str(seed), *words)


def launched(standing: Standing, module: str, ready: str, *words: str) -> subprocess.Popen[bytes]:
    """A program of ours on that stack, which has said that it is ready."""
    said = files_of(standing.environment).folder / f"{module}.log"
    with said.open("wb") as errors:
        program = subprocess.Popen(
            (sys.executable, "-m", module, *words),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd=PROJECT_ROOT,
        )
    assert program.stdin is not None
    assert program.stdout is not None
    program.stdin.write(msgspec.json.encode(Charge(standing.environment, standing.fleet)))
    program.stdin.close()
    assert program.stdout.readline() == f"{ready}\n".encode(), said.read_text(encoding="utf-8")
    return program


def kill_one(
    standing: Standing, stage: Stage, seed: int, *, latest_s: float, patience_s: float, look_s: float = 0.05
) -> Kill:
    """Starts a harness, kills it soon, waits until nothing is open in the ledger, and looks at the stack."""
    files = files_of(standing.environment)
    ledger = Ledger(files.ledger)
    program = start(standing, seed)
    after_s = random.Random(seed).uniform(0.0, latest_s)
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


def main() -> int:
    """`python -m tests.chaos.killing [MOMENTS]`: a line for each, then the sum; 1 when anything is left."""
    moments = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    kills: list[Kill] = []
    with tempfile.TemporaryDirectory() as folder:
        for standing in stand(Path(folder)):
            stage = standing.stage()
            try:
                for seed in range(moments):
                    kills.append(kill_one(standing, stage, seed, latest_s=4.0, patience_s=60.0))
                    print(msgspec.json.encode(kills[-1]).decode(), flush=True)
            finally:
                stage.close()
    on = sum(kill.on for kill in kills)
    slow = sum(kill.healed_s > LIMIT_S for kill in kills)
    left = sum(bool(kill.left or kill.not_as_before) for kill in kills)
    slowest_s = max(kill.healed_s for kill in kills)
    print(
        f"{len(kills)} moments, {on} faults on at the kill, slowest healed after {slowest_s:.2f} s, "
        f"{slow} later than {LIMIT_S:g} s, {left} with anything left"
    )
    return 1 if slow or left else 0


if __name__ == "__main__":
    sys.exit(main())
