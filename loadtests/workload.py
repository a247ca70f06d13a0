"""A workload as data: how fast, in which shape, by how many users, which operations in which proportion.

The files stand in `loadtests/workloads/` and are described in `docs/load.md`. A name without an ending is one
of them, `*.yaml` a file of the same form, `*.jsonl` a recorded history made ready by `loadtests.replay`.
"""

from __future__ import annotations

import math
from enum import StrEnum
from importlib import resources
from pathlib import Path
from typing import Annotated

import msgspec

from loadtests.schedule import Arrivals, Profile, profile_of
from loadtests.shapes import Shape, Steady

MAX_BODY_BYTES = 1 << 20
FRACTION = Annotated[float, msgspec.Meta(gt=0)]


class Operation(StrEnum):
    """What a user does: asks where an agent is, or calls it."""

    LOOK_UP = "look-up"
    CALL = "call"


class Via(StrEnum):
    """By which way: the agents' client, or the HTTP API of the host's daemon."""

    SDK = "sdk"
    HTTP = "http"


class Side(StrEnum):
    """Whom: agents that are at home on the caller's host, on another one, or on any."""

    ANY = "any"
    SAME = "same"
    OTHER = "other"


class Loop(StrEnum):
    """Open: operations are due by a schedule. Closed: a user asks, waits for the answer, thinks, asks on."""

    OPEN = "open"
    CLOSED = "closed"


class Popularity(StrEnum):
    """All agents alike, or few of them much more often (Zipf's law, in the order of their names)."""

    UNIFORM = "uniform"
    ZIPF = "zipf"


