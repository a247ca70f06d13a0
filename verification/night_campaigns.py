"""The campaigns of a night: what each tells, what is left of it, one turn of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from verification import night_trials
from verification.campaigns import discovery, exchange, monitoring, registration
from verification.campaigns.bench import Bench
from verification.campaigns.faults import Faults
from verification.campaigns.hosts import HostTrials
from verification.campaigns.switches import SwitchOvers
from verification.history import History
from verification.kinds import AGENT_FAULTS, BETWEEN_HOSTS, KINDS
from verification.night_log import Turn, read_log
from verification.night_plan import Kind, Piece
from verification.plan import RunPlan
from verification.runner import HOST_TIMEOUT_S, fault_timeout_s

REGISTRATIONS_A_TURN = 150
FAULTS_A_TURN = 250
SWITCHES_A_TURN = 50
HOSTS_A_TURN = 46
"""Turns are long: each has probes, load and a guard of its own to start, and the fleet to bring home."""
ONE_AT_A_TIME = 1
"""A night has the time to measure each fault of an agent by itself: what it proves is a p99."""
MOST_MORE_TURNS = 12
"""So many turns a campaign may take for void trials, next stages and ends of budgets, so that it ends."""
LEAST_TRIALS = 8
"""With less than the time of so many trials left, a turn is not worth its start."""


@dataclass(frozen=True)
class Campaign:
    """A campaign. `turn_s`: how long a turn takes beside its trials, `trial_s`: how long each of those takes,
    roughly, on two cores; `trials`: how many are planned, `a_turn`: how many a turn has at most.

    `part`: the plan of its next turn, from what the log and, when asked, the whole history tell; None:
    nothing is left. Without `part` it has a single turn. `run` gets the bench of that part, and the plan.
    """

    name: str
    turn_s: float
    load: bool
    tells: Callable[[RunPlan], tuple[str, ...]]
    run: Callable[[Bench, RunPlan], Awaitable[None]]
    part: Callable[[RunPlan, History, Callable[[], History]], RunPlan | None] | None = None
    trials: Callable[[RunPlan], int] = lambda _plan: 0
    trial_s: float = 0.0
    a_turn: int = 1

    def turns(self, plan: RunPlan) -> int:
        """How many turns its planned trials take."""
        return max(1, -(-self.trials(plan) // self.a_turn))

    def piece(self, plan: RunPlan) -> Piece:
        """The same as a piece of a night."""
        trials = self.trials(plan)
        return Piece(
            name=self.name,
            kind=Kind.CAMPAIGN,
            tells=self.tells(plan),
            about_s=self.turns(plan) * self.turn_s + trials * self.trial_s,
            least_s=self.turn_s + min(trials, LEAST_TRIALS) * self.trial_s,
        )


def campaigns(plan: RunPlan) -> tuple[Campaign, ...]:
    """Those that tell something that the plan names."""
    return tuple(one for one in _ALL if one.tells(plan))


def pieces(plan: RunPlan) -> tuple[Piece, ...]:
    """The same as pieces of a night."""
    return tuple(one.piece(plan) for one in campaigns(plan))


def named(name: str) -> Campaign:
    """The campaign of that name. Raises KeyError."""
    for one in _ALL:
        if one.name == name:
            return one
    raise KeyError(name)


def next_part(campaign: Campaign, plan: RunPlan, folder: Path, turns: tuple[Turn, ...]) -> RunPlan | None:
    """The plan of its next turn; None: it is done. Raises HistoryError."""
    mine = [turn for turn in turns if turn.piece == campaign.name and turn.told is not None]
    if any(turn.told is not None and turn.told.done for turn in mine):
        return None
    if campaign.part is None:
        return plan
    log = read_log(folder)
    if campaign.name == REGISTRATIONS:
        log = History.read(folder, leave_out="load-*.jsonl")
    if len(mine) >= campaign.turns(plan) + MOST_MORE_TURNS:
        return None
    return campaign.part(plan, log, lambda: History.read(folder, leave_out="load-*.jsonl"))


REGISTRATIONS, AGENTS, SWITCHES, HOSTS = (
    "registrations",
    "faults of agents",
    "switch-overs",
    "losses of hosts",
)


def _ids(*names: str) -> Callable[[RunPlan], tuple[str, ...]]:
    return lambda plan: tuple(planned.id for planned in plan.criteria if planned.id in names)


def _about(kinds: tuple[str, ...], *names: str) -> Callable[[RunPlan], tuple[str, ...]]:
    return lambda plan: tuple(
        planned.id
        for planned in plan.criteria
        if planned.id in names or set(KINDS.get(planned.id, ())) & set(kinds)
    )


def _rule_n(plan: RunPlan, name: str) -> int:
    return plan.rule(name).n or 0


async def _warm(bench: Bench, _plan: RunPlan) -> None:
    await discovery.warm(bench, _rule_n(bench.plan, "SD-2"))


async def _cold(bench: Bench, _plan: RunPlan) -> None:
    rule = bench.plan.rule("SD-2.cold")
    await discovery.cold(bench, rule.n or 0, rule.timeout_s or 5.0)


async def _registrations(bench: Bench, _plan: RunPlan) -> None:
    await registration.propagate(bench, bench.plan.rule("SD-4").timeout_s or 5.0)


async def _signs(bench: Bench, _plan: RunPlan) -> None:
    await exchange.signs_of_life(bench, _rule_n(bench.plan, "RK-3"))


def _left_registrations(plan: RunPlan, log: History, _whole: Callable[[], History]) -> RunPlan | None:
    left = night_trials.registrations_left(plan, log)[:REGISTRATIONS_A_TURN]
    return msgspec.structs.replace(plan, registrations=left) if left else None


def _left_faults(plan: RunPlan, log: History, whole: Callable[[], History]) -> RunPlan | None:
    """Without criteria: which trials a next stage wants is decided here, between turns."""
    done = night_trials.begun(log)
    left = night_trials.faults_left(plan.faults, done)
    if not left:
        more = _wanted(plan, whole, AGENT_FAULTS)
        left = night_trials.faults_left(plan.faults, done, more) if more else ()
    return msgspec.structs.replace(plan, faults=left[:FAULTS_A_TURN], criteria=()) if left else None


def _left_hosts(plan: RunPlan, log: History, whole: Callable[[], History]) -> RunPlan | None:
    done = night_trials.begun(log)
    left = night_trials.faults_left(plan.host_faults, done)
    if not left:
        more = _wanted(plan, whole, BETWEEN_HOSTS)
        left = night_trials.faults_left(plan.host_faults, done, more) if more else ()
    return msgspec.structs.replace(plan, host_faults=left[:HOSTS_A_TURN]) if left else None


def _left_switches(plan: RunPlan, log: History, _whole: Callable[[], History]) -> RunPlan | None:
    left = night_trials.switches_left(plan, night_trials.begun(log))[:SWITCHES_A_TURN]
    return msgspec.structs.replace(plan, switches=left) if left else None


def _wanted(plan: RunPlan, whole: Callable[[], History], kinds: tuple[str, ...]) -> Mapping[str, int]:
    return night_trials.more_wanted(plan, whole(), kinds)


_ALL = (
    Campaign("census of names", 15.0, False, _ids("SD-1"), lambda bench, _: discovery.census(bench)),
    Campaign("look-ups", 45.0, True, _ids("SD-2", "SD-2.mean", "SD-3.run"), _warm),
    Campaign("first look-ups", 75.0, True, _ids("SD-2.cold"), _cold),
    Campaign(
        REGISTRATIONS,
        15.0,
        True,
        _ids("SD-4"),
        _registrations,
        _left_registrations,
        trials=lambda plan: len(plan.registrations),
        trial_s=0.1,
        a_turn=REGISTRATIONS_A_TURN,
    ),
    Campaign(
        AGENTS,
        15.0,
        True,
        _about(AGENT_FAULTS, "RL-8"),
        lambda bench, plan: Faults(bench, fault_timeout_s(plan), ONE_AT_A_TIME).run(),
        _left_faults,
        trials=lambda plan: sum(not trial.reserve for trial in plan.faults),
        trial_s=0.7,
        a_turn=FAULTS_A_TURN,
    ),
    Campaign("scraped agents", 30.0, False, _ids("OB-1.targets"), lambda bench, _: monitoring.targets(bench)),
    Campaign("signs of life", 45.0, False, _ids("RK-3"), _signs),
    Campaign(
        SWITCHES,
        12.0,
        False,
        _ids("RL-7.switchover", "RL-8.owners", "RL-8.writes", "RL-8.linearizable"),
        lambda bench, _: SwitchOvers(bench).run(),
        _left_switches,
        trials=lambda plan: len(plan.switches),
        trial_s=2.5,
        a_turn=SWITCHES_A_TURN,
    ),
    Campaign(
        HOSTS,
        12.0,
        False,
        _about(
            BETWEEN_HOSTS,
            *("RK-3.loss", "RL-1.projected", "RL-8", "RL-8.owners", "RL-8.writes", "RL-8.linearizable"),
        ),
        lambda bench, _: HostTrials(bench, HOST_TIMEOUT_S).run(),
        _left_hosts,
        trials=lambda plan: sum(not trial.reserve for trial in plan.host_faults),
        trial_s=5.5,
        a_turn=HOSTS_A_TURN,
    ),
)


def with_part(bench: Bench, part: RunPlan) -> Bench:
    """The bench for one turn: the same, with a part of the plan."""
    return dataclasses.replace(bench, plan=part)
