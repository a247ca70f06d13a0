"""What a run will do, fixed and hashed before its first trial: populations, sample sizes, seed, order.

`plan.json` is the report's `Plan` with what the judge needs beside it: the catalogue as it stood, the hosts
and agents of the run, and the schedule of trials. A stored run is judged by its own plan alone.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from infra.topology import AgentSpec, Fleet, HostRole
from reports import model
from verification.catalogue import Catalogue, CatalogueEntry, Estimator, ProfilePlan
from verification.errors import HarnessError
from verification.kinds import AGENT_FAULTS, BETWEEN_HOSTS, KINDS, LOSSES, fault_text, wanted
from verification.night_plan import Piece

PLAN_FILE = "plan.json"
RESERVE_SHARE = 0.15
"""Fault trials kept in reserve for those that turn out void, as a share of those planned."""


REGISTER_AGENTS = 6
CALLS_PER_SWITCH = 300
"""Calls, writes and reads that meet a domain's way to the other host and back, at least."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """An agent of the run. `faults`: whether trials may break it."""

    name: str
    home: str
    criticality: str
    depends_on: tuple[str, ...] = ()
    faults: bool = True
    standby: str | None = None


class FaultTrial(msgspec.Struct, frozen=True, kw_only=True):
    """One fault on one agent. Those in reserve run in place of a void one of the same kind, or where a
    sequential plan wants its next stage."""

    id: str
    fault: str
    agent: str
    home: str
    reserve: bool = False


class HostTrial(msgspec.Struct, frozen=True, kw_only=True):
    """One fault on a whole host, or on the links and members between hosts.

    The victim is not named: it is the worker that serves most agents when the trial begins, so that the one
    that was lost in a trial stands by in the next. `reserve` as of a FaultTrial.
    """

    id: str
    fault: str
    reserve: bool = False


class SwitchTrial(msgspec.Struct, frozen=True, kw_only=True):
    """One planned switch-over of a domain to the other worker and back."""

    id: str
    home: str


class RegistrationTrial(msgspec.Struct, frozen=True, kw_only=True):
    """One registration on `origin`, awaited on `other`."""

    id: str
    name: str
    origin: str
    other: str


class Load(msgspec.Struct, frozen=True, kw_only=True):
    """The load that runs meanwhile, for each host; under `least_share` of its planned arrivals, what
    needs it is void."""

    workload: str
    per_s: float
    users: int
    least_share: float = 0.95


class RunPlan(model.Plan, frozen=True, kw_only=True):
    """`plan.json` in full."""

    hosts: tuple[str, ...]
    agents: tuple[Member, ...]
    load: Load
    catalogue: Catalogue
    faults: tuple[FaultTrial, ...] = ()
    registrations: tuple[RegistrationTrial, ...] = ()
    host_faults: tuple[HostTrial, ...] = ()
    switches: tuple[SwitchTrial, ...] = ()
    witness: str | None = None
    registers: tuple[str, ...] = ()
    """Agents whose registers are written and read through faults on hosts."""
    pieces: tuple[Piece, ...] = ()
    """Of a night: its campaigns and scenarios, the most informative first."""
    budget_s: float | None = None
    """Of a night: how long one session may take."""

    def member(self, name: str) -> Member:
        """The agent of that name. Raises KeyError."""
        for agent in self.agents:
            if agent.name == name:
                return agent
        raise KeyError(name)

    def rule(self, criterion_id: str) -> ProfilePlan:
        """What this run plans for a criterion. Raises KeyError."""
        return self.catalogue.entry(criterion_id).plans[self.profile]

    def plans(self, criterion_id: str) -> bool:
        """Whether this run plans it."""
        return any(planned.id == criterion_id for planned in self.criteria)


class PlanError(HarnessError):
    """A plan that cannot be made or read: where, what, mend."""


