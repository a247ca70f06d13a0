"""A harness at work on one stack: nothing begins here that would not end without it.

    with Session.open(environment) as session:
        outcome = session.run(fault, duration_s=10)

Order of every injection: preconditions, blast radius, overlap; measure what is; the undo to disk; the lease
looked at; inject; the lease looked at again; proof of effect; (time passes); undo; proof of restoration.
"""

from __future__ import annotations

import secrets
import subprocess
import threading
import time
from collections.abc import Callable, Iterable
from functools import partial
from types import TracebackType

import msgspec

from chaos.active import Active
from chaos.admission import beyond_limits, overlap
from chaos.clearing import sweep
from chaos.cover import Cover
from chaos.errors import ChaosError, LeaseLost, NotHealed, Refused
from chaos.fault import Fault, Proof, Radius, Trial
from chaos.files import PATIENCE_S, files_of, held_for
from chaos.guard import Charge, guard_pid, start_guard
from chaos.healing import heal, restored
from chaos.journal import Journal
from chaos.lease import LEASE_S, RENEW_S, Renewal
from chaos.ledger import Ledger, Opened
from chaos.stage import Stage
from chaos.undo import AnyUndo, failed
from infra.exclusive import exclusive
from infra.plan import Environment
from infra.substrates.base import SubstrateError
from infra.topology import Fleet

