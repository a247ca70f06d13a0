"""Harmless changes: none of them may be caught, or the checks see ghosts.

Each changes what the protocol or its surroundings do, in a way that an argument says is safe.
"""

from __future__ import annotations

from dataclasses import replace

from services.control.holdings import Action, Event, Ownership, OwnershipPolicy, Publish
from services.control.ownership import step
from verification.simulation.variant import Variant
from verification.simulation.world import MS


class LongerMargin(Variant):
    name = "longer-margin"
    what = "a challenger waits 200 ms longer than it has to"

    def policy(self, policy: OwnershipPolicy) -> OwnershipPolicy:
        lease = replace(policy.lease, margin_ns=policy.lease.margin_ns + 200 * MS)
        return replace(policy, lease=lease)


class QuickerBeat(Variant):
    name = "quicker-beat"
    what = "renewals are sent every 180 ms"

    def policy(self, policy: OwnershipPolicy) -> OwnershipPolicy:
        return replace(policy, lease=replace(policy.lease, renew_ns=180 * MS))


class ShorterDeadline(Variant):
    name = "shorter-deadline"
    what = "the deadline that agents see is 50 ms early"

    def step(
        self, own: Ownership, event: Event, now_ns: int, policy: OwnershipPolicy
    ) -> tuple[Ownership, tuple[Action, ...]]:
        after, actions = step(own, event, now_ns, policy)
        return after, tuple(
            replace(a, deadline_ns=a.deadline_ns - 50 * MS) if isinstance(a, Publish) else a for a in actions
        )


class TurnsAreLonger(Variant):
    name = "turns-are-longer"
    what = "the second challenger waits twice as long for the first"

    def policy(self, policy: OwnershipPolicy) -> OwnershipPolicy:
        return replace(policy, stagger_ns=2 * policy.stagger_ns)


class SentTwice(Variant):
    name = "sent-twice"
    what = "each transaction is sent twice: both compare the same revision, so that one is performed"
    sends_twice = True


class EpochOffDisk(Variant):
    name = "epoch-off-disk"
    what = "a restarted hostd does not know its last epoch: its record says it"
    remembers_its_epoch = False


class PageLeftStanding(Variant):
    name = "page-left-standing"
    what = "hostd does not withdraw the page at the deadline: the agents' own check is enough"
    empties_the_page = False


class NoWatchdog(Variant):
    name = "no-watchdog"
    what = "nobody ends the agents of a stalled hostd: their own check is enough"
    has_a_watchdog = False


BENIGN: tuple[type[Variant], ...] = (
    LongerMargin,
    QuickerBeat,
    ShorterDeadline,
    TurnsAreLonger,
    SentTwice,
    EpochOffDisk,
    PageLeftStanding,
    NoWatchdog,
)