def make_plan(
    *, profile: str, seed: int, fleet: Fleet, catalogue: Catalogue, load: Load, created: str | None
) -> RunPlan:
    """The plan of a run. The same arguments give the same plan. Raises PlanError."""
    planned = catalogue.planned(profile)
    if not planned:
        raise PlanError(
            f"profile {profile}",
            "nothing is planned for it in this version",
            f"use one of: {', '.join(catalogue.profiles)}",
        )
    hosts = tuple(host.name for host in fleet.workers)
    agents = tuple(_member(agent) for agent in fleet.agents)
    chance = random.Random(f"{seed}/plan")
    between = random.Random(f"{seed}/hosts")
    host_faults = _host_order(planned, hosts, between)
    switches = _switch_order(planned, hosts, between)
    return RunPlan(
        profile=profile,
        seed=seed,
        categories=catalogue.categories,
        criteria=tuple(
            _criterion(catalogue.entry(name), plan, hosts, agents, load) for name, plan in planned.items()
        ),
        created=created,
        hosts=hosts,
        agents=agents,
        load=load,
        catalogue=catalogue,
        faults=_fault_order(planned, agents, chance),
        registrations=_registration_order(planned, hosts, chance, seed),
        host_faults=host_faults,
        switches=switches,
        witness=next((host.name for host in fleet.hosts if host.role is HostRole.WITNESS), None),
        registers=_register_agents(agents, between) if host_faults or switches else (),
    )


def read_plan(run_folder: Path) -> tuple[RunPlan, str]:
    """The plan of a stored run, and the SHA-256 of its file. Raises PlanError."""
    import hashlib

    path = run_folder / PLAN_FILE
    try:
        data = path.read_bytes()
        return msgspec.json.decode(data, type=RunPlan), hashlib.sha256(data).hexdigest()
    except OSError as error:
        raise PlanError(str(path), f"cannot be read ({error.strerror})", "name a run's folder") from error
    except msgspec.MsgspecError as error:
        raise PlanError(
            str(path), f"is no plan of this version ({error})", "judge it with the version that wrote it"
        ) from error


def touches(plan: RunPlan, one: str, other: str) -> bool:
    """Whether a fault on `one` can disturb a trial on `other`: the same, or one needs the other."""
    return one == other or one in _needs(plan, other) or other in _needs(plan, one)


def _needs(plan: RunPlan, name: str) -> frozenset[str]:
    by_name = {agent.name: agent for agent in plan.agents}
    found: set[str] = set()
    stack = [name]
    while stack:
        for needed in by_name[stack.pop()].depends_on:
            if needed not in found and needed in by_name:
                found.add(needed)
                stack.append(needed)
    return frozenset(found)


def _member(agent: AgentSpec) -> Member:
    return Member(
        name=agent.name,
        home=agent.home,
        criticality=agent.criticality.value,
        depends_on=agent.depends_on,
        faults=agent.handler is not None,
        standby=agent.standby,
    )


def _criterion(
    entry: CatalogueEntry, plan: ProfilePlan, hosts: Sequence[str], agents: Sequence[Member], load: Load
) -> model.PlannedCriterion:
    entry, blocks = entry.as_planned(plan), 1
    for block in plan.blocks:
        blocks *= {"host": len(hosts), "fault": len(KINDS.get(entry.id, ("one",)))}[block]
    each = len(agents) if entry.estimator is Estimator.CENSUS else plan.n
    n = None if each is None else each * blocks
    return model.PlannedCriterion(
        id=entry.id,
        claim=entry.claim,
        population=plan.population,
        method=entry.method or "",
        n=n,
        allowed_exceedances=_allowed(entry, plan),
        coverage=plan.coverage,
        confidence=plan.confidence,
        statistic=entry.statistic,
        stages=tuple(
            model.Stage(n=stage.n, passes_at=stage.pass_at_most, fails_at=stage.fail_from)
            for stage in plan.stages
        ),
        alpha=None if plan.confidence is None else round(1.0 - plan.confidence, 12),
        beta=None if plan.confidence is None else plan.beta,
        error_shared=_sharing(entry, plan, blocks),
        workload=f"{load.workload}, {load.per_s:g} operations/s on each host" if plan.needs_load else None,
        fault=fault_text(entry.id),
    )


def _sharing(entry: CatalogueEntry, plan: ProfilePlan, blocks: int) -> str | None:
    """How several blocks share one error; None where there is but one."""
    if blocks < 2 or not plan.blocks:
        return None
    return f"each of {blocks} blocks has to pass with all of it, so that the whole errs no more often"


def _allowed(entry: CatalogueEntry, plan: ProfilePlan) -> int | None:
    if plan.stages:
        return plan.stages[0].pass_at_most
    if entry.estimator is Estimator.QUANTILE and plan.n and plan.coverage and plan.confidence:
        from verification.statistics import allowed_exceedances

        return allowed_exceedances(plan.n, plan.coverage, plan.confidence)
    return 0 if entry.estimator in {Estimator.CENSUS, Estimator.RATE} else None


