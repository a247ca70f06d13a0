"""A fault that somebody else makes, proves and heals, with its undo on disk meanwhile.

    with session.cover("host-kill pc2", ("host/pc2",), undo) as cover:
        ...  # inject, measure, heal
        cover.healed()

Should its maker end in between, however that happens, the guard performs the undo.
"""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType

from chaos.errors import LeaseLost
from chaos.ledger import Opened


class Cover:
    """One such fault. Made by `Session.cover`; ended by `end`, or by leaving it as a context."""

    def __init__(self, entry: Opened, end: Callable[[Cover], None]) -> None:
        self.entry = entry
        self.is_healed = False
        self._end = end

    def healed(self) -> None:
        """Its maker has healed it: the undo is not needed any more."""
        self.is_healed = True

    def end(self) -> None:
        """Performs the undo, unless the maker has healed, and closes the entry in the ledger.

        Raises NotHealed when something is left, LeaseLost when the lease was lost meanwhile: the fault is
        undone, but the guard may have ended it early, so that nothing that was measured counts.
        """
        self._end(self)

    def __enter__(self) -> Cover:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.end()
        except LeaseLost:
            if kind is None:
                raise
