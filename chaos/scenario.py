"""A scenario: topology, load, faults in time or at random, what must hold, the outcome expected beforehand.

The files stand in `chaos/scenarios/`; `docs/scenarios.md` describes every key. A name is one of them, a path
that ends with `.yaml` a file of the same form.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from chaos.admission import overlap
from chaos.errors import BadFault
from chaos.fault import Fault, kind_of
from chaos.parameters import make_fault
from chaos.scenario_looks import AnyLook, LoadHolds
from chaos.stage import Stage
from infra.substrates.base import Capability

SCHEMA = "threenines.scenario/1"
_ROW = re.compile(r"(SD|PF|OB|RL|RK|VR|EV)-[0-9]+")
Value = str | int | float | bool


class ScenarioError(BadFault):
    """A scenario that cannot be meant. Nothing was done."""


class Step(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One fault: when it begins, counted from the beginning of the disturbance, and how long it lasts."""

    fault: str
    with_: dict[str, Value] = msgspec.field(default={}, name="with")
    at_s: Annotated[float, Meta(ge=0, le=3600)] = 0.0
    for_s: Annotated[float, Meta(gt=0, le=3600)] = 5.0

    @property
    def end_s(self) -> float:
        """When it ends."""
        return self.at_s + self.for_s

    def make(self) -> Fault:
        """The fault itself. Raises BadFault."""
        return make_fault(self.fault, self.with_)


