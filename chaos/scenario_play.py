"""Plays a scenario in a session: looks before, faults in time, looks during and after; all into the journal.

Nothing is judged here. The journal's own words are `phase` (which begins), `look` (`trial` PHASE/NUMBER,
`measures` with how long the look took first), `refused` (a fault that this stack does not take), and what
`chaos.session` writes of each fault.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping
from enum import StrEnum

import msgspec

from chaos.errors import ChaosError, Refused
from chaos.scenario import Scenario, Step, fits
from chaos.scenario_looks import AnyLook, LoadHolds
from chaos.session import Outcome, Session
from chaos.undo import failed
from infra.substrates.base import SubstrateError

LOOK_EVERY_S = 0.25
TICK_S = 0.05


class Phase(StrEnum):
    """Where a scenario is."""

    BEFORE = "before"
    DURING = "during"
    AFTER = "after"


class Played(msgspec.Struct, frozen=True, kw_only=True):
    """What came of a scenario's faults. `unsteady`: what was not so beforehand, and so nothing was broken."""

    outcomes: tuple[Outcome, ...] = ()
    refused: tuple[str, ...] = ()
    unsteady: tuple[str, ...] = ()
    stopped: bool = False


def play(
    scenario: Scenario,
    session: Session,
    stop: threading.Event,
    told: Callable[[int, str], None] = lambda looks, note: None,
) -> Played:
    """Plays it to its end, or until `stop` is set: then every fault is ended first. Raises ChaosError.

    `told` hears, again and again and from several threads, how many looks there were and how it stands.
    """
    fits(scenario, session.stage)
    return _Play(scenario, session, stop, told).run()


