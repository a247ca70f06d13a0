"""The one error that a set-up step may end with: where, what, and how to mend it."""

from __future__ import annotations

EXIT_CANNOT_WORK = 3
"""Exit status of a harness that could not do its work (0 to 2 are verdicts)."""


class SetupError(Exception):
    """A step of the set-up failed in a way that its user can mend.

    `where` names the step (`tools.pulumi`), `what` says in a few words what is wrong, `mend` what to do.
    """

    def __init__(self, where: str, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}; {mend}")
        self.where = where
        self.what = what
        self.mend = mend

    def line(self) -> str:
        """The single line for stderr, whatever line breaks the parts came with."""
        return " ".join(f"threenines: {self}".split())
