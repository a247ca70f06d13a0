"""Draws the operations of a workload: which kind, which agent, which body. Pure, decided by its seed."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import msgspec

from loadtests.workload import (
    Operation,
    Popularity,
    Side,
    Spread,
    Task,
    Via,
    Workload,
    WorkloadError,
)

Body = Mapping[str, str | int | float | bool]

KINDS: Mapping[tuple[Via, Operation], str] = {
    (Via.SDK, Operation.LOOK_UP): "load-lookup",
    (Via.SDK, Operation.CALL): "load-call",
    (Via.HTTP, Operation.LOOK_UP): "load-http-lookup",
    (Via.HTTP, Operation.CALL): "load-http-call",
}
"""The operation's name in the history."""
PAD = "threenines carries what it is given and says what it did. " * 20


class Known(msgspec.Struct, frozen=True):
    """What the load needs of an instance that may be asked."""

    name: str
    category: str = ""
    methods: tuple[str, ...] = ()
    host: str = ""
    role: str = "primary"


@dataclass(frozen=True, slots=True)
class Step:
    """One operation: `f` as in the history; a look-up has no method. `turn` counts the generator's draws."""

    f: str
    agent: str
    category: str = ""
    method: str = ""
    body: Body | None = None
    task: int = 0
    turn: int = 0
    size_bytes: int = 0


@dataclass(frozen=True, slots=True)
class _Choice:
    task: Task
    number: int
    agents: tuple[Known, ...]
    weights: tuple[float, ...]
    methods: tuple[str, ...]


class Mix:
    """The operations of one generator on `host`. Raises WorkloadError when a task has nobody to go to."""

    def __init__(
        self, workload: Workload, agents: Sequence[Known], host: str, chance: random.Random, source: str = ""
    ) -> None:
        self._workload = workload
        self._chance = chance
        self._after = random.Random(chance.random())  # what follows comes when it comes: it moves no draw
        self._turn = 0
        by_name = _once_each(agents)
        self._choices: list[_Choice] = []
        for number, task in enumerate(workload.tasks):
            if task.hosts and host not in task.hosts:
                continue
            self._choices.append(_choice(number, task, by_name, host, source or workload.name))
        if not self._choices:
            raise WorkloadError(
                source or workload.name, f"no task is for {host}", "add one, or start no generator there"
            )
        self._cumulated = list(itertools.accumulate(choice.task.share for choice in self._choices))

    def draw(self) -> Step:
        """The next operation."""
        self._turn += 1
        chosen = self._chance.choices(self._choices, cum_weights=self._cumulated)[0]
        return _step(chosen, self._turn, self._chance)

    def following(self, step: Step) -> Sequence[tuple[float, Step]]:
        """What the caller of `step` does after it: seconds of thinking and an operation, one by one."""
        choice = next(one for one in self._choices if one.number == step.task)
        task = choice.task
        return [
            (draw(task.think_s, self._after), _step(choice, step.turn, self._after))
            for _ in range(task.repeat)
        ]

    def repeats(self, step: Step) -> bool:
        """Whether anything follows it."""
        return self._workload.tasks[step.task].repeat > 0

    def think_s(self) -> float:
        """What a caller of a closed loop thinks before it asks again."""
        return draw(self._workload.think_s, self._chance)


def _step(choice: _Choice, turn: int, chance: random.Random) -> Step:
    at = chance.choices(range(len(choice.agents)), cum_weights=choice.weights)[0]
    agent, task = choice.agents[at], choice.task
    f = KINDS[task.via, task.operation]
    if task.operation is Operation.LOOK_UP:
        return Step(f, agent.name, agent.category, task=choice.number, turn=turn)
    method = choice.methods[at]
    size = round(draw(task.size_bytes, chance))
    body = filled(task.bodies[method], agent.name, turn, size)
    return Step(f, agent.name, agent.category, method, body, choice.number, turn, size)


def filled(body: Body, agent: str, turn: int, size_bytes: int) -> Body:
    """A body with `{n}`, `{agent}` and `{pad}` filled in."""
    pad = (PAD * (size_bytes // len(PAD) + 1))[:size_bytes] if size_bytes else ""
    return {
        key: value.format(n=turn, agent=agent, pad=pad) if isinstance(value, str) else value
        for key, value in body.items()
    }


def draw(spread: float | Spread, chance: random.Random) -> float:
    """One figure of those that it may be."""
    if not isinstance(spread, Spread):
        return spread
    if spread.median is None:
        return chance.uniform(spread.low, spread.high)
    return min(max(chance.lognormvariate(math.log(spread.median), spread.sigma), spread.low), spread.high)


def _once_each(agents: Sequence[Known]) -> dict[str, Known]:
    """By name, in its order; of several instances the one that serves as primary."""
    found: dict[str, Known] = {}
    for agent in sorted(agents, key=lambda one: (one.name, one.role != "primary", one.host)):
        found.setdefault(agent.name, agent)
    return found


def _choice(number: int, task: Task, agents: Mapping[str, Known], host: str, source: str) -> _Choice:
    where = f"{source}: task {number + 1}"
    for name in task.agents:
        if name not in agents:
            raise WorkloadError(
                where, f"the fleet has no agent {name}", "name one that `threenines status` shows"
            )
    found = [agent for agent in agents.values() if _may_go_to(task, agent, host)]
    methods = [next((name for name in task.bodies if name in agent.methods), "") for agent in found]
    if task.operation is Operation.CALL:
        pairs = [(agent, method) for agent, method in zip(found, methods, strict=True) if method]
        found, methods = [agent for agent, _ in pairs], [method for _, method in pairs]
    if not found:
        raise WorkloadError(
            where,
            f"no agent fits its categories, agents, side and bodies on {host}",
            "mend the task, or give it the `hosts` that it is for",
        )
    each = [1.0 if task.popularity is Popularity.UNIFORM else 1.0 / rank for rank in range(1, len(found) + 1)]
    return _Choice(task, number, tuple(found), tuple(itertools.accumulate(each)), tuple(methods))


def _may_go_to(task: Task, agent: Known, host: str) -> bool:
    if task.agents and agent.name not in task.agents:
        return False
    if task.categories and agent.category not in task.categories:
        return False
    return task.side is Side.ANY or (agent.host == host) is (task.side is Side.SAME)
