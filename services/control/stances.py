"""The transition tables of ownership, as literals. The diagrams in docs/failover.md are made from them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum


class Stance(StrEnum):
    """How a host stands to a unit."""

    ELSEWHERE = "elsewhere"  # its record names another host, or is not known yet
    NAMED = "named"  # its record names this host, at an epoch that this life has not written
    CLAIMING = "claiming"  # a transaction that writes a new epoch for this host is in flight
    SERVING = "serving"
    QUIESCING = "quiescing"  # to be handed over: no new work, what is in flight may end
    DRAINED = "drained"  # to be handed over: nothing is in flight any more
    YIELDING = "yielding"  # the handover was sent: this host does not act
    UNSURE = "unsure"  # the handover was not acknowledged: this host does not act until it knows


class Symbol(StrEnum):
    """What happened to a unit, after the guards were asked."""

    NAMES_OTHER = "record names another"
    NAMES_US = "record names us"
    NAMES_US_ANEW = "record names us at another epoch"
    CLAIM = "claim or takeover sent"
    DONE = "acknowledged"
    NOT_DONE = "refused, failed or silent"
    RELEASE = "switch-over asked for"
    QUIESCED = "nothing in flight"
    GIVEN_UP = "too late, or target gone"
    YIELD = "handover sent"


class Do(StrEnum):
    """What happens to the unit's agents on this host."""

    PROMOTE = "promote"  # load the state, then serve at the new epoch
    RESUME = "resume"  # admit work again, at the same epoch
    QUIESCE = "quiesce"  # admit no new work, report when none is in flight
    DEMOTE = "demote"  # stop serving as primary


@dataclass(frozen=True, slots=True)
class Rule:
    """A row: the next stance, and what happens to the agents."""

    to: Stance
    do: tuple[Do, ...] = ()


A, Y = Stance, Symbol

TABLE: Mapping[tuple[Stance, Symbol], Rule] = {
    (A.ELSEWHERE, Y.NAMES_US): Rule(A.NAMED),
    (A.ELSEWHERE, Y.CLAIM): Rule(A.CLAIMING),
    (A.NAMED, Y.CLAIM): Rule(A.CLAIMING),
    (A.NAMED, Y.NAMES_OTHER): Rule(A.ELSEWHERE),
    (A.NAMED, Y.NAMES_US_ANEW): Rule(A.NAMED),
    (A.CLAIMING, Y.DONE): Rule(A.SERVING, (Do.PROMOTE,)),
    (A.CLAIMING, Y.NOT_DONE): Rule(A.ELSEWHERE),
    (A.CLAIMING, Y.NAMES_OTHER): Rule(A.ELSEWHERE),
    (A.SERVING, Y.NAMES_OTHER): Rule(A.ELSEWHERE, (Do.DEMOTE,)),
    (A.SERVING, Y.NAMES_US_ANEW): Rule(A.NAMED, (Do.DEMOTE,)),
    # --- a planned switch-over
    (A.SERVING, Y.RELEASE): Rule(A.QUIESCING, (Do.QUIESCE,)),
    (A.QUIESCING, Y.QUIESCED): Rule(A.DRAINED),
    (A.QUIESCING, Y.GIVEN_UP): Rule(A.SERVING, (Do.RESUME,)),
    (A.QUIESCING, Y.NAMES_OTHER): Rule(A.ELSEWHERE, (Do.DEMOTE,)),
    (A.QUIESCING, Y.NAMES_US_ANEW): Rule(A.NAMED, (Do.DEMOTE,)),
    (A.DRAINED, Y.YIELD): Rule(A.YIELDING),
    (A.DRAINED, Y.GIVEN_UP): Rule(A.SERVING, (Do.RESUME,)),
    (A.DRAINED, Y.NAMES_OTHER): Rule(A.ELSEWHERE, (Do.DEMOTE,)),
    (A.DRAINED, Y.NAMES_US_ANEW): Rule(A.NAMED, (Do.DEMOTE,)),
    (A.YIELDING, Y.DONE): Rule(A.ELSEWHERE, (Do.DEMOTE,)),
    (A.YIELDING, Y.NOT_DONE): Rule(A.UNSURE),
    (A.YIELDING, Y.NAMES_OTHER): Rule(A.ELSEWHERE, (Do.DEMOTE,)),
    (A.YIELDING, Y.NAMES_US_ANEW): Rule(A.NAMED, (Do.DEMOTE,)),
    (A.UNSURE, Y.DONE): Rule(A.SERVING, (Do.RESUME,)),
    (A.UNSURE, Y.NAMES_OTHER): Rule(A.ELSEWHERE, (Do.DEMOTE,)),
    (A.UNSURE, Y.NAMES_US_ANEW): Rule(A.NAMED, (Do.DEMOTE,)),
}
"""A pair that is not in the table changes nothing."""

MAY_ACT = frozenset({A.SERVING, A.QUIESCING, A.DRAINED})
"""Stances in which a host acts, as long as the proof covers the unit and the deadline has not passed."""

PROVEN = MAY_ACT | {A.UNSURE}
"""Stances in which a renewal compares the unit's record; its acknowledgement ends `UNSURE`."""


class Voice(StrEnum):
    """Whether the host may act at all."""

    SILENT = "silent"  # no transaction of this life was acknowledged yet
    ACTING = "acting"
    FENCED = "fenced"  # the deadline passed without a renewal
    REPLACED = "replaced"  # another daemon of this host took its record


class VoiceSymbol(StrEnum):
    """What changes it."""

    ACKED = "acknowledged in time"
    EXPIRED = "deadline passed"
    REPLACED = "record is another daemon's"


V, W = Voice, VoiceSymbol

VOICES: Mapping[tuple[Voice, VoiceSymbol], Voice] = {
    (V.SILENT, W.ACKED): V.ACTING,
    (V.ACTING, W.EXPIRED): V.FENCED,
    (V.FENCED, W.ACKED): V.ACTING,
    (V.SILENT, W.REPLACED): V.REPLACED,
    (V.ACTING, W.REPLACED): V.REPLACED,
    (V.FENCED, W.REPLACED): V.REPLACED,
}
