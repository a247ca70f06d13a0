"""The life cycle of one agent on one host, decided.

The shell turns what happens into an `Event`, `step` looks up `(phase, symbol)` in `agent_table.TABLE` and
answers with the next state and the actions to perform. A symbol is an event after the guards were asked (is
it about the process we mean, is the agent wanted, was it one crash too many).

What is promised, and tested against a model of the world: at most one live process of an agent on a host;
incarnations only rise; a process that was told to die is never published as up again; an agent that is
wanted comes up once the world lets it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from services.control.agent_table import LIVING, PUBLISHED, TABLE, Do, EventKind, Phase, Rule, Symbol

MS = 1_000_000
S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Policy:
    """The patience of the host with its agents. Times in nanoseconds.

    With pings every 200 ms, a timeout of 150 ms and two misses, a hang that begins just after an answer is
    out of the answers after at most 500 ms and killed `hang_grace_ns` later, or at once if a signal has
    stopped it.
    """

    start_timeout_ns: int = 10 * S
    hang_grace_ns: int = 250 * MS
    stop_timeout_ns: int = 6 * S  # above the drain limit of the agents themselves
    rekill_ns: int = 1 * S
    crash_window_ns: int = 10 * S
    crash_limit: int = 3
    backoff_base_ns: int = 500 * MS
    backoff_cap_ns: int = 30 * S
    fork_retry_base_ns: int = 50 * MS
    fork_retry_cap_ns: int = 1 * S


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened. `incarnation` is 0 where the event is not about a process.

    `time_ns`: when it happened, where that is known better than when it is decided about.
    """

    kind: EventKind
    incarnation: int = 0
    detail: str = ""
    time_ns: int | None = None


