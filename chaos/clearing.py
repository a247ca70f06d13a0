"""Healing where no harness is at work: before one begins, and when somebody says that all has to end now."""

from __future__ import annotations

from chaos.errors import NotHealed
from chaos.files import files_of
from chaos.guard import LOCK_S
from chaos.healing import IN_THE_WAY_S, Healing, heal_open, leftovers
from chaos.lease import read_lease
from chaos.ledger import Ledger
from chaos.stage import Stage
from infra.substrates.files import lock_patience


def sweep(stage: Stage) -> tuple[str, ...]:
    """Heals what an earlier harness left; a line for each thing found. Raises NotHealed."""
    files = files_of(stage.environment)
    damaged = Ledger(files.ledger).read().damaged
    found = [f"left by an earlier run: {_told(one)}" for one in heal_open(stage, "sweep")]
    if damaged:
        found.append(f"the ledger has {damaged} damaged lines: looked at the stack instead")
        found += leftovers(stage, mend=True)
    still = Ledger(files.ledger).read().open
    if still:
        raise NotHealed(
            f"stack {stage.environment.stack}",
            f"an earlier fault cannot be undone: {still[0].fault}",
            "run threenines chaos panic, then up",
        )
    return tuple(found)


def panic(stage: Stage) -> tuple[str, ...]:
    """Ends everything now: a running harness' lease, every open fault, and whatever looks like one.

    A harness that stands still and holds what an undo needs is ended.
    """
    files = files_of(stage.environment)
    lease = read_lease(files.lease)
    files.lease.unlink(missing_ok=True)
    found = []
    with lock_patience(LOCK_S):
        healings = heal_open(stage, "panic", IN_THE_WAY_S)
        if lease is not None and any(one.trouble for one in healings):
            if lease.holder_lives():
                lease.end_holder()
                found.append(f"the harness (process {lease.pid}) stood in the way: ended")
            healings = (*(one for one in healings if not one.trouble), *heal_open(stage, "panic"))
        found += [_told(one) for one in healings]
        found += leftovers(stage, mend=True)
    ledger = Ledger(files.ledger)
    for entry in ledger.read().open:
        found.append(f"{entry.fault}: its undo failed; the stack was looked over instead")
        ledger.heal(entry.id, "panic")
    return tuple(found)


def _told(healing: Healing) -> str:
    return f"{healing.fault}: {'; '.join(healing.trouble) or 'healed'}"
