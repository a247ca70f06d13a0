"""When a unit that was taken over goes back home: after a hold-down, longer for a host that flaps.

Pure. The holder runs one of these for each unit that it holds away from home. Taking over is never damped,
only going back: an agent that is served stays where it is until its home has been stable for long enough.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum

MS = 1_000_000
S = 1_000 * MS


class Away(StrEnum):
    """Where the return of a unit stands."""

    HOME = "not ours"  # this host does not hold it
    LOST = "home is gone"
    WAITING = "home is back"  # the hold-down runs
    RETURNING = "going back"  # the switch-over was asked for


class Sign(StrEnum):
    """What was observed, after the guards."""

    TAKEN = "taken over"
    BACK = "home seen"
    GONE = "home gone"
    DUE = "hold-down over"
    LEFT = "held by us no more"
    ABORTED = "switch-over given up"


TABLE: Mapping[tuple[Away, Sign], Away] = {
    (Away.HOME, Sign.TAKEN): Away.LOST,
    (Away.LOST, Sign.BACK): Away.WAITING,
    (Away.LOST, Sign.LEFT): Away.HOME,
    (Away.WAITING, Sign.GONE): Away.LOST,
    (Away.WAITING, Sign.DUE): Away.RETURNING,
    (Away.WAITING, Sign.LEFT): Away.HOME,
    (Away.RETURNING, Sign.GONE): Away.LOST,
    (Away.RETURNING, Sign.LEFT): Away.HOME,
    (Away.RETURNING, Sign.ABORTED): Away.WAITING,
}
"""A pair that is not in the table changes nothing."""


@dataclass(frozen=True, slots=True)
class FailBackPolicy:
    """Times in nanoseconds. A loss within `forgive_ns` of the one before doubles the hold-down."""

    hold_down_ns: int = 30 * S
    cap_ns: int = 1_800 * S
    forgive_ns: int = 3_600 * S
    patience_ns: int = 10 * S  # a switch-over that has not happened by then was given up


@dataclass(frozen=True, slots=True)
class FailBack:
    """`since_ns`: when this phase began. `losses`: how often home was lost, each soon after the last."""

    phase: Away = Away.HOME
    since_ns: int = 0
    losses: int = 0
    lost_ns: int | None = None

    def due_ns(self, policy: FailBackPolicy) -> int | None:
        """When the phase ends by itself; None: it doesn't."""
        if self.phase is Away.WAITING:
            return self.since_ns + hold_down_ns(self, policy)
        return self.since_ns + policy.patience_ns if self.phase is Away.RETURNING else None


def hold_down_ns(state: FailBack, policy: FailBackPolicy) -> int:
    """How long home has to be stable: doubled with each loss after the first, capped."""
    return min(policy.cap_ns, policy.hold_down_ns << min(max(state.losses - 1, 0), 40))


def failback_step(
    state: FailBack, *, held: bool, releasing: bool, alive: bool, now_ns: int, policy: FailBackPolicy
) -> tuple[FailBack, bool]:
    """One look. True: ask for the switch-over to home now.

    held: this host holds the unit. releasing: its switch-over is under way. alive: home's lease is seen to
    be renewed. `now_ns` is CLOCK_BOOTTIME.
    """
    ask = False
    for _ in Away:
        sign = _sign(state, held=held, releasing=releasing, alive=alive, now_ns=now_ns, policy=policy)
        to = None if sign is None else TABLE.get((state.phase, sign))
        if to is None:
            break
        if to is Away.LOST:
            soon = state.lost_ns is not None and now_ns - state.lost_ns < policy.forgive_ns
            state = replace(state, losses=state.losses + 1 if soon else 1, lost_ns=now_ns)
        ask = to is Away.RETURNING
        state = replace(state, phase=to, since_ns=now_ns)
    return state, ask


def _sign(
    state: FailBack, *, held: bool, releasing: bool, alive: bool, now_ns: int, policy: FailBackPolicy
) -> Sign | None:
    if not held:
        return None if state.phase is Away.HOME else Sign.LEFT
    if state.phase is Away.HOME:
        return Sign.TAKEN
    if not alive:
        return None if state.phase is Away.LOST else Sign.GONE
    if state.phase is Away.LOST:
        return Sign.BACK
    due_ns = state.due_ns(policy)
    if due_ns is None or now_ns < due_ns:
        return None
    if state.phase is Away.WAITING:
        return Sign.DUE
    return None if releasing else Sign.ABORTED