def _fault_order(
    planned: Mapping[str, ProfilePlan], agents: Sequence[Member], chance: random.Random
) -> tuple[FaultTrial, ...]:
    population = [agent for agent in agents if agent.faults]
    trials: list[FaultTrial] = []
    reserve: list[FaultTrial] = []
    needed, limits = wanted(planned), wanted(planned, at_most=True)
    for fault in AGENT_FAULTS:
        n = needed.get(fault, 0)
        if n == 0 or not population:
            continue
        most = limits[fault]
        spare = max(3, round(most * RESERVE_SHARE))
        for number, agent in enumerate(_drawn(population, most + spare, chance)):
            trial = FaultTrial(
                id=f"{fault}-{number:03d}",
                fault=fault,
                agent=agent.name,
                home=agent.home,
                reserve=number >= n,
            )
            (reserve if trial.reserve else trials).append(trial)
    chance.shuffle(trials)
    return (*trials, *reserve)


def _host_order(
    planned: Mapping[str, ProfilePlan], hosts: Sequence[str], chance: random.Random
) -> tuple[HostTrial, ...]:
    """Kinds in random order within rounds, so that every stretch of the run holds them in proportion."""
    if len(hosts) < 2:
        return ()
    placed: list[tuple[float, HostTrial]] = []
    reserve: list[HostTrial] = []
    needed = wanted(planned)
    for fault in BETWEEN_HOSTS:
        n = needed.get(fault, 0)
        spare = max(2, round(n * RESERVE_SHARE)) if n and fault in LOSSES else 0
        offset = chance.random()
        for number in range(n + spare):
            trial = HostTrial(id=f"{fault}-{number:03d}", fault=fault, reserve=number >= n)
            if trial.reserve:
                reserve.append(trial)
            else:
                placed.append(((number + offset) / n, trial))
    placed.sort(key=lambda item: item[0])
    return (*(trial for _, trial in placed), *reserve)


def _switch_order(
    planned: Mapping[str, ProfilePlan], hosts: Sequence[str], chance: random.Random
) -> tuple[SwitchTrial, ...]:
    plan = planned.get("RL-7.switchover")
    n = 0 if plan is None or len(hosts) < 2 else math.ceil((plan.n or 1) / CALLS_PER_SWITCH)
    homes = [hosts[i % len(hosts)] for i in range(n)]
    chance.shuffle(homes)
    return tuple(SwitchTrial(id=f"switchover-{i:03d}", home=home) for i, home in enumerate(homes))


def _register_agents(agents: Sequence[Member], chance: random.Random) -> tuple[str, ...]:
    """Agents that another host can take over, in proportion to home and criticality."""
    population = [agent for agent in agents if agent.faults and agent.standby is not None]
    return tuple(agent.name for agent in _drawn(population, min(REGISTER_AGENTS, len(population)), chance))


def _drawn(population: Sequence[Member], n: int, chance: random.Random) -> list[Member]:
    """`n` agents at random, blocked by host and criticality: every stretch holds the blocks in proportion."""
    drawn: list[Member] = []
    while population and len(drawn) < n:
        strata: dict[tuple[str, str], list[Member]] = {}
        for agent in population:
            strata.setdefault((agent.home, agent.criticality), []).append(agent)
        placed: list[tuple[float, Member]] = []
        for members in strata.values():
            chance.shuffle(members)
            offset = chance.random()
            placed.extend(((i + offset) / len(members), agent) for i, agent in enumerate(members))
        placed.sort(key=lambda item: item[0])
        drawn.extend(agent for _, agent in placed)
    return drawn[:n]


def _registration_order(
    planned: Mapping[str, ProfilePlan], hosts: Sequence[str], chance: random.Random, seed: int
) -> tuple[RegistrationTrial, ...]:
    if "SD-4" not in planned or len(hosts) < 2:
        return ()
    n = planned["SD-4"].n or 0
    ways = [(a, b) for a in hosts for b in hosts if a != b]
    order = [ways[i % len(ways)] for i in range(n)]
    chance.shuffle(order)
    return tuple(
        RegistrationTrial(
            id=f"registration-{i:03d}", name=f"probe-{seed % 100000}-{i:03d}", origin=origin, other=other
        )
        for i, (origin, other) in enumerate(order)
    )