_KEEP_S = 0.05
_WAIT_S = 0.05


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What came of one injection.

    `effect` does not hold: the trial is void, whatever else was seen. `healed` false: something is left.
    """

    trial: str
    fault: str
    effect: Proof
    restored: tuple[Proof, ...]
    healed: bool
    inject_ms: float
    heal_ms: float
    lasted_s: float
    trouble: str = ""

    @property
    def void(self) -> bool:
        """Whether there is no proof that the fault took effect."""
        return not self.effect.holds

    @property
    def whole(self) -> bool:
        """Whether all is measurably as before."""
        return self.healed and all(proof.holds for proof in self.restored)


class Session:
    """One harness on one stack. Safe between threads; every method may raise ChaosError."""

    def __init__(self, stage: Stage, journal: Journal, fleet: Fleet | None) -> None:
        self.stage = stage
        self.journal = journal
        self.id = secrets.token_hex(4)
        self.swept: tuple[str, ...] = ()
        self._files = files_of(stage.environment)
        self._ledger = Ledger(self._files.ledger)
        self._renewal = Renewal(self._files.lease, self.id, lease_s=LEASE_S, renew_s=RENEW_S)
        self._charge = Charge(stage.environment, fleet)
        self._active: dict[str, Active] = {}
        self._covers: dict[str, Cover] = {}
        self._lock = threading.RLock()
        self._count = 0
        self._exits: list[Callable[[], object]] = []

    @classmethod
    def open(
        cls,
        environment: Environment,
        *,
        purpose: str = "chaos run",
        journal: Journal | None = None,
        lock: bool = True,
        fleet: Fleet | None = None,
        stage: Stage | None = None,
    ) -> Session:
        """Takes the stack, heals what an earlier harness left, starts lease and guard.

        `lock` false: the caller holds `infra.exclusive` already. Raises Refused for a stack without chaos
        or that does not stand, Occupied for one that another harness works with.
        """
        if not environment.chaos:
            raise Refused(
                f"stack {environment.stack}",
                "faults are not allowed on it",
                "set threenines:chaos to true in its configuration, if you mean that",
            )
        own = stage or Stage(environment, fleet=fleet)
        if all(own.substrate.inspect_host(host.name) is None for host in own.fleet.hosts):
            raise Refused(f"stack {environment.stack}", "it does not stand here", "run up first")
        journal = journal or Journal(files_of(environment).journal)
        session = cls(own, journal, fleet)
        try:
            if lock:
                held = exclusive(environment, purpose)
                held.__enter__()
                session._exits.append(partial(held.__exit__, None, None, None))
            session._begin()
        except BaseException:
            session._leave()
            raise
        return session

    def _begin(self) -> None:
        self.journal.write("session", text=f"{self.id} begins on {self.stage.environment.stack}")
        self.swept = sweep(self.stage)
        for line in self.swept:
            self.journal.write("swept", text=line)
        self._ledger.clear()
        with held_for(self._files.heal_lock, PATIENCE_S):
            self._renewal.start()
        self._exits.append(self._renewal.stop)
        self._guarded()

    @property
    def lost(self) -> bool:
        """Whether its lease has run out or was taken away: nothing can begin in it any more."""
        return self._renewal.lost

    def hold(self) -> None:
        """Raises LeaseLost when it has been: the guard may have ended a fault early, so nothing counts."""
        if self._renewal.lost:
            raise self._lease_lost()

    def __enter__(self) -> Session:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends every fault that is on, then the session. Raises NotHealed when something is left."""
        left: list[str] = []
        try:
            for active in tuple(self._active.values()):
                outcome = self.end(active)
                if not outcome.healed:
                    left.append(outcome.fault)
            for cover in tuple(self._covers.values()):
                try:
                    self._uncover(cover)
                except NotHealed:
                    left.append(cover.entry.fault)
                except LeaseLost:
                    continue  # it is undone; what was measured meanwhile is no matter of ours
        finally:
            self._leave()
        if left:
            raise NotHealed(
                f"stack {self.stage.environment.stack}",
                f"not undone: {', '.join(left)}",
                "run threenines chaos panic",
            )

    def _leave(self) -> None:
        self.stage.close()
        for leave in reversed(self._exits):
            leave()
        self._exits.clear()
        self.journal.close()

    # -- faults

    def run(self, fault: Fault, duration_s: float, stop: threading.Event | None = None) -> Outcome:
        """One fault from beginning to end; it ends early when `stop` is set or the lease is lost."""
        active = self.begin(fault)
        self.wait(duration_s, stop)
        return self.end(active)

    def wait(self, duration_s: float, stop: threading.Event | None = None) -> None:
        """Lets time pass while this session may have faults on."""
        end = self.stage.clock() + duration_s
        while self.stage.clock() < end and not self._renewal.lost:
            if stop is not None and stop.is_set():
                return
            self.stage.sleep(min(_WAIT_S, max(0.0, end - self.stage.clock())))

    def begin(self, fault: Fault) -> Active:
        """Begins a fault and proves its effect.

        Raises BadFault, Refused before anything was done; after that it returns, with `trouble` said.
        """
        fault.check(self.stage)
        self.stage.require(fault)
        with self._lock:
            radius = fault.radius(self.stage)
            self._admit(fault, radius)
            self._count += 1
            trial = Trial(f"{self.id}-{self._count}")
            undo = fault.undo(self.stage, trial)
            entry = Opened(
                id=trial.id,
                fault=str(fault),
                targets=tuple(sorted(fault.targets(self.stage))),
                undo=undo,
                time_ns=0,
            )
            active = Active(fault, trial, entry, radius)
            self.journal.write("planned", trial=trial.id, fault=str(fault))
            self._ledger.open_fault(trial.id, entry.fault, entry.targets, undo)
            self._active[trial.id] = active
        self._inject(active)
        if not active.trouble:
            self._prove(active)
        return active

    def _inject(self, active: Active) -> None:
        try:
            self._must_be_guarded()
        except ChaosError:
            self.end(active)
            raise
        begin = time.monotonic()
        try:
            active.fault.inject(self.stage, active.trial)
        except (ChaosError, SubstrateError) as error:
            active.trouble = f"{error.where}: {error.what}"
        active.begun = time.monotonic()
        active.inject_ms = (active.begun - begin) * 1000
        self.journal.write(
            "injected",
            trial=active.trial.id,
            fault=str(active.fault),
            text=active.trouble,
            measures=(("took", active.inject_ms, "ms"),),
        )
        if self._renewal.lost:  # the guard may have healed before we injected
            self.end(active)
            raise self._lease_lost()
        if type(active.fault).keep is not Fault.keep:
            active.keeper = threading.Thread(target=self._keep, args=(active,), daemon=True)
            active.keeper.start()

    def _prove(self, active: Active) -> None:
        def look() -> Proof:
            try:
                return active.fault.effect(self.stage, active.trial)
            except (ChaosError, SubstrateError) as error:
                return failed(error)

        active.effect = self.stage.until(look, active.fault.effect_within_s)
        self._note("effect", active, active.effect)

    def _keep(self, active: Active) -> None:
        while not active.stop.wait(_KEEP_S) and not self._renewal.lost:
            try:
                active.fault.keep(self.stage, active.trial)
            except (ChaosError, SubstrateError) as error:
                self.journal.write("trouble", trial=active.trial.id, text=str(error))

    def end(self, active: Active) -> Outcome:
        """Undoes a fault and measures that all is as before."""
        with self._lock:
            if self._active.pop(active.trial.id, None) is None:
                raise ChaosError(str(active.fault), "it has ended already", "begin another")
        lasted_s = time.monotonic() - active.begun
        active.stop.set()
        if active.keeper is not None:
            active.keeper.join()
        trouble, heal_ms = self._undo(active.entry)
        proofs = restored(self.stage, active.entry.undo) if not trouble else ()
        for proof in proofs:
            self._note("restored", active, proof)
        return Outcome(
            trial=active.trial.id,
            fault=str(active.fault),
            effect=active.effect,
            restored=proofs,
            healed=not trouble,
            inject_ms=active.inject_ms,
            heal_ms=heal_ms,
            lasted_s=lasted_s,
            trouble=active.trouble or trouble,
        )

    # -- faults of others

    def cover(self, label: str, targets: Iterable[str], undo: tuple[AnyUndo, ...]) -> Cover:
        """Has a fault undone should its maker not live to heal it; may be injected once this returns.

        No admission, no proof: those are the maker's. Raises LeaseLost, ChaosError: then nothing may begin.
        """
        with self._lock:
            self._count += 1
            id = f"{self.id}-{self._count}"
        entry = Opened(id=id, fault=label, targets=tuple(sorted(targets)), undo=undo, time_ns=0)
        self._ledger.open_fault(id, label, entry.targets, undo)
        try:
            self._must_be_guarded()
        except ChaosError:
            self._ledger.heal(id, "harness")  # nothing was begun
            raise
        cover = Cover(entry, self._uncover)
        with self._lock:
            self._covers[id] = cover
        return cover

    def _uncover(self, cover: Cover) -> None:
        with self._lock:
            ours = self._covers.pop(cover.entry.id, None) is not None
        if ours and cover.is_healed:
            self._ledger.heal(cover.entry.id, "harness")
        elif ours:
            trouble, _ = self._undo(cover.entry)
            if trouble:
                raise NotHealed(
                    cover.entry.fault, f"it cannot be undone: {trouble}", "run threenines chaos panic"
                )
        if self._renewal.lost:
            raise self._lease_lost()

    # -- inner

    def _undo(self, entry: Opened) -> tuple[str, float]:
        """What is left of a fault after its undo ("" when nothing is), and how many ms that took."""
        self.journal.write("healing", trial=entry.id, fault=entry.fault)
        begin = time.monotonic()
        with held_for(self._files.heal_lock, PATIENCE_S):
            (healing,) = heal(self.stage, self._ledger, (entry,), "harness")
        took_ms = (time.monotonic() - begin) * 1000
        trouble = "; ".join(healing.trouble)
        self.journal.write(
            "healed" if not trouble else "not healed",
            trial=entry.id,
            text=trouble,
            measures=(("took", took_ms, "ms"),),
        )
        return trouble, took_ms

    def _admit(self, fault: Fault, radius: Radius) -> None:
        """Raises Refused for a fault that overlaps another one or disturbs too much."""
        targets = fault.targets(self.stage)
        together = radius
        for other in self._active.values():
            both = overlap(targets, other.entry.targets)
            if both:
                raise Refused(
                    str(fault), f"{other.entry.fault} is on {', '.join(sorted(both))}", "let that end first"
                )
            together |= other.radius
        obstacle = beyond_limits(self.stage, together)
        if obstacle:
            raise Refused(str(fault), obstacle, "choose a smaller one, or raise the limit of this stack")

    def _must_be_guarded(self) -> None:
        """Raises LeaseLost; starts a guard anew that has ended."""
        if self._renewal.lost:
            raise self._lease_lost()
        if guard_pid(self._files) is None:
            self._guarded()

    def _guarded(self) -> None:
        program = start_guard(self._charge, self._files)
        if program is not None:
            self._exits.insert(0, lambda: _reap(program))

    def _lease_lost(self) -> LeaseLost:
        return LeaseLost(
            f"stack {self.stage.environment.stack}",
            f"the harness did not renew its lease within {LEASE_S:g} s, its faults are healed",
            "begin again",
        )

    def _note(self, event: str, active: Active, proof: Proof) -> None:
        self.journal.write(
            event,
            trial=active.trial.id,
            fault=str(active.fault),
            holds=proof.holds,
            text="simulated" if proof.simulated else "",
            measures=tuple((one.name, one.value, one.unit) for one in proof.measures),
        )


def _reap(program: subprocess.Popen[bytes]) -> None:
    """Waits for a guard that has nothing to guard any more."""
    try:
        program.wait(5)
    except subprocess.TimeoutExpired:
        return  # it still heals: it ends by itself
