"""The life cycle of one agent on one host: its phases, what can happen, and the literal transition table.

`services.control.agent.step` turns what happened into a symbol and looks up `(phase, symbol)` here. A pair
that is not in the table is ignored: the state stays and nothing is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    """Where an agent stands. `PUBLISHED` maps it to what the world is told."""

    DOWN = "down"  # no process, none wanted
    FORKING = "forking"  # a fork was asked for, its outcome is not known yet
    STARTING = "starting"  # a process lives, it has not been validated
    UP = "up"
    UNHEALTHY = "unhealthy"  # silent: out of the answers, a last grace runs
    DRAINING = "draining"  # told to leave
    KILLED = "killed"  # SIGKILL was sent, its exit has not been seen
    BACKOFF = "backoff"  # no process, the next fork waits


class EventKind(StrEnum):
    """What the shell can report. Events about a process carry its incarnation."""

    START = "start"  # the agent is wanted
    STOP = "stop"  # it is not wanted any more
    REPLACE = "replace"  # its definition changed: end this process, start another
    FORKED = "forked"
    FORK_FAILED = "fork-failed"  # definite: no process was made
    FORK_UNKNOWN = "fork-unknown"  # indeterminate: there may be a process
    ADOPTED = "adopted"  # a live process of this agent was found
    ABSENT = "absent"  # it was looked for and is not there
    FORK_POSSIBLE = "fork-possible"  # the zygote is back
    VALIDATED = "validated"  # it registered and answered, or its first health check passed
    PONG = "pong"
    MISS = "miss"
    MISS_STOPPED = "miss-stopped"  # and the kernel says that a signal has stopped it
    LEAVING = "leaving"  # it said good-bye by itself
    EXITED = "exited"
    TIMER = "timer"  # `AgentState.deadline_ns` has passed


class Symbol(StrEnum):
    """An event after the guards."""

    START = "start"
    STOP = "stop"
    REPLACE = "replace"
    FORKED = "forked"
    FORKED_UNWANTED = "forked, unwanted"
    FORK_FAILED = "fork failed"
    FORK_FAILED_UNWANTED = "fork failed, unwanted"
    FORK_UNKNOWN = "fork unknown"
    ABSENT = "absent"
    ABSENT_UNWANTED = "absent, unwanted"
    FORK_POSSIBLE = "fork possible"
    VALIDATED = "validated"
    PONG = "pong"
    MISS = "miss"
    MISS_LAST = "one miss too many"
    MISS_STOPPED = "one miss too many, stopped"
    LEAVING = "leaving"
    EXITED = "exited"
    EXITED_AGAIN = "exited, one crash too many"
    EXITED_UNWANTED = "exited, unwanted"
    TIMER = "timer"


class Do(StrEnum):
    """Effects that a rule of the table asks for."""

    FORK = "fork"
    TERM = "term"
    KILL = "kill"
    RECONCILE = "reconcile"


@dataclass(frozen=True, slots=True)
class Rule:
    """A row of the table: the next phase, the effects, and the word for the event log."""

    to: Phase
    do: tuple[Do, ...] = ()
    say: str | None = None


P, Y = Phase, Symbol

TABLE: Mapping[tuple[Phase, Symbol], Rule] = {
    (P.DOWN, Y.START): Rule(P.FORKING, (Do.FORK,)),
    (P.DOWN, Y.REPLACE): Rule(P.FORKING, (Do.FORK,)),
    (P.DOWN, Y.FORKED): Rule(P.STARTING, say="adopted"),
    (P.DOWN, Y.FORKED_UNWANTED): Rule(P.DRAINING, (Do.TERM,), "adopted"),
    # --- a fork is under way
    (P.FORKING, Y.START): Rule(P.FORKING),
    (P.FORKING, Y.STOP): Rule(P.FORKING),
    (P.FORKING, Y.REPLACE): Rule(P.FORKING),
    (P.FORKING, Y.FORKED): Rule(P.STARTING, say="forked"),
    (P.FORKING, Y.FORKED_UNWANTED): Rule(P.DRAINING, (Do.TERM,), "forked"),
    (P.FORKING, Y.FORK_FAILED): Rule(P.BACKOFF, say="fork-failed"),
    (P.FORKING, Y.FORK_FAILED_UNWANTED): Rule(P.DOWN, say="stopped"),
    (P.FORKING, Y.FORK_UNKNOWN): Rule(P.FORKING, (Do.RECONCILE,), "fork-unknown"),
    (P.FORKING, Y.ABSENT): Rule(P.FORKING, (Do.FORK,)),
    (P.FORKING, Y.ABSENT_UNWANTED): Rule(P.DOWN, say="stopped"),
    # --- a process lives
    (P.STARTING, Y.VALIDATED): Rule(P.UP, say="validated"),
    (P.STARTING, Y.TIMER): Rule(P.KILLED, (Do.KILL,), "start-timeout"),
    (P.STARTING, Y.STOP): Rule(P.DRAINING, (Do.TERM,), "stopping"),
    (P.STARTING, Y.REPLACE): Rule(P.DRAINING, (Do.TERM,), "replaced"),
    (P.STARTING, Y.LEAVING): Rule(P.DRAINING, say="leaving"),
    (P.STARTING, Y.EXITED): Rule(P.FORKING, (Do.FORK,), "exited"),
    (P.STARTING, Y.EXITED_AGAIN): Rule(P.BACKOFF, say="exited"),
    (P.STARTING, Y.EXITED_UNWANTED): Rule(P.DOWN, say="exited"),
    (P.UP, Y.PONG): Rule(P.UP),
    (P.UP, Y.MISS): Rule(P.UP),
    (P.UP, Y.MISS_LAST): Rule(P.UNHEALTHY, say="unhealthy"),
    (P.UP, Y.MISS_STOPPED): Rule(P.KILLED, (Do.KILL,), "killed"),
    (P.UP, Y.STOP): Rule(P.DRAINING, (Do.TERM,), "stopping"),
    (P.UP, Y.REPLACE): Rule(P.DRAINING, (Do.TERM,), "replaced"),
    (P.UP, Y.LEAVING): Rule(P.DRAINING, say="leaving"),
    (P.UP, Y.EXITED): Rule(P.FORKING, (Do.FORK,), "exited"),
    (P.UP, Y.EXITED_AGAIN): Rule(P.BACKOFF, say="exited"),
    (P.UP, Y.EXITED_UNWANTED): Rule(P.DOWN, say="exited"),
    (P.UNHEALTHY, Y.PONG): Rule(P.UP, say="recovered"),
    (P.UNHEALTHY, Y.TIMER): Rule(P.KILLED, (Do.KILL,), "killed"),
    (P.UNHEALTHY, Y.STOP): Rule(P.DRAINING, (Do.TERM,), "stopping"),
    (P.UNHEALTHY, Y.REPLACE): Rule(P.DRAINING, (Do.TERM,), "replaced"),
    (P.UNHEALTHY, Y.LEAVING): Rule(P.DRAINING, say="leaving"),
    (P.UNHEALTHY, Y.EXITED): Rule(P.FORKING, (Do.FORK,), "exited"),
    (P.UNHEALTHY, Y.EXITED_AGAIN): Rule(P.BACKOFF, say="exited"),
    (P.UNHEALTHY, Y.EXITED_UNWANTED): Rule(P.DOWN, say="exited"),
    # --- a process is leaving
    (P.DRAINING, Y.START): Rule(P.DRAINING),
    (P.DRAINING, Y.STOP): Rule(P.DRAINING),
    (P.DRAINING, Y.REPLACE): Rule(P.DRAINING),
    (P.DRAINING, Y.TIMER): Rule(P.KILLED, (Do.KILL,), "killed"),
    (P.DRAINING, Y.EXITED): Rule(P.FORKING, (Do.FORK,), "exited"),
    (P.DRAINING, Y.EXITED_AGAIN): Rule(P.BACKOFF, say="exited"),
    (P.DRAINING, Y.EXITED_UNWANTED): Rule(P.DOWN, say="exited"),
    (P.KILLED, Y.START): Rule(P.KILLED),
    (P.KILLED, Y.STOP): Rule(P.KILLED),
    (P.KILLED, Y.REPLACE): Rule(P.KILLED),
    (P.KILLED, Y.TIMER): Rule(P.KILLED, (Do.KILL,), "killed"),
    (P.KILLED, Y.EXITED): Rule(P.FORKING, (Do.FORK,), "exited"),
    (P.KILLED, Y.EXITED_AGAIN): Rule(P.BACKOFF, say="exited"),
    (P.KILLED, Y.EXITED_UNWANTED): Rule(P.DOWN, say="exited"),
    # --- waiting for the next try
    (P.BACKOFF, Y.TIMER): Rule(P.FORKING, (Do.FORK,)),
    (P.BACKOFF, Y.FORK_POSSIBLE): Rule(P.FORKING, (Do.FORK,)),
    (P.BACKOFF, Y.REPLACE): Rule(P.FORKING, (Do.FORK,), "replaced"),
    (P.BACKOFF, Y.STOP): Rule(P.DOWN, say="stopped"),
    (P.BACKOFF, Y.FORKED): Rule(P.STARTING, say="adopted"),
}

PUBLISHED: Mapping[Phase, str] = {
    P.DOWN: "down",
    P.FORKING: "down",
    P.STARTING: "starting",
    P.UP: "up",
    P.UNHEALTHY: "unhealthy",
    P.DRAINING: "draining",
    P.KILLED: "unhealthy",
    P.BACKOFF: "down",
}
"""What the instance record says in each phase."""

LIVING = frozenset({P.STARTING, P.UP, P.UNHEALTHY, P.DRAINING, P.KILLED})
"""Phases in which a process of `AgentState.incarnation` is held to be alive."""
