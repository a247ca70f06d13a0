"""What a fault is: typed parameters, whom it may touch, how it begins, how it is proved, what undoes it.

A fault is a frozen msgspec struct; its fields are its parameters, units last in their names. It decides and
measures; `chaos.session` is what makes it safe: the undo is on disk before `inject` is called.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

import msgspec

from chaos.errors import BadFault
from infra.substrates.base import Capability

if TYPE_CHECKING:
    from chaos.stage import Stage
    from chaos.undo import AnyUndo

Value = float | str


class Measure(msgspec.Struct, frozen=True):
    """One measured thing; `unit` is empty for words."""

    name: str
    value: Value
    unit: str = ""

    def __str__(self) -> str:
        shown = f"{self.value:.4g}" if isinstance(self.value, float) else str(self.value)
        return f"{self.name} {shown}{' ' if self.unit else ''}{self.unit}"


class Proof(msgspec.Struct, frozen=True):
    """Whether something is so, by which measurements. What could not be measured does not hold."""

    holds: bool
    measures: tuple[Measure, ...] = ()
    simulated: bool = False
    """By a stand-in for what is not on this machine: such a trial never counts as measured."""

    def __str__(self) -> str:
        return ", ".join(map(str, self.measures)) or "nothing measured"


class Radius(msgspec.Struct, frozen=True):
    """Who may be disturbed: hosts and agents by name."""

    hosts: frozenset[str] = frozenset()
    agents: frozenset[str] = frozenset()

    def __or__(self, other: Radius) -> Radius:
        return Radius(self.hosts | other.hosts, self.agents | other.agents)


class Trial:
    """One injection: what a fault remembers between its beginning and its end."""

    def __init__(self, id: str) -> None:
        self.id = id
        self.numbers: dict[str, float] = {}
        self.words: dict[str, str] = {}


class Fault(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all faults. Every method may raise ChaosError or SubstrateError."""

    name: ClassVar[str]
    group: ClassVar[str]
    """Link, process, host, resource, gpu, dependency."""
    summary: ClassVar[str]
    needs: ClassVar[frozenset[Capability]] = frozenset()
    """What the substrate has to be able to do. Plans ask it as well as `chaos.session`."""
    effect_within_s: ClassVar[float] = 3.0
    """How long the proof of effect may take to come."""

    def check(self, stage: Stage) -> None:
        """Preconditions: raises BadFault (cannot be meant) or Refused (not here, not now)."""

    def targets(self, stage: Stage) -> frozenset[str]:
        """What two faults must not touch at once: "way/mainpc/gateway-pc2", "host/pc2" (all of it)."""
        raise NotImplementedError

    def radius(self, stage: Stage) -> Radius:
        """Who may be disturbed."""
        raise NotImplementedError

    def undo(self, stage: Stage, trial: Trial) -> tuple[AnyUndo, ...]:
        """What ends it, whatever became of it; measures first what must be so again. Changes nothing."""
        raise NotImplementedError

    def inject(self, stage: Stage, trial: Trial) -> None:
        """Begins it."""
        raise NotImplementedError

    def keep(self, stage: Stage, trial: Trial) -> None:
        """Called all the time while it lasts: what has to be done again and again."""

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        """Whether it is in effect now, measured."""
        raise NotImplementedError

    def __str__(self) -> str:
        default = {f.name: f.default for f in msgspec.structs.fields(self)}
        given = msgspec.to_builtins(self)
        shown = " ".join(f"{key}={given[key]}" for key in given if given[key] != default[key])
        return f"{self.name} {shown}".rstrip()


REGISTRY: dict[str, type[Fault]] = {}


def register(kind: type[Fault]) -> type[Fault]:
    """Makes a fault known by its name; a decorator."""
    if kind.name in REGISTRY:
        raise ValueError(f"two faults are called {kind.name}")
    REGISTRY[kind.name] = kind
    return kind


def catalogue() -> dict[str, type[Fault]]:
    """Every fault by name."""
    import chaos.faults  # noqa: F401  # registers them

    return REGISTRY


def kind_of(name: str) -> type[Fault]:
    """The fault called `name`. Raises BadFault."""
    import difflib

    kinds = catalogue()
    if name in kinds:
        return kinds[name]
    near = difflib.get_close_matches(name, kinds, n=1)
    mend = f"did you mean {near[0]}?" if near else "see threenines chaos list"
    raise BadFault(f"fault {name!r}", "there is none of this name", mend)
