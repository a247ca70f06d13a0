"""Chaos' session in a word: it notes who is covered and when, and loses its lease when a test says so."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from chaos.cover import Cover
from chaos.errors import LeaseLost
from chaos.ledger import Opened
from chaos.undo import AnyUndo
from verification.campaigns import guarded


class Guards:
    """What all sessions of a test tell, in order: "open", "cover …", "end … healed", "close", …"""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.events: list[str] = []
        self.standing: list[MadeUpSession] = []
        self.undos: dict[str, tuple[AnyUndo, ...]] = {}
        self.loses: Callable[[str, str], bool] = lambda _when, _label: False
        """Whether the lease is lost "before" or "during" the fault of that label."""
        self.swept: tuple[str, ...] = ()
        self.install(monkeypatch)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """In place of chaos' own, until the patches are undone."""
        monkeypatch.setattr(guarded, "Session", self)

    def open(self, *_: object, lock: bool, **__: object) -> MadeUpSession:
        assert not lock, "verify holds the stack already"
        assert not self.standing, "two sessions at once"
        self.events.append("open")
        session = MadeUpSession(self)
        self.standing.append(session)
        return session


class MadeUpSession:
    def __init__(self, guards: Guards) -> None:
        self._guards = guards
        self._on: list[str] = []
        self.lost = False
        self.swept = guards.swept

    def cover(self, label: str, targets: tuple[str, ...], undo: tuple[AnyUndo, ...]) -> Cover:
        assert targets
        self.lost = self.lost or self._guards.loses("before", label)
        if self.lost:
            self._guards.events.append(f"refused {label}")
            raise lease_lost()
        self._guards.events.append(f"cover {label}")
        self._guards.undos[label] = undo
        self._on.append(label)
        return Cover(Opened(id=label, fault=label, targets=targets, undo=undo, time_ns=0), self._end)

    def _end(self, cover: Cover) -> None:
        label = cover.entry.fault
        self._guards.events.append(f"end {label} {'healed' if cover.is_healed else 'undone'}")
        self._on.remove(label)
        self.lost = self.lost or self._guards.loses("during", label)
        if self.lost:
            raise lease_lost()

    def close(self) -> None:
        assert not self._on, "closed under a trial"
        self._guards.events.append("close")
        self._guards.standing.remove(self)


def lease_lost() -> LeaseLost:
    return LeaseLost("stack made-up", "the harness did not renew its lease", "begin again")
