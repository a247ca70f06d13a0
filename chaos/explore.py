"""Faults at random from a seed: which, on whom, when and how long.

The same seed, fleet and capabilities of the substrate give the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping

from chaos.admission import beyond_limits, overlap
from chaos.errors import BadFault, ChaosError
from chaos.fault import Radius, kind_of
from chaos.scenario import Load, Random, Scenario, Step, Value
from chaos.scenario_looks import Served
from chaos.stage import Stage

SHORTEST_S, LONGEST_S = 2.0, 6.0
APART_S = 3.0
"""From the end of one fault to the beginning of the next one in the same line."""
TRIES = 50
ALONE_SHARE = 0.7
"""How often a fault begins when the one before has ended; else it begins in the middle of it."""

Draw = Callable[[random.Random, Stage], dict[str, Value]]


def _agent(chance: random.Random, stage: Stage) -> str:
    return chance.choice([a.name for a in stage.fleet.agents if a.handler is not None])


def _worker(chance: random.Random, stage: Stage) -> str:
    return chance.choice([host.name for host in stage.fleet.workers])


def _way(chance: random.Random, stage: Stage) -> dict[str, Value]:
    host = _worker(chance, stage)
    return {"host": host, "to": chance.choice(sorted(stage.ways(host)))}


def _agent_target(chance: random.Random, stage: Stage) -> dict[str, Value]:
    return {"target": f"agent/{_agent(chance, stage)}"}


def _unit_target(chance: random.Random, stage: Stage) -> dict[str, Value]:
    units = [u for u in stage.plan.units if u.name not in ("toxiproxy", "alertmanager")]
    unit = chance.choice(units)
    return {"target": f"{unit.host}/{unit.name}"}


def _either_target(chance: random.Random, stage: Stage) -> dict[str, Value]:
    return (_agent_target if chance.random() < 0.6 else _unit_target)(chance, stage)


KINDS: Mapping[str, Draw] = {
    "process-kill": _either_target,
    "process-freeze": _agent_target,
    "process-restart": _agent_target,
    "agent-errors": lambda c, s: {"agent": _agent(c, s), "for_s": 6.0},
    "agent-slow": lambda c, s: {"agent": _agent(c, s), "for_s": 6.0},
    "link-latency": lambda c, s: {**_way(c, s), "latency_ms": c.choice((50, 150, 400))},
    "link-bandwidth": lambda c, s: {**_way(c, s), "rate_kb_s": c.choice((40, 120))},
    "link-down": _way,
    "link-timeout": _way,
    "database-errors": lambda c, s: {"host": _worker(c, s)},
    "cpu-burn": lambda c, s: {"host": _worker(c, s), "processes": 1},
    "host-kill": lambda c, s: {"host": _worker(c, s)},
    "host-freeze": lambda c, s: {"host": _worker(c, s)},
    "host-cut-off": lambda c, s: {"host": _worker(c, s)},
}
"""What may be drawn where the substrate can do it, and how its parameters are."""
HOST_KINDS = frozenset({"host-kill", "host-freeze", "host-cut-off"})


def draw_steps(wish: Random, stage: Stage, seed: int) -> tuple[Step, ...]:
    """Steps that fit the stack and its limits, one after another and sometimes into one another.

    Raises BadFault when no such fault can be drawn.
    """
    kinds = wish.faults or tuple(kind for kind in KINDS if not stage.lacks(kind_of(kind).needs))
    for kind in kinds:
        if kind not in KINDS:
            raise BadFault(f"random {kind!r}", "is not drawn at random", f"choose of {', '.join(KINDS)}")
    chance = random.Random(f"{seed}/steps")
    steps: list[Step] = []
    at_s = 0.0
    for _ in range(wish.count):
        if steps:
            last, end_s = steps[-1], max(step.end_s for step in steps)
            alone = any(s.fault in HOST_KINDS and s.end_s + APART_S > last.at_s for s in steps)
            whole = alone or chance.random() < ALONE_SHARE
            at_s = end_s + APART_S + 0.01 if whole else (last.at_s + last.end_s) / 2
        step = _drawn(chance, kinds, stage, steps, round(at_s, 2))
        steps.append(step)
    return tuple(steps)


def _drawn(
    chance: random.Random, kinds: tuple[str, ...], stage: Stage, others: list[Step], at_s: float
) -> Step:
    obstacle = "nothing fits"
    for _ in range(TRIES):
        kind = chance.choice(kinds)
        step = Step(
            fault=kind,
            with_=KINDS[kind](chance, stage),
            at_s=at_s,
            for_s=round(chance.uniform(SHORTEST_S, LONGEST_S), 2),
        )
        try:
            obstacle = _obstacle(step, stage, others)
        except ChaosError as error:
            obstacle = str(error)
        if not obstacle:
            return step
    raise BadFault(f"random faults of {', '.join(kinds)}", obstacle, "draw of more kinds, or fewer faults")


def _obstacle(step: Step, stage: Stage, others: list[Step]) -> str:
    fault = step.make()
    targets, radius = fault.targets(stage), fault.radius(stage)
    for other in others:
        if step.at_s < other.end_s + APART_S and other.at_s < step.end_s:
            theirs = other.make()
            if overlap(targets, theirs.targets(stage)) or HOST_KINDS & {step.fault, other.fault}:
                return f"{step.fault} and {other.fault} would overlap"
            radius = Radius.__or__(radius, theirs.radius(stage))
    return beyond_limits(stage, radius)


def with_steps(scenario: Scenario, stage: Stage, seed: int) -> Scenario:
    """The scenario with its random faults drawn; another one as it is."""
    import msgspec

    if scenario.random is None:
        return scenario
    steps = draw_steps(scenario.random, stage, seed)
    return msgspec.structs.replace(scenario, steps=steps, random=None)


def exploration(seed: int, budget_s: float) -> Scenario:
    """A scenario that breaks at random whatever may be broken, for about `budget_s`."""
    count = max(1, int(budget_s // ((SHORTEST_S + LONGEST_S) / 2 + APART_S + 2)))
    return Scenario(
        name=f"explore-{seed}",
        title=f"Whatever may be broken, at random from seed {seed}",
        expected="Whatever was broken, and in whichever order: when it is over every agent is served.",
        rows=("RL-1", "RL-7"),
        load=Load(least_share=0.0),
        random=Random(seed=seed, count=min(count, 500)),
        before=(Served(within_s=20),),
        after=(Served(within_s=90),),
    )
