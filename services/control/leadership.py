"""Where etcd's leader had better be: on the witness, which serves no agents. Pure.

When a host is lost together with the leader, nothing can be written until the other members have elected a
new one, and for that long the host that is left cannot renew its own lease. So a host whose member leads
hands the leadership to the witness's, when that has been well for a while. A witness that loses it again and
again (a slow disk, a bad link) is left alone for longer each time.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class LeadershipPolicy:
    """Times in nanoseconds."""

    calm_ns: int = 3 * S  # this member leads and the witness's is well, for so long
    pause_ns: int = 10 * S  # after a move; doubled with each one that did not last
    cap_ns: int = 1_800 * S
    forgive_ns: int = 600 * S  # a move that lasted for so long was a good one


@dataclass(frozen=True, slots=True)
class Leadership:
    """`since_ns`: since when a move is called for. `moved_ns`: the last one. `moves`: in a row, so far."""

    since_ns: int | None = None
    moved_ns: int | None = None
    moves: int = 0

    def pause_ns(self, policy: LeadershipPolicy) -> int:
        """How long the witness is left alone after the last move."""
        return min(policy.cap_ns, policy.pause_ns << min(max(self.moves - 1, 0), 40))


def look(
    state: Leadership, *, leads: bool, witness_well: bool, now_ns: int, policy: LeadershipPolicy
) -> tuple[Leadership, bool]:
    """One look. True: ask for the move now.

    leads: this host's member is the leader. witness_well: the witness's answers, follows, and is up to date.
    """
    if not (leads and witness_well):
        return replace(state, since_ns=None), False
    if state.since_ns is None:
        state = replace(state, since_ns=now_ns)
    assert state.since_ns is not None
    if now_ns - state.since_ns < policy.calm_ns:
        return state, False
    lasted_ns = None if state.moved_ns is None else now_ns - state.moved_ns
    if lasted_ns is not None and lasted_ns < state.pause_ns(policy):
        return state, False
    moves = (
        1 if lasted_ns is None or lasted_ns >= policy.forgive_ns + state.pause_ns(policy) else state.moves + 1
    )
    return Leadership(None, now_ns, moves), True