@dataclass(frozen=True, slots=True)
class Fork:
    """Ask for a new process with this incarnation."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Signal:
    """Signal the process of this incarnation: gently (SIGTERM) or finally (SIGKILL)."""

    incarnation: int
    final: bool


@dataclass(frozen=True, slots=True)
class Reconcile:
    """Find out whether a process of this incarnation exists; report ADOPTED or ABSENT."""

    incarnation: int


@dataclass(frozen=True, slots=True)
class Publish:
    """What the world is told has changed: write the instance record."""


@dataclass(frozen=True, slots=True)
class Say:
    """A line for the event log; `time_ns` None: now."""

    event: str
    incarnation: int
    detail: str = ""
    time_ns: int | None = None


Action = Fork | Signal | Reconcile | Publish | Say


@dataclass(frozen=True, slots=True)
class AgentState:
    """All that the decisions depend on.

    `incarnation` is that of the process that lives or lived last (0: none yet), `pending` the one asked for
    and not answered, `floor` the lowest that may be given next. `since_ns` is when the published state began.
    """

    phase: Phase = Phase.DOWN
    incarnation: int = 0
    pending: int = 0
    floor: int = 1
    wanted: bool = False
    outdated: bool = False
    missed: int = 0
    missed_limit: int = 2
    crashes_ns: tuple[int, ...] = field(default=())
    backoffs: int = 0
    fork_failures: int = 0
    validated_ns: int | None = None
    since_ns: int = 0
    deadline_ns: int | None = None

    @property
    def published(self) -> str:
        """The state of the instance record."""
        return PUBLISHED[self.phase]

    @property
    def living(self) -> bool:
        """Whether a process of `incarnation` is held to be alive."""
        return self.phase in LIVING


_MISSES = frozenset({EventKind.MISS, EventKind.MISS_STOPPED})
_ABOUT_A_PROCESS = _MISSES | {EventKind.VALIDATED, EventKind.PONG, EventKind.LEAVING, EventKind.EXITED}
_FORK_OUTCOME = frozenset({EventKind.FORK_FAILED, EventKind.FORK_UNKNOWN, EventKind.ABSENT})


def step(
    state: AgentState, event: Event, now_ns: int, policy: Policy
) -> tuple[AgentState, tuple[Action, ...]]:
    """One decision. `now_ns` is CLOCK_BOOTTIME; it must not run backwards between calls."""
    noted = _note(state, event, now_ns, policy)
    symbol = _symbol(noted, event, now_ns, policy)
    if symbol is None:
        return noted, ()
    rule = TABLE.get((state.phase, symbol))
    if rule is None:
        return state, ()
    return _follow(state, noted, rule, event, now_ns=now_ns, policy=policy)


def _note(state: AgentState, event: Event, now_ns: int, policy: Policy) -> AgentState:
    """What an event changes besides the phase: wishes and counters."""
    kind = event.kind
    if kind is EventKind.START:
        return replace(state, wanted=True)
    if kind is EventKind.STOP:
        return replace(state, wanted=False)
    if kind is EventKind.REPLACE:
        return replace(
            state,
            wanted=True,
            outdated=state.phase is Phase.FORKING,
            crashes_ns=(),
            backoffs=0,
            fork_failures=0,
        )
    if kind is EventKind.FORK_UNKNOWN and event.incarnation == state.pending:
        # A process may have had this number, if only for a moment: nobody else gets it.
        return replace(state, floor=max(state.floor, state.pending + 1))
    if kind is EventKind.PONG and event.incarnation == state.incarnation:
        return replace(state, missed=0)
    if kind in _MISSES and event.incarnation == state.incarnation and state.phase is Phase.UP:
        return replace(state, missed=state.missed + 1)
    if kind in (EventKind.EXITED, EventKind.LEAVING) and _counts_as_crash(state, event):
        stable = state.validated_ns is not None and now_ns - state.validated_ns >= policy.crash_window_ns
        recent = tuple(at for at in state.crashes_ns if now_ns - at < policy.crash_window_ns)
        return replace(state, crashes_ns=(*recent, now_ns), backoffs=0 if stable else state.backoffs)
    return state


def _counts_as_crash(state: AgentState, event: Event) -> bool:
    """Whether this end is a crash: it was not asked for (a hang that was killed is one, a good-bye too)."""
    return (
        event.incarnation == state.incarnation
        and state.wanted
        and not state.outdated
        and state.phase in (Phase.STARTING, Phase.UP, Phase.UNHEALTHY, Phase.KILLED)
    )


def _symbol(state: AgentState, event: Event, now_ns: int, policy: Policy) -> Symbol | None:
    """The guards. None: the event is about another process, or too early, and changes no phase."""
    kind = event.kind
    welcome = state.wanted and not state.outdated
    if kind in _ABOUT_A_PROCESS and (not state.living or event.incarnation != state.incarnation):
        return None
    if kind in _FORK_OUTCOME and event.incarnation != state.pending:
        return None
    if kind is EventKind.FORKED:
        if event.incarnation != state.pending:
            return None
        return Symbol.FORKED if welcome else Symbol.FORKED_UNWANTED
    if kind is EventKind.ADOPTED:
        if state.living or event.incarnation <= state.incarnation:
            return None
        if state.phase is Phase.FORKING and event.incarnation != state.pending:
            return None
        return Symbol.FORKED if welcome else Symbol.FORKED_UNWANTED
    if kind is EventKind.FORK_FAILED:
        return Symbol.FORK_FAILED if state.wanted else Symbol.FORK_FAILED_UNWANTED
    if kind is EventKind.ABSENT:
        return Symbol.ABSENT if state.wanted else Symbol.ABSENT_UNWANTED
    if kind in _MISSES:
        if state.missed < state.missed_limit:
            return Symbol.MISS
        return Symbol.MISS_LAST if kind is EventKind.MISS else Symbol.MISS_STOPPED
    if kind is EventKind.EXITED:
        if not state.wanted:
            return Symbol.EXITED_UNWANTED
        stormy = state.backoffs > 0 or len(state.crashes_ns) >= policy.crash_limit
        return Symbol.EXITED_AGAIN if stormy else Symbol.EXITED
    if kind is EventKind.TIMER:
        due = state.deadline_ns is not None and now_ns >= state.deadline_ns
        return Symbol.TIMER if due else None
    if kind is EventKind.FORK_POSSIBLE:
        return Symbol.FORK_POSSIBLE if state.fork_failures > 0 else None
    return _PLAIN[kind]


_PLAIN: Mapping[EventKind, Symbol] = {
    EventKind.START: Symbol.START,
    EventKind.STOP: Symbol.STOP,
    EventKind.REPLACE: Symbol.REPLACE,
    EventKind.FORK_UNKNOWN: Symbol.FORK_UNKNOWN,
    EventKind.VALIDATED: Symbol.VALIDATED,
    EventKind.PONG: Symbol.PONG,
    EventKind.LEAVING: Symbol.LEAVING,
}


def _follow(
    before: AgentState, noted: AgentState, rule: Rule, event: Event, *, now_ns: int, policy: Policy
) -> tuple[AgentState, tuple[Action, ...]]:
    """Carries a rule out: the next state, with its counters and deadline, and the actions."""
    state = replace(noted, phase=rule.to)
    effects: list[Action] = []
    if rule.to is Phase.STARTING or (rule.to is Phase.DRAINING and before.phase not in LIVING):
        state = replace(
            state, incarnation=event.incarnation, pending=0, missed=0, fork_failures=0, validated_ns=None
        )
    if rule.to is Phase.DOWN:
        state = replace(state, pending=0, fork_failures=0)
    if rule.to is Phase.UP and before.phase is Phase.STARTING:
        state = replace(state, validated_ns=now_ns, missed=0)
    if rule.to is Phase.BACKOFF:
        failed = event.kind is EventKind.FORK_FAILED
        state = replace(
            state,
            pending=0,
            fork_failures=state.fork_failures + 1 if failed else 0,
            backoffs=state.backoffs if failed else state.backoffs + 1,
        )
    for effect in rule.do:
        if effect is Do.FORK:
            number = max(state.incarnation + 1, state.floor)
            state = replace(state, pending=number, floor=number, outdated=False)
            effects.append(Fork(number))
        elif effect is Do.RECONCILE:
            effects.append(Reconcile(state.pending))
        else:
            effects.append(Signal(state.incarnation, final=effect is Do.KILL))
    if rule.to is not before.phase or Do.KILL in rule.do:
        state = replace(state, deadline_ns=_deadline(state, now_ns, policy))
    actions: list[Action] = []
    if (state.published, state.incarnation) != (before.published, before.incarnation):
        state = replace(state, since_ns=now_ns)
        actions.append(Publish())
    if rule.say is not None:
        about = event.incarnation or state.incarnation
        actions.append(Say(rule.say, about, event.detail or f"was {before.phase}", event.time_ns))
    if rule.to is Phase.BACKOFF and state.deadline_ns is not None:
        wait_ms = (state.deadline_ns - now_ns) // MS
        actions.append(Say("backoff", state.incarnation, f"{wait_ms} ms"))
    return state, (*actions, *effects)


def _deadline(state: AgentState, now_ns: int, policy: Policy) -> int | None:
    """When the phase that was entered at `now_ns` ends by itself."""
    phase = state.phase
    if phase is Phase.STARTING:
        return now_ns + policy.start_timeout_ns
    if phase is Phase.UNHEALTHY:
        return now_ns + policy.hang_grace_ns
    if phase is Phase.DRAINING:
        return now_ns + policy.stop_timeout_ns
    if phase is Phase.KILLED:
        return now_ns + policy.rekill_ns
    if phase is Phase.BACKOFF:
        return now_ns + backoff_ns(state, policy)
    return None


def backoff_ns(state: AgentState, policy: Policy) -> int:
    """How long the next fork waits: doubling, capped; shorter where forking itself failed."""
    if state.fork_failures > 0:
        return min(policy.fork_retry_cap_ns, policy.fork_retry_base_ns << min(state.fork_failures - 1, 30))
    return min(policy.backoff_cap_ns, policy.backoff_base_ns << min(max(state.backoffs - 1, 0), 30))
