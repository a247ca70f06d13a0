"""Faults on hosts: each takes effect, is proved by the substrate, and leaves nothing behind when healed."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace

import pytest

from infra.substrates.base import Capability, Cut, Direction, HostState, ProcessView, SubstrateError
from verification.campaigns import host_faults
from verification.campaigns.host_faults import KINDS, HostFaultKind, Scene, heal_leftovers, proved
from verification.kinds import BETWEEN_HOSTS, LEADER_FAULTS, LOSSES

HOSTS = ("mainpc", "pc2", "witness")


class Remembering:
    """A substrate that only remembers what was done to its hosts."""

    def __init__(self, can: frozenset[Capability] = frozenset(Capability)) -> None:
        self.can = can
        self.down: set[str] = set()
        self.frozen: set[str] = set()
        self.lost: dict[str, list[Cut]] = {}
        self.stopped: set[tuple[str, str]] = set()
        self.killed: list[tuple[str, str]] = []

    def broken(self) -> bool:
        return bool(self.down or self.frozen or any(self.lost.values()) or self.stopped)

    def capabilities(self) -> frozenset[Capability]:
        return self.can

    def inspect_host(self, name: str) -> HostState | None:
        if name not in HOSTS:
            return None
        return HostState(
            name=name, address="192.0.2.1", running=name not in self.down, frozen=name in self.frozen
        )

    def kill_host(self, name: str) -> None:
        self.down.add(name)

    def restart_host(self, name: str) -> None:
        if name not in self.down:
            raise SubstrateError(name, "runs", "kill it first")
        self.down.remove(name)

    def freeze_host(self, name: str) -> None:
        self.frozen.add(name)

    def thaw_host(self, name: str) -> None:
        self.frozen.discard(name)

    def cut(
        self, host: str, peer: str | None = None, direction: Direction = Direction.BOTH, share: float = 1.0
    ) -> None:
        self.lost.setdefault(host, []).append(Cut(peer=peer, direction=direction))

    def mend_links(self, host: str | None = None) -> None:
        self.lost.pop(host or "", None)

    def cuts(self, host: str) -> tuple[Cut, ...]:
        return tuple(self.lost.get(host, ()))

    def process(self, host: str, target: str) -> ProcessView:
        return ProcessView(
            instance=str(self.killed.count((host, target))),
            stopped=(host, target) in self.stopped,
            open_files=1,
            open_files_limit=2,
        )

    def signal(self, host: str, target: str, signal: str) -> None:
        match signal:
            case "STOP":
                self.stopped.add((host, target))
            case "CONT":
                self.stopped.discard((host, target))
            case _:
                self.killed.append((host, target))


def scene(substrate: Remembering, witness: str | None = "witness") -> Scene:
    return Scene(substrate, "mainpc", "pc2", witness)  # type: ignore[arg-type]


def test_every_planned_kind_can_be_made() -> None:
    assert set(KINDS) == set(BETWEEN_HOSTS)
    assert all(KINDS[kind].loses for kind in LOSSES)
    assert {name for name, kind in KINDS.items() if kind.leads} == set(LEADER_FAULTS)


@pytest.mark.parametrize("name", KINDS)
def test_each_takes_effect_and_is_undone(name: str) -> None:
    substrate, kind = Remembering(), KINDS[name]
    place = scene(substrate)
    assert kind.possible(place) is None
    kind.inject(place)
    assert substrate.broken() or substrate.killed
    assert kind.proof(place)
    kind.heal(place)
    assert not substrate.broken()


def undone(substrate: Remembering, kind: HostFaultKind) -> None:
    """Performs the kind's undos as the guard does."""
    stage = SimpleNamespace(substrate=substrate, process=lambda one: substrate.process(one.host, one.what))
    for undo in sorted(kind.undo(scene(substrate)), key=lambda one: one.order):
        undo.perform(stage)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", KINDS)
def test_each_is_undone_by_somebody_who_only_has_what_is_on_disk(name: str) -> None:
    substrate, kind = Remembering(), KINDS[name]
    undone(substrate, kind)  # before anything was done
    assert not substrate.broken()
    kind.inject(scene(substrate))
    for _ in range(2):
        undone(substrate, kind)
        assert not substrate.broken()
    kind.inject(scene(substrate))
    kind.heal(scene(substrate))
    undone(substrate, kind)  # after its healing
    assert not substrate.broken()


@pytest.mark.parametrize("name", KINDS)
def test_without_effect_there_is_no_proof(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_faults, "PROOF_LIMIT_S", 0.02)
    assert not asyncio.run(proved(KINDS[name], scene(Remembering())))


def test_what_cannot_be_made_here_is_said() -> None:
    bare = scene(Remembering(frozenset()), witness=None)
    assert "cannot do" in (KINDS["host-freeze"].possible(bare) or "")
    assert "cannot do" in (KINDS["host-cut"].possible(bare) or "")
    assert "no witness" in (KINDS["witness-kill"].possible(bare) or "")
    assert "no witness" in (KINDS["leader-kill"].possible(bare) or "")
    assert KINDS["host-kill"].possible(bare) is None


def test_leftovers_are_healed_and_named() -> None:
    substrate = Remembering()
    assert heal_leftovers(substrate, HOSTS) == ()  # type: ignore[arg-type]
    substrate.freeze_host("pc2")
    substrate.cut("mainpc")
    substrate.signal("pc2", "hostd", "STOP")
    told = heal_leftovers(substrate, (*HOSTS, "gone"))  # type: ignore[arg-type]
    assert told == ("links of mainpc were cut", "pc2 was frozen", "hostd of pc2 was stopped")
    assert not substrate.broken()
