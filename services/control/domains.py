"""Who is to serve which agents: the record `domains/<home>` and what may be done to it. Pure.

A *domain* is all agents homed on one host. Its record names a holder and an epoch, and may name another
holder for single agents (`exceptions`), in the same atomic value. A *unit* is what is owned as one: the
domain without its exceptions (`Unit(home)`), or one excepted agent (`Unit(home, agent)`).

Each assignment takes an epoch above every epoch in the record, so that the epochs under which one agent was
served only rise, whichever unit it belonged to.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple


class Unit(NamedTuple):
    """What is owned as one. `agent` is empty for the domain without its exceptions."""

    home: str
    agent: str = ""

    def __str__(self) -> str:
        return f"{self.home}/{self.agent}" if self.agent else self.home


class Assignment(NamedTuple):
    """Who holds a unit, and at which epoch."""

    holder: str
    epoch: int


@dataclass(frozen=True, slots=True)
class DomainRecord:
    """The value of `domains/<home>`: `{home, holder, epoch, except: {agent: {holder, epoch}}}`."""

    home: str
    holder: str
    epoch: int
    exceptions: Mapping[str, Assignment] = field(default_factory=dict)

    def assignment(self, agent: str = "") -> Assignment:
        """Who holds that agent (empty: whoever has no exception)."""
        excepted = self.exceptions.get(agent)
        return Assignment(self.holder, self.epoch) if excepted is None else excepted

    def unit_of(self, agent: str) -> Unit:
        """The unit to which an agent homed here belongs."""
        return Unit(self.home, agent if agent in self.exceptions else "")

    def held_by(self, host: str) -> tuple[Unit, ...]:
        """The units that this record gives to a host."""
        default = (Unit(self.home),) if self.holder == host else ()
        return default + tuple(Unit(self.home, a) for a, to in self.exceptions.items() if to.holder == host)

    @property
    def top_epoch(self) -> int:
        """The highest epoch given in this domain so far."""
        return max((self.epoch, *(to.epoch for to in self.exceptions.values())))

    def assigned(self, units: Iterable[Unit], holder: str) -> DomainRecord:
        """The record that gives these units to `holder`, at an epoch above all earlier ones.

        An exception that goes to the same host in the same step as the domain is folded into it.
        """
        wanted = set(units)
        foreign = [str(unit) for unit in wanted if unit.home != self.home]
        if foreign:
            raise ValueError(f"domain {self.home} has no unit {', '.join(sorted(foreign))}")
        epoch = self.top_epoch + 1
        whole = Unit(self.home) in wanted
        moved = {unit.agent for unit in wanted if unit.agent}
        exceptions = {agent: to for agent, to in self.exceptions.items() if agent not in moved}
        if not whole:
            exceptions |= {agent: Assignment(holder, epoch) for agent in sorted(moved)}
            return DomainRecord(self.home, self.holder, self.epoch, exceptions)
        return DomainRecord(self.home, holder, epoch, exceptions)


@dataclass(frozen=True, slots=True)
class Known:
    """A domain record as last seen, and the revision that wrote it (0: there is none yet)."""

    revision: int
    record: DomainRecord


def unwritten(home: str) -> Known:
    """What an absent record means: the home host is to serve, and nobody ever has."""
    return Known(0, DomainRecord(home, home, 0))


@dataclass(frozen=True, slots=True)
class Transaction:
    """One atomic write. It is performed only if every comparison holds, and then as a whole.

    It always renews the record of the host that sends it, so that at most one of that host's transactions
    can ever be performed against one revision, and an answer proves all that was compared at once.
    """

    host_revision: int
    """`hosts/<self>` was written by this revision (0: is absent)."""
    host_epoch: int
    host_seq: int
    """The new value of `hosts/<self>`."""
    domains: Mapping[str, int]
    """`domains/<home>` was written by this revision (0: is absent)."""
    puts: Mapping[str, DomainRecord] = field(default_factory=dict)
    """New domain records; each home stands in `domains` too."""
    peers: Mapping[str, int] = field(default_factory=dict)
    """`hosts/<peer>` was written by this revision (0: is absent): a takeover's own proof."""
    present: tuple[str, ...] = ()
    """`hosts/<target>` exists: for a handover."""
