"""The lifetimes of cached discovery, tier by tier (SPEC SD-5)."""

from __future__ import annotations

from infra.topology import Criticality
from services.registry.model import Entry

LOCAL_TTL_S = {Criticality.CRITICAL: 30, Criticality.STANDARD: 120, Criticality.UTILITY: 300}
DISTRIBUTED_TTL_S = (300, 1800)


def local_ttl_ns(entry: Entry) -> int:
    """How long an answer may go unconfirmed: the strictest TTL among the entry's instances."""
    seconds = (LOCAL_TTL_S[instance.criticality] for instance in entry.instances)
    return min(seconds, default=LOCAL_TTL_S[Criticality.CRITICAL]) * 1_000_000_000


def distributed_ttl_s(unchanged_s: float) -> int:
    """How long a saved view is kept: the longer it did not change before, the longer it is worth keeping."""
    shortest, longest = DISTRIBUTED_TTL_S
    return int(min(longest, shortest + max(0.0, unchanged_s)))