class _Play:
    def __init__(
        self,
        scenario: Scenario,
        session: Session,
        stop: threading.Event,
        told: Callable[[int, str], None],
    ) -> None:
        self._scenario = scenario
        self._session = session
        self._stop = stop
        self._told = told
        self._looks = 0
        self._failed: Counter[Phase] = Counter()
        self._faults_on = 0
        self._begun = time.monotonic()
        self._over = threading.Event()
        """No further look is wanted."""
        self._lock = threading.Lock()
        self._to_end = len(scenario.steps)
        self._outcomes: list[Outcome] = []
        self._refused: list[str] = []
        self._errors: list[BaseException] = []
        self._phase = Phase.BEFORE
        self._healed = threading.Event()
        self._awaited: set[int] = set()

    def run(self) -> Played:
        """The whole of it."""
        self._enter(Phase.BEFORE)
        unsteady = self._steady()
        if unsteady or self._stop.is_set():
            return Played(unsteady=unsteady, stopped=self._stop.is_set())
        self._session.wait(self._scenario.calm_s, self._stop)
        self._enter(Phase.DURING)
        looker = threading.Thread(target=self._look_on, name="looks", daemon=True)
        steps = [threading.Thread(target=self._do, args=(step,), name=step.fault) for step in self._ordered()]
        self._begun = time.monotonic()
        try:
            looker.start()
            for thread in steps:
                thread.start()
            for thread in steps:
                thread.join()
            self._enter(Phase.AFTER)
            self._healed.set()
            self._linger()
        finally:
            self._over.set()
            looker.join()
        if self._errors:
            raise self._errors[0]
        self._session.hold()
        self._session.journal.write("phase", text="end")
        return Played(
            outcomes=tuple(self._outcomes), refused=tuple(self._refused), stopped=self._stop.is_set()
        )

    def _ordered(self) -> tuple[Step, ...]:
        return tuple(sorted(self._scenario.steps, key=lambda step: step.at_s))

    # -- faults

    def _do(self, step: Step) -> None:
        try:
            self._fault(step)
        except (Refused, SubstrateError) as error:
            self._session.journal.write("refused", fault=step.fault, text=str(error))
            self._refused.append(f"{error.where}: {error.what}")
            self._stop_others()
        except BaseException as error:
            self._errors.append(error)
            self._stop_others()

    def _stop_others(self) -> None:
        with self._lock:
            self._to_end -= 1
        self._given_up = True

    _given_up = False

    def _fault(self, step: Step) -> None:
        self._until(step.at_s)
        if self._stop.is_set() or self._given_up:
            return
        active = self._session.begin(step.make())
        with self._lock:
            self._faults_on += 1
        self._until(step.end_s)
        with self._lock:
            self._faults_on -= 1
            self._to_end -= 1
            last = self._to_end == 0
        if last:
            self._enter(Phase.AFTER)
        outcome = self._session.end(active)
        with self._lock:
            self._outcomes.append(outcome)

    def _until(self, at_s: float) -> None:
        """Waits for an instant of the scenario, counted from its first fault's place in time."""
        while not self._given_up and not self._stop.is_set() and not self._session.lost:
            left_s = self._begun + at_s - time.monotonic()
            if left_s <= 0:
                return
            self._session.wait(min(left_s, 0.2), self._stop)

    # -- looks

    def _enter(self, phase: Phase) -> None:
        with self._lock:
            known = phase is self._phase and phase is not Phase.BEFORE
            self._phase = phase
        if not known:
            self._session.journal.write("phase", text=phase.value)

    def _steady(self) -> tuple[str, ...]:
        """What of the steady state did not come in its time."""
        missing = dict(_live(self._scenario.before))
        begin = time.monotonic()
        while not self._stop.is_set():
            for number, look in tuple(missing.items()):
                if self._look(Phase.BEFORE, number, look):
                    del missing[number]
            passed_s = time.monotonic() - begin
            self._tell(f"{len(missing)} awaited for {passed_s:.0f} s")
            missing_now = {n: look for n, look in missing.items() if passed_s >= look.within_s}
            if missing_now or not missing:
                return tuple(str(look) for look in missing_now.values())
            self._session.wait(LOOK_EVERY_S, self._stop)
        return ()

    def _look_on(self) -> None:
        during = dict(_live(self._scenario.during))
        awaited = dict(_live(self._scenario.after))
        self._awaited = set(awaited)
        while not self._over.is_set():
            phase = self._phase
            for number, look in tuple((during if phase is Phase.DURING else awaited).items()):
                if self._over.is_set():
                    break
                if self._look(phase, number, look) and phase is Phase.AFTER and self._healed.is_set():
                    del awaited[number]
                    self._awaited.discard(number)
            if phase is Phase.DURING:
                end_s = max((step.end_s for step in self._scenario.steps), default=0.0)
                passed_s = time.monotonic() - self._begun
                self._tell(f"{passed_s:.0f} of {end_s:.0f} s, {self._faults_on} faults on")
            else:
                self._tell(f"{len(awaited)} awaited")
            self._over.wait(LOOK_EVERY_S)

    def _tell(self, note: str) -> None:
        failed = self._failed[Phase.DURING]
        verdict = f", {failed} did not hold under faults" if failed else ""
        self._told(self._looks, f"{self._phase.value}: {note}{verdict}")

    def _look(self, phase: Phase, number: int, look: AnyLook) -> bool:
        begin = time.monotonic()
        try:
            proof = look.now(self._session.stage)
        except (ChaosError, SubstrateError) as error:
            proof = failed(error)
        took_ms = (time.monotonic() - begin) * 1000
        self._looks += 1
        self._failed[phase] += not proof.holds
        self._session.journal.write(
            "look",
            trial=f"{phase.value}/{number}",
            text=str(look),
            holds=proof.holds,
            measures=(("took", took_ms, "ms"), *((one.name, one.value, one.unit) for one in proof.measures)),
        )
        return proof.holds

    def _linger(self) -> None:
        """Until every look after the faults has held or is late, and the load has been seen to be well."""
        begin = time.monotonic()
        after = self._scenario.after
        load_s = [look.within_s for look in after if isinstance(look, LoadHolds)]
        least_s = self._scenario.calm_s + max(load_s, default=0.0)
        limits = _live(after)
        while not self._stop.is_set() and not self._session.lost:
            passed_s = time.monotonic() - begin
            waiting = any(n in self._awaited and passed_s <= look.within_s for n, look in limits.items())
            if passed_s >= least_s and not waiting:
                return
            self._session.wait(TICK_S, self._stop)


def _live(looks: tuple[AnyLook, ...]) -> Mapping[int, AnyLook]:
    return {number: look for number, look in enumerate(looks) if look.live}
