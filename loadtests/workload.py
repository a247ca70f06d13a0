"""A workload as data: how fast, by how many users, and which operations in which proportion.

The files stand in `loadtests/workloads/`. `bodies` gives the methods that a call may use, best first; the
first one that the agent has is taken. `{n}` and `{agent}` in texts are filled in for each call.
"""

from __future__ import annotations

from enum import StrEnum
from importlib import resources
from pathlib import Path

import msgspec


class Operation(StrEnum):
    """What a user does: asks where an agent is, or calls it."""

    LOOK_UP = "look-up"
    CALL = "call"


class Task(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One kind of operation; `share` is its weight among all. `categories`: only agents of these."""

    operation: Operation
    share: float
    categories: tuple[str, ...] = ()
    bodies: dict[str, dict[str, str | int | float | bool]] = {}


class Workload(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Operations per second and users for each host; `timeout_s` bounds one call."""

    name: str
    per_s: float
    users: int
    timeout_s: float
    tasks: tuple[Task, ...]


class WorkloadError(Exception):
    """A workload that cannot be used: where, what, mend."""

    def __init__(self, where: str, what: str, mend: str) -> None:
        super().__init__(f"{where}: {what}; {mend}")
        self.where = where
        self.what = what
        self.mend = mend
        self.exit_status = 64


def load_workload(name: str = "reference") -> Workload:
    """The workload of that name, or in the file at that path. Raises WorkloadError."""
    folder = resources.files(__package__).joinpath("workloads")
    source = Path(name) if name.endswith((".yaml", ".yml")) else folder.joinpath(f"{name}.yaml")
    try:
        workload = msgspec.yaml.decode(source.read_bytes(), type=Workload)
    except OSError as error:
        raise WorkloadError(str(source), f"cannot be read ({error.strerror})", "name a workload") from error
    except msgspec.MsgspecError as error:
        raise WorkloadError(str(source), str(error), "mend that key") from error
    problem = _problem(workload)
    if problem is not None:
        raise WorkloadError(str(source), problem, "mend that figure")
    return workload


def _problem(workload: Workload) -> str | None:
    if workload.per_s <= 0 or workload.users <= 0 or workload.timeout_s <= 0:
        return "per_s, users and timeout_s must be above 0"
    if not workload.tasks or any(task.share <= 0 for task in workload.tasks):
        return "needs tasks, each with a share above 0"
    if any(task.operation is Operation.CALL and not task.bodies for task in workload.tasks):
        return "a call needs bodies"
    return None
