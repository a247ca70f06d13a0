"""Which peers may soon have to be followed, so that what stands by cold is started in good time. Pure.

A suspicion is cheap and often wrong: it starts processes that stand by, and nobody serves because of it. It
uses the time in which a challenger has to wait for the lease of a lost peer anyway.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from services.control.lease import LeasePolicy, PeerLease

S = 1_000_000_000


@dataclass(frozen=True, slots=True)
class SuspicionPolicy:
    """`share`: of the lease, how long a peer is silent before it is suspected; `kept_ns`: how long it stays
    so after it was heard again, so that one that is late again and again does not cost a start each time."""

    share: float = 0.5
    kept_ns: int = 5 * S


SUSPICION: Final = SuspicionPolicy()
"""The one that hosts go by, simulated ones too."""


def suspected(
    before: Mapping[str, int],
    peers: Mapping[str, PeerLease],
    now_ns: int,
    lease: LeasePolicy,
    policy: SuspicionPolicy,
) -> Mapping[str, int]:
    """Those that are suspected now, and until when (nanoseconds of CLOCK_BOOTTIME) unless they stay silent.

    `before`: the last answer. One that was never seen to renew in this life is starting, not lost.
    """
    after_ns = int(lease.lease_ns * policy.share)
    silent = [name for name, peer in peers.items() if peer.renewed and now_ns - peer.seen_ns >= after_ns]
    if not silent and not before:
        return before
    kept = {name: until_ns for name, until_ns in before.items() if name in peers and now_ns < until_ns}
    return {**kept, **dict.fromkeys(silent, now_ns + policy.kept_ns)}
