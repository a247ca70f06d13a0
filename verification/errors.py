"""What the harness refuses: one line that names the place, what is wrong there, and the mend."""

from __future__ import annotations


class HarnessError(Exception):
    """`where`, `what`, `mend` make the line that a person reads; `exit_status` ends the command."""

    def __init__(self, where: str, what: str, mend: str, *, exit_status: int = 64) -> None:
        super().__init__(f"{where}: {what}; {mend}")
        self.where = where
        self.what = what
        self.mend = mend
        self.exit_status = exit_status
