"""What goes wrong in chaos, by what may be done about it. Each names the place, the matter and the mend."""

from __future__ import annotations


class ChaosError(Exception):
    """Base of them all; the command line prints it as one line."""

    exit_status = 3

    def __init__(self, where: str, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}; {mend}")
        self.where = where
        self.what = what
        self.mend = mend


class BadFault(ChaosError):
    """A fault that cannot be meant: unknown name, parameter, unit or target. Nothing was done."""

    exit_status = 64


class Refused(ChaosError):
    """A fault that this stack does not take: not allowed, too wide, not possible here. Nothing was done."""


class NotReached(ChaosError):
    """A host or a server on it gave no answer in time: what was asked may have happened (indeterminate)."""


class LeaseLost(ChaosError):
    """The harness did not renew its lease in time, and the guard has healed its faults (fatal)."""


class NotHealed(ChaosError):
    """An undo failed for good: something of a fault is left (fatal)."""
