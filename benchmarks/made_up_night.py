"""A run's folder as a night leaves it, made up: the same arguments give the same bytes.

Plan, fleet, catalogue and scenarios are the product's own. Trials of every campaign stand in the history as
their probes write them, one after the other: about two thirds of the records are calls around faults of
agents, a quarter registers and calls through switch-overs and losses of hosts, the rest look-ups, signs of
life, registrations, the load's seconds, the night's own turns.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import msgspec

from benchmarks.made_up_records import Files, load_seconds
from benchmarks.made_up_scenarios import write_scenario
from benchmarks.made_up_trials import MS, S, Trials
from chaos.scenario import load_scenario, shipped
from infra.topology import load_fleet
from loadtests.instrument import ClockOffset
from loadtests.protocol import Answer, Calibration, Targets
from loadtests.workload import load_workload
from reports.model import Run, RunState, encode
from verification import night_campaigns, seal
from verification.catalogue import load_catalogue
from verification.night_log import ALL_DONE, SessionTold, TurnTold
from verification.night_plan import ordered, planned_scenario, scenario_piece
from verification.plan import FaultTrial, Load, RunPlan, SwitchTrial, make_plan
from verification.scenario_result import Result

FLEET = Path(__file__).parents[1] / "fleet.yaml"
WHOLE = 1_000_000
"""So many records are a night with all planned trials on agents and all switch-overs."""
STARTED, ENDED = "2026-01-31T01:00:00Z", "2026-01-31T02:30:00Z"
FAULTS_A_TURN = 90
BUDGET_S = 90 * 60.0
BETWEEN_NS = 12 * S
"""From turn to turn: the stack is brought home, probes and load are started anew."""


def write_night(folder: Path, records: int = WHOLE) -> int:
    """Fills `folder` with a finished night of about so many records; answers with how many there are."""
    plan = _plan()
    encoded = plan.encode()
    (folder / "history").mkdir()
    (folder / "plan.json").write_bytes(encoded)
    night = _Night(plan, folder, records)
    night.write()
    sealed = seal.make(folder)
    (folder / seal.FILE).write_bytes(sealed)
    run = Run(
        id=folder.name,
        started=STARTED,
        ended=ENDED,
        profile=plan.profile,
        environment="local",
        seed=plan.seed,
        plan_sha256=hashlib.sha256(encoded).hexdigest(),
        seal_sha256=hashlib.sha256(sealed).hexdigest(),
        state=RunState.FINISHED,
    )
    (folder / "run.json").write_bytes(encode(run))
    return night.files.written


def _plan() -> RunPlan:
    workload = load_workload("reference")
    plan = make_plan(
        profile="nightly",
        seed=1,
        fleet=load_fleet(FLEET),
        catalogue=load_catalogue(),
        load=Load(workload=workload.name, per_s=workload.per_s, users=workload.users),
        created=STARTED,
    )
    scenarios = tuple(planned_scenario(load_scenario(name)) for name in shipped())
    pieces = (*night_campaigns.pieces(plan), *map(scenario_piece, scenarios))
    return msgspec.structs.replace(plan, scenarios=scenarios, pieces=ordered(pieces), budget_s=BUDGET_S)


class _Night(Trials):
    """Writes campaign after campaign; `at` is the instant that it has come to."""

    def __init__(self, plan: RunPlan, folder: Path, records: int) -> None:
        super().__init__(plan, Files(folder / "history"))
        self.folder = folder
        self.records = records
        self.share = min(1.0, records / WHOLE)
        self.workload = load_workload(plan.load.workload)
        self.turns = 0

    def write(self) -> None:
        """The whole night."""
        begin = self.at
        told = SessionTold(budget_s=BUDGET_S)
        ended = msgspec.structs.replace(told, why=ALL_DONE)
        self._instruments()
        self._turn("census of names", self._census)
        self._turn("look-ups", self._look_ups, load=True)
        self._turn("first look-ups", self._first_look_ups, load=True)
        self._turn("registrations", self._registrations, load=True)
        self._turn("scraped agents", self._targets)
        self._turn("signs of life", self._signs)
        planned = [trial for trial in self.plan.faults if not trial.reserve]
        faults = planned[: round(len(planned) * self.share)]
        for first in range(0, len(faults), FAULTS_A_TURN):
            part = faults[first : first + FAULTS_A_TURN]
            self._turn("faults of agents", partial(self._faults, part), load=True)
        switches = self.plan.switches[: round(len(self.plan.switches) * self.share)]
        self._turn("switch-overs", partial(self._switches, switches))
        for scenario in map(load_scenario, shipped()):
            self.turns += 1
            place = f"scenarios/{self.turns:03d}-{scenario.name}"
            results, took_ns = write_scenario(self.folder / place, scenario, self.plan.hosts, self.at)
            self._told(scenario.name, self.at, self.at + took_ns, results, place)
            self.at += took_ns + BETWEEN_NS
        self._turn("losses of hosts", self._losses)
        self.files.pair("night", "night", "session", "night", None, begin, self.at, told, ended)
        self.files.flush()

    def _turn(self, piece: str, work: Callable[[], None], *, load: bool = False) -> None:
        self.turns += 1
        begin = self.at
        self.at += S
        work()
        self.at += S
        if load:
            for host in self.plan.hosts:
                load_seconds(self.files, f"load-{host}.{self.turns}", host, begin, self.at, self.workload)
        self.files.flush()
        self._told(piece, begin, self.at, (), None)
        self.at += BETWEEN_NS

    def _told(
        self, piece: str, begin: int, end: int, results: tuple[Result, ...], folder: str | None
    ) -> None:
        told = TurnTold(piece=piece, done=True, results=results, folder=folder)
        process = f"night-{self.turns}"
        self.files.pair("night", process, "turn", piece, None, begin, end, TurnTold(piece=piece), told)

    # Without faults.

    def _instruments(self) -> None:
        told = Calibration(
            clock_step_ns=50,
            wake_late_p50_ms=0.1,
            wake_late_p99_ms=0.4,
            wake_late_max_ms=1.0,
            samples=500,
        )
        offset = ClockOffset(offset_ns=0, error_ns=90_000, samples=15)
        for host in self.plan.hosts:
            for f, value in (("calibrate", told), ("clock-offset", offset)):
                self.files.pair("nemesis", f"{f}-{host}", f, host, host, self.at, self.at + S, None, value)
        self.at += S

    def _asked(self, f: str, names: Sequence[str], every_ns: int, took_us: float) -> None:
        for host in self.plan.hosts:
            at = self.at
            for name in names:
                took = int(took_us * 1000 * self.chance.lognormvariate(0.0, 0.3))
                answer = Answer(usable=1, age_ms=round(self.chance.random() * 50, 6))
                self.files.pair(f"probe-{host}", f"{f}-{host}", f, name, host, at, at + took, None, answer)
                at += every_ns
        self.at += len(names) * every_ns

    def _census(self) -> None:
        self._asked("census", [agent.name for agent in self.plan.agents], MS, 20.0)

    def _drawn(self, n: int) -> list[str]:
        names = [agent.name for agent in self.plan.agents]
        return [self.chance.choice(names) for _ in range(max(1, round(n * self.share)))]

    def _look_ups(self) -> None:
        self._asked("lookup", self._drawn(10_000), MS, 20.0)

    def _first_look_ups(self) -> None:
        self._asked("cold-lookup", self._drawn(299), 200 * MS, 9000.0)

    def _registrations(self) -> None:
        trials = self.plan.registrations
        for one in trials[: round(len(trials) * self.share)]:
            took = int(MS * self.chance.uniform(8, 40))
            for host, f, begin, end, value in (
                (one.other, "await", self.at, self.at + MS + took, Answer(usable=1)),
                (one.origin, "register", self.at + MS, self.at + 6 * MS, None),
                (one.origin, "deregister", self.at + 50 * MS, self.at + 56 * MS, None),
            ):
                process = f"{f}-{host}-{one.name}"
                self.files.pair(f"probe-{host}", process, f, one.name, host, begin, end, None, value)
            self.at += 150 * MS

    def _targets(self) -> None:
        up = Targets(up=tuple(agent.name for agent in self.plan.agents))
        for host in self.plan.hosts:
            self.files.pair(
                "prometheus", f"targets-{host}", "targets", host, host, self.at, self.at + MS, None, up
            )
        self.at += S

    def _signs(self) -> None:
        count = round(3000 * self.share)
        for host, peer in (self.plan.hosts, self.plan.hosts[::-1]):
            for i in range(count):
                at = self.at + i * 20 * MS
                took = int(MS * self.chance.uniform(0.4, 2.0))
                self.files.pair(f"probe-{host}", f"exchange-{host}", "exchange", peer, host, at, at + took)
        self.at += count * 20 * MS

    # With faults.

    def _faults(self, trials: Sequence[FaultTrial]) -> None:
        for trial in trials:
            self.fault(trial)

    def _switches(self, trials: Sequence[SwitchTrial]) -> None:
        for trial in trials:
            self.switch(trial)

    def _losses(self) -> None:
        """As many as it takes to have all records that were asked for."""
        for trial in self.plan.host_faults:
            if self.files.written >= self.records:
                return
            self.loss(trial)
