"""Where a stack's chaos keeps what must outlive the harness: ledger, lease, locks, the guard's log."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from infra.plan import Environment
from infra.substrates.files import make_folder
from infra.substrates.layout import Layout


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
