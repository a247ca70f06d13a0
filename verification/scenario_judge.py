"""From a scenario's journal and the load's history to its result. Pure: a stored run is judged again by this.

Times are unkind to the system: a look that holds counts from its end, one that does not from its beginning.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from chaos.journal import Entry
from chaos.scenario import Scenario
from chaos.scenario_looks import AnyLook, LoadHolds
from chaos.scenario_play import Phase, Played
from loadtests.histogram import Histogram
from loadtests.outcome import Outcome
from reports.model import FaultTold, LookTold, Verdict
from verification.checkers import load as load_checker
from verification.history import History
from verification.scenario_result import Result


@dataclass(frozen=True)
class Times:
    """Instants of a run, CLOCK_BOOTTIME in seconds; None: it did not come so far."""

    first_planned: float | None
    last_planned: float | None
    first_healing: float | None
    last_healed: float | None
    end: float

    @classmethod
    def of(cls, entries: Sequence[Entry]) -> Times:
        """From a journal."""

        def at(event: str, pick: Callable[[Iterable[float]], float]) -> float | None:
            found = [entry.time_ns / 1e9 for entry in entries if entry.event == event]
            return pick(found) if found else None

        healed = [e.time_ns / 1e9 for e in entries if e.event in ("healed", "not healed")]
        if not any(entry.event == "planned" for entry in entries):  # the cell of a design without a fault
            healed = [e.time_ns / 1e9 for e in entries if (e.event, e.text) == ("phase", Phase.AFTER)]
        return cls(
            first_planned=at("planned", min),
            last_planned=at("planned", max),
            first_healing=at("healing", min),
            last_healed=max(healed, default=None),
            end=max((entry.time_ns / 1e9 for entry in entries), default=0.0),
        )


def judge(scenario: Scenario, played: Played, entries: Sequence[Entry], history: History) -> Result:
    """The result, without what only the runner knows (where, when, commit)."""
    times = Times.of(entries)
    load = _Load(scenario, history)
    looks = [
        load.judge(look, phase, times)
        if isinstance(look, LoadHolds)
        else _judged(look, phase, number, entries, times)
        for phase, wanted in _phases(scenario).items()
        for number, look in enumerate(wanted)
    ]
    faults = tuple(
        FaultTold(
            fault=one.fault,
            effect=str(one.effect),
            proved=one.effect.holds,
            restored=one.whole,
            lasted_s=one.lasted_s,
            simulated=one.effect.simulated,
            trouble=one.trouble or "; ".join(str(p) for p in one.restored if not p.holds),
        )
        for one in played.outcomes
    )
    verdict, why = _verdict(scenario, played, faults, looks, load.shortfall)
    return Result(
        scenario=scenario.name,
        title=scenario.title,
        rows=scenario.rows,
        expected=" ".join(scenario.expected.split()),
        verdict=verdict,
        why=why,
        faults=faults,
        looks=tuple(looks),
        load=tuple(load.outcome.summary()) if scenario.load else (),
    )


def _verdict(
    scenario: Scenario,
    played: Played,
    faults: Sequence[FaultTold],
    looks: Sequence[LookTold],
    shortfall: str | None,
) -> tuple[Verdict, tuple[str, ...]]:
    missing = [f"not so beforehand, so nothing was broken: {one}" for one in played.unsteady]
    missing += [f"not possible here: {one}" for one in played.refused]
    missing += [f"no proof that it took effect: {one.fault}" for one in faults if not one.proved]
    if played.stopped:
        missing.append("it was stopped before its end")
    if shortfall is not None:
        missing.append(f"the load does not count: {shortfall}")
    before = [one for one in looks if one.phase == Phase.BEFORE and one.verdict is Verdict.FAIL]
    missing += [f"not so beforehand: {one.what} ({one.seen})" for one in before]
    wrong = [f"not as before: {one.fault} ({one.trouble})" for one in faults if not one.restored]
    if not missing:  # what was seen without the scenario's faults says nothing
        wrong += [f"{one.phase}: {one.what}" for one in looks if one.verdict is Verdict.FAIL]
        missing += [
            f"{one.phase}: not seen: {one.what}" for one in looks if one.verdict is Verdict.INCONCLUSIVE
        ]
    if wrong:
        return Verdict.FAIL, (*wrong, *missing)
    if missing or (scenario.steps and not faults):
        return Verdict.INCONCLUSIVE, tuple(missing) or (f"{scenario.name} has broken nothing",)
    return Verdict.PASS, ()


def _phases(scenario: Scenario) -> Mapping[Phase, tuple[AnyLook, ...]]:
    return {Phase.BEFORE: scenario.before, Phase.DURING: scenario.during, Phase.AFTER: scenario.after}


def _judged(look: AnyLook, phase: Phase, number: int, entries: Sequence[Entry], times: Times) -> LookTold:
    name = f"{phase.value}/{number}"
    seen = [entry for entry in entries if entry.event == "look" and entry.trial == name]

    def told(verdict: Verdict, at: Entry | None, after_s: float | None = None) -> LookTold:
        measures = "" if at is None else ", ".join(_measure(one) for one in at.measures[1:])
        return LookTold(
            phase=phase.value,
            what=str(look),
            verdict=verdict,
            within_s=look.within_s,
            after_s=after_s,
            seen=measures,
            looks=len(seen),
        )

    if not seen:
        return told(Verdict.INCONCLUSIVE, None)
    if phase is Phase.BEFORE:
        last = seen[-1]
        return told(Verdict.PASS if last.holds else Verdict.FAIL, last)
    if phase is Phase.AFTER:
        if times.last_healed is None:
            return told(Verdict.INCONCLUSIVE, seen[-1])
        first = _held_for_good(seen)
        if first is None:
            return told(Verdict.FAIL, seen[-1])
        after_s = first.time_ns / 1e9 - times.last_healed
        return told(Verdict.PASS if after_s <= look.within_s else Verdict.FAIL, first, after_s)
    return _during(look, seen, times, told)


def _during(
    look: AnyLook,
    seen: Sequence[Entry],
    times: Times,
    told: Callable[[Verdict, Entry | None, float | None], LookTold],
) -> LookTold:
    if times.last_planned is None or times.first_healing is None:
        return told(Verdict.INCONCLUSIVE, seen[-1], None)
    inside = [e for e in seen if e.time_ns / 1e9 <= times.first_healing and _begun(e) >= times.last_planned]
    limit = times.last_planned + look.within_s
    first = _held_for_good(inside)
    late = [entry for entry in inside if _begun(entry) >= limit]
    if not late:
        return told(Verdict.INCONCLUSIVE, inside[-1] if inside else None, None)
    wrong = next((entry for entry in late if not entry.holds), None)
    after_s = None if first is None else first.time_ns / 1e9 - times.last_planned
    if wrong is not None:
        return told(Verdict.FAIL, wrong, after_s)
    return told(Verdict.PASS, late[-1], after_s)


def _held_for_good(seen: Sequence[Entry]) -> Entry | None:
    """The first look after which every one held."""
    first = None
    for entry in reversed(seen):
        if not entry.holds:
            break
        first = entry
    return first


def _begun(entry: Entry) -> float:
    took_ms = entry.measures[0][1] if entry.measures else 0.0
    return entry.time_ns / 1e9 - (took_ms / 1000 if isinstance(took_ms, (int, float)) else 0.0)


def _measure(one: tuple[str, float | str, str]) -> str:
    name, value, unit = one
    shown = f"{value:.4g}" if isinstance(value, float) else str(value)
    return f"{name} {shown}{' ' if unit else ''}{unit}"


class _Load:
    """The load's seconds, by phase."""

    def __init__(self, scenario: Scenario, history: History) -> None:
        self.outcome = Outcome()
        for operation in history.of(*load_checker.MARKS):
            self.outcome.take_record(operation.invoke)
            if operation.completion is not None:
                self.outcome.take_record(operation.completion)
        self._seconds = load_checker.seconds(history)
        least_share = scenario.load.least_share if scenario.load else 0.0
        self.shortfall = self.outcome.shortfall(least_share) if scenario.load else None

    def judge(self, look: LoadHolds, phase: Phase, times: Times) -> LookTold:
        """Over the window of the phase. Nothing due in it: inconclusive."""
        begin, end = _window(phase, times, look.within_s)
        count = bad = 0
        latency = Histogram()
        for host, at_ns, second in self._seconds:
            at = at_ns / 1e9
            if (look.hosts and host not in look.hosts) or at < begin or at + 1 > end:
                continue
            for kind in second.kinds:
                if not look.kinds or kind.f in look.kinds:
                    count += kind.ok + kind.fail + kind.info
                    bad += kind.fail + kind.info
                    latency.add_encoded(kind.latency)
        p99_ms = latency.quantile_ms(0.99)
        seen = f"{bad:,} of {count:,} failed" + ("" if p99_ms is None else f", p99 {p99_ms:.1f} ms")
        if not count:
            verdict = Verdict.INCONCLUSIVE
        elif (look.failed_share is not None and bad > look.failed_share * count) or (
            look.p99_ms is not None and (p99_ms is None or p99_ms > look.p99_ms)
        ):
            verdict = Verdict.FAIL
        else:
            verdict = Verdict.PASS
        return LookTold(
            phase=phase.value, what=str(look), verdict=verdict, within_s=look.within_s, seen=seen, looks=count
        )


def _window(phase: Phase, times: Times, within_s: float) -> tuple[float, float]:
    if phase is Phase.BEFORE:
        return 0.0, times.first_planned or 0.0
    if phase is Phase.DURING:
        if times.last_planned is None or times.first_healing is None:
            return 0.0, 0.0
        return times.last_planned + within_s, times.first_healing
    return (0.0, 0.0) if times.last_healed is None else (times.last_healed + within_s, times.end)
