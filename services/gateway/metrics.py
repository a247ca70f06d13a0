"""The gateway's counters, as Prometheus text on `_metrics`."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

RTT_BUCKETS_S: Final = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1, 2)


class Direction(StrEnum):
    """Where a call goes: to another host, in from one, or to a program of this host."""

    OUT = "out"
    IN = "in"
    LOCAL = "local"


class GatewayMetrics:
    """One registry per gateway."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.calls = Counter(
            "threenines_gateway_calls",
            "Calls forwarded, by peer, direction and outcome",
            ("peer", "direction", "outcome"),
            registry=self.registry,
        )
        self.link_up = Gauge(
            "threenines_gateway_link_up", "1 while the link stands", ("peer",), registry=self.registry
        )
        self.link_rtt = Histogram(
            "threenines_gateway_link_rtt_seconds",
            "Time of a ping to the peer's gateway",
            ("peer",),
            buckets=RTT_BUCKETS_S,
            registry=self.registry,
        )
        self.in_flight = Gauge(
            "threenines_gateway_in_flight", "Calls on the way to a peer", ("peer",), registry=self.registry
        )

    def text(self) -> str:
        """Everything as Prometheus text."""
        return generate_latest(self.registry).decode()