class Random(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Faults at random in place of steps: `count` of them, of these kinds (empty: of all that fit)."""

    seed: Annotated[int, Meta(ge=0)]
    count: Annotated[int, Meta(ge=1, le=500)] = 5
    faults: tuple[str, ...] = ()


class Load(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The load meanwhile: a workload of `loadtests`, and the hosts on which its generators run (empty: all).

    A host that a fault stops stops its generators as well: leave it out.
    """

    workload: str = "reference"
    hosts: tuple[str, ...] = ()
    least_share: Annotated[float, Meta(ge=0, le=1)] = 0.95


class Topology(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What the stack must have for the scenario to mean anything."""

    workers: Annotated[int, Meta(ge=1)] = 2
    agents: Annotated[int, Meta(ge=1)] = 1
    failover: bool = False


class Design(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Several factors at once, by a Latin square: each level of each meets each level of every other once.

    As many workloads as levels of `rows` and of `columns`; a level is the steps that are on, empty for none.
    """

    workloads: tuple[str, ...]
    rows: dict[str, tuple[Step, ...]]
    columns: dict[str, tuple[Step, ...]]


class Scenario(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One scenario. `expected` says beforehand what will be seen; `rows` are the criteria it exercises."""

    name: Annotated[str, Meta(pattern="^[a-z][a-z0-9-]{0,62}$")]
    title: str
    expected: Annotated[str, Meta(min_length=20)]
    rows: tuple[str, ...]
    schema: str = SCHEMA
    topology: Topology = Topology()
    load: Load | None = Load()
    steps: tuple[Step, ...] = ()
    random: Random | None = None
    design: Design | None = None
    calm_s: Annotated[float, Meta(ge=0, le=600)] = 5.0
    """How long it runs without a fault before the first one and after the last."""
    before: tuple[AnyLook, ...] = ()
    during: tuple[AnyLook, ...] = ()
    after: tuple[AnyLook, ...] = ()

    @property
    def lasts_s(self) -> float:
        """From the first fault's beginning to the last one's planned end."""
        return max((step.end_s for step in self.steps), default=0.0)

    @property
    def about_s(self) -> float:
        """How long a run takes, roughly: for plans and budgets."""
        cells = len(self.design.workloads) ** 2 if self.design else 1
        lasts_s = 8.0 * self.random.count if self.random else self.lasts_s
        slowest_s = max((look.within_s for look in self.after), default=0.0)
        return cells * (2 * self.calm_s + lasts_s + slowest_s / 2 + 8.0)


def shipped() -> tuple[str, ...]:
    """Names of the scenarios that come with the product."""
    folder = resources.files("chaos").joinpath("scenarios")
    names = (one.name for one in folder.iterdir() if one.name.endswith(".yaml"))
    return tuple(sorted(name.removesuffix(".yaml") for name in names))


def load_scenario(name: str) -> Scenario:
    """The scenario of that name, or in the file at that path. Raises ScenarioError."""
    is_file = name.endswith((".yaml", ".yml"))
    if not is_file and name not in shipped():
        near = difflib.get_close_matches(name, shipped(), n=1)
        mend = f"did you mean {near[0]}?" if near else "see threenines chaos list"
        raise ScenarioError(f"scenario {name!r}", "there is none of this name", mend)
    source = Path(name) if is_file else resources.files("chaos").joinpath("scenarios", f"{name}.yaml")
    try:
        return read_scenario(source.read_bytes(), str(name))
    except OSError as error:
        raise ScenarioError(
            name, f"cannot be read ({error.strerror})", "name a file that can be read"
        ) from None


def read_scenario(data: bytes, where: str) -> Scenario:
    """A scenario from YAML, right in itself. Raises ScenarioError."""
    try:
        scenario = msgspec.yaml.decode(data, type=Scenario)
    except msgspec.MsgspecError as error:
        raise ScenarioError(where, " ".join(str(error).split()), "mend that key") from None
    if scenario.schema != SCHEMA:
        raise ScenarioError(where, f"its schema is {scenario.schema}", f"write schema: {SCHEMA}")
    _right_in_itself(scenario, where)
    return scenario


def _right_in_itself(scenario: Scenario, where: str) -> None:
    disturbances = (bool(scenario.steps), scenario.random is not None, scenario.design is not None)
    if sum(disturbances) != 1:
        raise ScenarioError(where, "steps, random and design exclude each other", "give exactly one of them")
    if not scenario.after:
        raise ScenarioError(where, "nothing must hold after the faults", "add a look to after")
    for row in scenario.rows:
        if not _ROW.fullmatch(row):
            raise ScenarioError(f"{where}: rows", f"{row!r} is no row", "write rows like RL-5")
    if scenario.load is None and any(
        isinstance(look, LoadHolds) for look in (*scenario.before, *scenario.during, *scenario.after)
    ):
        raise ScenarioError(where, "a look at the load needs a load", "add load, or leave that look out")
    for number, step in enumerate(every_step(scenario), 1):
        try:
            step.make()
        except BadFault as error:
            raise ScenarioError(f"{where}: step {number}: {error.where}", error.what, error.mend) from None
    if scenario.random is not None and scenario.during:
        raise ScenarioError(f"{where}: during", "random faults have no common time", "use after")
    if scenario.steps:
        last = max(step.at_s for step in scenario.steps)
        first_end = min(step.end_s for step in scenario.steps)
        for look in scenario.during:
            if last + look.within_s >= first_end:
                raise ScenarioError(
                    f"{where}: during: {look}",
                    f"within_s {look.within_s:g} ends after the first fault does",
                    f"at most {max(0.0, first_end - last):g}, or let the faults last longer",
                )
    if scenario.design is not None:
        sizes = {len(scenario.design.workloads), len(scenario.design.rows), len(scenario.design.columns)}
        if len(sizes) != 1:
            raise ScenarioError(
                f"{where}: design", "has not as many levels of each factor", "make them as many"
            )


def cells(scenario: Scenario) -> tuple[Scenario, ...]:
    """The scenarios that a design stands for, by a Latin square; a scenario without a design: itself.

    Row i meets column j under workload (i + j) mod n. The cell without any fault is what the others stand
    beside: nothing is looked for during its faults.
    """
    design = scenario.design
    if design is None:
        return (scenario,)
    n = len(design.workloads)
    return tuple(
        msgspec.structs.replace(
            scenario,
            name=f"{scenario.name}-{row}-{column}-{design.workloads[(i + j) % n]}"[:63].rstrip("-"),
            design=None,
            steps=(*design.rows[row], *design.columns[column]),
            during=scenario.during if design.rows[row] or design.columns[column] else (),
            load=msgspec.structs.replace(scenario.load or Load(), workload=design.workloads[(i + j) % n]),
        )
        for i, row in enumerate(design.rows)
        for j, column in enumerate(design.columns)
    )


def every_step(scenario: Scenario) -> tuple[Step, ...]:
    """Its own steps and those of its design."""
    design = scenario.design
    levels = (*design.rows.values(), *design.columns.values()) if design else ()
    return (*scenario.steps, *(step for level in levels for step in level))


def needs(scenario: Scenario) -> frozenset[Capability]:
    """What the substrate has to be able to do for every fault that the scenario names. Raises BadFault.

    Random faults of any kind need nothing: they are drawn of what the substrate can do.
    """
    drawn = scenario.random.faults if scenario.random else ()
    kinds = {*drawn, *(step.fault for step in every_step(scenario))}
    return frozenset().union(*(kind_of(kind).needs for kind in kinds))


def fits(scenario: Scenario, stage: Stage) -> None:
    """Raises ScenarioError when the stack lacks what the scenario names, or faults would overlap on a target.

    What the substrate cannot do (`needs`) is Refused when the fault begins; a night does not plan it at all.
    """
    fleet, needs = stage.fleet, scenario.topology
    where = f"scenario {scenario.name}"
    if len(fleet.workers) < needs.workers or len(fleet.agents) < needs.agents:
        has = f"the fleet has {len(fleet.workers)} workers and {len(fleet.agents)} agents"
        raise ScenarioError(where, has, f"it needs {needs.workers} and {needs.agents}")
    if needs.failover and not stage.environment.failover:
        raise ScenarioError(where, "the stack's failover is off", "set threenines:failover to true")
    with _told_at(where):
        for host in scenario.load.hosts if scenario.load else ():
            stage.host(host, worker=True)
        for look in (*scenario.before, *scenario.during, *scenario.after):
            look.check(stage)
        _apart(scenario.steps, stage, where)


def _apart(steps: tuple[Step, ...], stage: Stage, where: str) -> None:
    placed: list[tuple[Step, frozenset[str]]] = []
    for step in steps:
        targets = step.make().targets(stage)
        for other, taken in placed:
            at_once = step.at_s < other.end_s and other.at_s < step.end_s
            if at_once and (both := overlap(targets, taken)):
                raise ScenarioError(
                    where,
                    f"{step.fault} at {step.at_s:g} s and {other.fault} at {other.at_s:g} s overlap on "
                    f"{', '.join(sorted(both))}",
                    "let one end before the other begins",
                )
        placed.append((step, targets))


@contextmanager
def _told_at(where: str) -> Iterator[None]:
    try:
        yield
    except ScenarioError:
        raise
    except BadFault as error:
        raise ScenarioError(f"{where}: {error.where}", error.what, error.mend) from None
