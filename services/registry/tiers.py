"""How long an answer of the local tier may go unconfirmed, by criticality (SPEC SD-5)."""

from __future__ import annotations

from infra.topology import Criticality
from services.registry.model import Entry

LOCAL_TTL_S = {Criticality.CRITICAL: 30, Criticality.STANDARD: 120, Criticality.UTILITY: 300}


def local_ttl_ns(entry: Entry) -> int:
    """The strictest TTL among the entry's instances."""
    seconds = (LOCAL_TTL_S[instance.criticality] for instance in entry.instances)
    return min(seconds, default=LOCAL_TTL_S[Criticality.CRITICAL]) * 1_000_000_000