class Spread(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A figure that varies: evenly from `low` to `high`; with `median`, log-normal within them.

    `sigma` is the standard deviation of its logarithm.
    """

    low: float
    high: float
    median: float | None = None
    sigma: float = 1.0


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One kind of operation; `share` is its weight among all.

    Who calls: generators on `hosts` (empty: all). Whom: agents of these `categories` and of these `agents`
    (empty: all), at home on this `side`. `bodies` gives the methods that a call may use, best first; the
    first one that the agent has is taken. `{n}`, `{agent}` and `{pad}` in texts are filled in; `{pad}` is
    `size_bytes` of text.
    `repeat` more operations of the same caller follow, each `think_s` after the answer to the one before.
    """

    operation: Operation
    share: FRACTION
    via: Via = Via.SDK
    hosts: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    agents: tuple[str, ...] = ()
    side: Side = Side.ANY
    popularity: Popularity = Popularity.UNIFORM
    bodies: dict[str, dict[str, str | int | float | bool]] = {}
    size_bytes: float | Spread = 0
    repeat: Annotated[int, msgspec.Meta(ge=0, le=1000)] = 0
    think_s: float | Spread = 0.0


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Operations per second (at share 1 of the shape) and users for each host; `timeout_s` bounds one call.

    With an open loop `users` is how many operations may be under way at once. With a closed one it is the
    number of callers, `think_s` is what they think between, and `per_s` the rate that is expected of them.
    A generator that begins operations later than `late_limit_ms` (p99) says so.
    """

    name: str
    per_s: FRACTION
    users: Annotated[int, msgspec.Meta(gt=0)]
    timeout_s: FRACTION
    tasks: tuple[Task, ...] = ()
    loop: Loop = Loop.OPEN
    arrivals: Arrivals = Arrivals.CONSTANT
    shape: Shape = Steady()
    think_s: float | Spread = 0.0
    late_limit_ms: FRACTION = 5.0
    replay: str | None = None
    description: str = ""

    @property
    def profile(self) -> Profile:
        """The rate of one host over time."""
        return profile_of(self.shape.corners(), self.per_s, repeats=self.shape.repeats)


class WorkloadError(Exception):
    """A workload that cannot be used: where, what, mend."""

    def __init__(self, where: str, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}; {mend}")
        self.where = where
        self.what = what
        self.mend = mend
        self.exit_status = 64


def shipped() -> tuple[str, ...]:
    """Names of the workloads that come with the product."""
    folder = resources.files(__package__).joinpath("workloads")
    return tuple(
        sorted(one.name.removesuffix(".yaml") for one in folder.iterdir() if one.name.endswith(".yaml"))
    )


def load_workload(name: str = "reference") -> Workload:
    """The workload of that name, or in the file at that path. Raises WorkloadError."""
    if name.endswith(".jsonl"):
        from loadtests.replay import replayed_workload

        return replayed_workload(Path(name))
    folder = resources.files(__package__).joinpath("workloads")
    is_file = name.endswith((".yaml", ".yml"))
    source = Path(name) if is_file else folder.joinpath(f"{name}.yaml")
    try:
        workload = msgspec.yaml.decode(source.read_bytes(), type=Workload)
    except OSError as error:
        mend = "name a file that can be read" if is_file else f"name a file, or one of {', '.join(shipped())}"
        raise WorkloadError(str(source), f"cannot be read ({error.strerror})", mend) from error
    except msgspec.MsgspecError as error:
        raise WorkloadError(str(source), " ".join(str(error).split()), "mend that key") from error
    problem = _problem(workload)
    if problem is not None:
        raise WorkloadError(str(source), *problem)
    return workload


def _problem(workload: Workload) -> tuple[str, str] | None:
    """What is wrong and how to mend it."""
    if not _finite(msgspec.to_builtins(workload)):
        return "a figure is not finite", "write a number"
    if workload.replay is not None:
        return "replay is not for files of this kind", "name the *.jsonl itself as the workload"
    if not workload.tasks:
        return "needs tasks, each with a share above 0", "add one"
    if (wrong := workload.shape.problem()) is not None:
        return f"shape: {wrong}", "mend that figure"
    if (wrong := _spread_problem(workload.think_s, "think_s", 3600.0)) is not None:
        return wrong, "mend that figure"
    if workload.loop is Loop.CLOSED and not isinstance(workload.shape, Steady):
        return "a closed loop has no shape: its callers set the rate", "make it steady, or the loop open"
    for number, task in enumerate(workload.tasks, 1):
        if (wrong := _task_problem(task)) is not None:
            return f"task {number}: {wrong}", "mend that key"
    return None


def _task_problem(task: Task) -> str | None:
    if task.operation is Operation.CALL and not task.bodies:
        return "a call needs bodies"
    if task.operation is Operation.LOOK_UP and task.bodies:
        return "a look-up has no bodies"
    for method, body in task.bodies.items():
        for key, value in body.items():
            if isinstance(value, str):
                try:
                    value.format(n=1, agent="a", pad="")
                except (KeyError, IndexError, ValueError, AttributeError):
                    return f"bodies.{method}.{key}: only {{n}}, {{agent}} and {{pad}} can be filled in"
    return _spread_problem(task.size_bytes, "size_bytes", MAX_BODY_BYTES) or _spread_problem(
        task.think_s, "think_s", 3600.0
    )


def _finite(value: object) -> bool:
    if isinstance(value, dict):
        return all(_finite(one) for one in value.values())
    if isinstance(value, (list, tuple)):
        return all(_finite(one) for one in value)
    return not isinstance(value, float) or math.isfinite(value)


def _spread_problem(spread: float | Spread, name: str, most: float) -> str | None:
    if not isinstance(spread, Spread):
        return None if 0 <= spread <= most else f"{name} must be from 0 to {most:g}"
    if not 0 <= spread.low <= spread.high <= most:
        return f"{name}: 0 <= low <= high <= {most:g} must hold"
    if spread.median is not None and not (spread.low <= spread.median <= spread.high and spread.median > 0):
        return f"{name}: the median must be above 0, from low to high"
    return None if spread.sigma > 0 else f"{name}: sigma must be above 0"
