"""Undoing faults from the ledger: the same for the harness, the guard, a sweep and a panic."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby

import msgspec

from chaos import messages as m
from chaos.errors import ChaosError
from chaos.fault import Proof
from chaos.files import PATIENCE_S, files_of, held_for
from chaos.ledger import Ledger, Opened
from chaos.stage import Stage
from chaos.undo import AnyUndo, failed, restart_toxiproxy
from infra.substrates.base import SubstrateError

TRIES_S = 6.0
"""How long an undo is tried again before it counts as failed for this round."""
IN_THE_WAY_S = 1.5
"""The same while a harness without a lease lives: it may hold what the undo needs, and is ended then."""
_PAUSE_S = 0.2
_THREADS = 16


class Healing(msgspec.Struct, frozen=True):
    """How undoing one fault went: `trouble` says what is left, empty when nothing is."""

    id: str
    fault: str
    trouble: tuple[str, ...] = ()


def heal(
    stage: Stage, ledger: Ledger, opened: Sequence[Opened], by: str, tries_s: float = TRIES_S
) -> tuple[Healing, ...]:
    """Performs the undos of these faults, those of a kind side by side, and writes down what is healed.

    One that fails is tried again for `tries_s`.
    """
    todo = sorted(
        ((undo.order, entry.id, undo) for entry in opened for undo in entry.undo), key=lambda one: one[0]
    )
    trouble: dict[str, list[str]] = {entry.id: [] for entry in opened}
    with ThreadPoolExecutor(_THREADS) as pool:
        for _, group in groupby(todo, key=lambda one: one[0]):
            jobs = list(group)
            outcomes = pool.map(lambda job: _perform(stage, job[2], tries_s), jobs)
            for (_, id, _), outcome in zip(jobs, outcomes, strict=True):
                if outcome:
                    trouble[id].append(outcome)
    done = []
    for entry in opened:
        if not trouble[entry.id]:
            ledger.heal(entry.id, by)
        done.append(Healing(entry.id, entry.fault, tuple(trouble[entry.id])))
    return tuple(done)


def heal_open(stage: Stage, by: str, tries_s: float = TRIES_S) -> tuple[Healing, ...]:
    """Heals everything that the stack's ledger has open; one program at a time does so."""
    files = files_of(stage.environment)
    ledger = Ledger(files.ledger)
    with held_for(files.heal_lock, PATIENCE_S):
        return heal(stage, ledger, ledger.read().open, by, tries_s)


def restored(stage: Stage, undos: Iterable[AnyUndo]) -> tuple[Proof, ...]:
    """Measures until all is as before, each undo for its own time at most."""

    def measure(undo: AnyUndo) -> Proof:
        def look() -> Proof:
            try:
                return undo.restored(stage)
            except (ChaosError, SubstrateError) as error:
                return failed(error)

        return stage.until(look, undo.within_s)

    return tuple(measure(undo) for undo in sorted(undos, key=lambda one: one.order))


def leftovers(stage: Stage, *, mend: bool = False) -> tuple[str, ...]:
    """Everything on the stack that looks like a fault, whoever made it; with `mend` it is ended.

    Looks at frozen hosts, cuts, proxied ways, takers. A host that does not run holds nothing.
    """
    found: list[str] = []
    for host in stage.fleet.hosts:
        state = stage.substrate.inspect_host(host.name)
        if state is None:
            continue
        if state.frozen:
            found.append(f"{host.name}: the host is frozen")
            if mend:
                stage.substrate.thaw_host(host.name)
        cuts = stage.substrate.cuts(host.name)
        for cut in cuts:
            peer = cut.peer or "everybody"
            found.append(f"{host.name}: {cut.share:.0%} loss, {cut.direction.value}, {peer}")
        if mend and cuts:
            stage.substrate.mend_links(host.name)
        if (state.running or state.frozen) and stage.ways(host.name) and (mend or not state.frozen):
            found += _on_host(stage, host.name, mend=mend)
    return tuple(found)


def _on_host(stage: Stage, host: str, *, mend: bool) -> list[str]:
    found = []
    try:
        ways = stage.ask(host, m.Proxies(), list[m.ProxyView], 3.0)
    except ChaosError as error:
        found.append(f"{host}: Toxiproxy: {error.what}")
        if mend:
            restart_toxiproxy(stage, host)
        ways = []
    for way in ways:
        found += [f"{host}: {toxic.type} on the way {way.name}" for toxic in way.toxics]
        found += [] if way.enabled else [f"{host}: the way {way.name} is shut"]
    if mend and any(way.toxics or not way.enabled for way in ways):
        try:
            stage.ask(host, m.ResetWays(), type(None), 3.0)
        except ChaosError:
            restart_toxiproxy(stage, host)
    if mend:
        with contextlib.suppress(ChaosError):
            ended = stage.ask(host, m.Leave(), int)
            found += [f"{host}: {ended} processes that took a resource"] if ended else []
    return found


def _perform(stage: Stage, undo: AnyUndo, tries_s: float) -> str:
    """Performs an undo, again and again for a while; what is left in words, "" when nothing is."""
    end = stage.clock() + tries_s
    while True:
        try:
            undo.perform(stage)
        except (ChaosError, SubstrateError) as error:
            if _gone(stage, getattr(undo, "host", "")):
                return ""
            if stage.clock() >= end:
                return f"{error.where}: {error.what}"
            stage.sleep(_PAUSE_S)
        else:
            return ""


def _gone(stage: Stage, host: str) -> bool:
    """Whether a host is not there or has no process: then nothing of a fault is on it."""
    if not host:
        return False
    with contextlib.suppress(SubstrateError):
        state = stage.substrate.inspect_host(host)
        return state is None or not (state.running or state.frozen)
    return False
