"""hostd's own metrics, and those of programs that have none of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import psutil  # type: ignore[import-untyped]
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STATES = ("starting", "up", "unhealthy", "draining", "down")
_LATENCY_BUCKETS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.15, 0.25, 0.5, 1.0, 2.5)


@dataclass(frozen=True, slots=True)
class HostFigures:
    """What is read off at each scrape. Ages in seconds."""

    agents: Mapping[str, int]
    restarts: Mapping[tuple[str, str], int]
    generation: int
    snapshot_age_s: float
    stale: bool
    etcd_up: bool
    records_pending: int
    lease_held: bool
    epoch: int
    event_lines_lost: int


class HostMetrics:
    """`figures` is asked at each scrape; renewals and requests are observed as they happen."""

    def __init__(self, figures: Callable[[], HostFigures]) -> None:
        self._figures = figures
        self._registry = CollectorRegistry()
        self.renewal = Histogram(
            "threenines_host_lease_renewal_seconds",
            "Time from sending a renewal of the host's record to its acknowledgement",
            registry=self._registry,
            buckets=_LATENCY_BUCKETS_S,
        )
        self.request = Histogram(
            "threenines_host_etcd_request_seconds",
            "Time of a write to etcd until its acknowledgement",
            registry=self._registry,
            buckets=_LATENCY_BUCKETS_S,
        )
        self._registry.register(self)

    def text(self) -> str:
        """Everything as Prometheus text."""
        return generate_latest(self._registry).decode()

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's side."""
        now = self._figures()
        agents = GaugeMetricFamily(
            "threenines_host_agents", "Agents of this host by state", labels=("state",)
        )
        for state in STATES:
            agents.add_metric((state,), now.agents.get(state, 0))
        yield agents
        restarts = CounterMetricFamily(
            "threenines_host_agent_restarts",
            "Processes that ended and were wanted",
            labels=("agent", "cause"),
        )
        for (agent, cause), number in sorted(now.restarts.items()):
            restarts.add_metric((agent, cause), number)
        yield restarts
        for name, text, value in (
            ("snapshot_generation", "Number of the published discovery snapshot", now.generation),
            ("snapshot_age_seconds", "Time since the discovery view was last confirmed", now.snapshot_age_s),
            ("snapshot_stale", "1 while the answers of discovery are marked stale", float(now.stale)),
            ("etcd_up", "1 while etcd acknowledges this host's renewals", float(now.etcd_up)),
            ("records_pending", "Records that etcd has not acknowledged", now.records_pending),
            ("lease_held", "1 while this host may act for its agents", float(now.lease_held)),
            ("epoch", "The host's epoch: rises with each start of hostd", now.epoch),
        ):
            yield GaugeMetricFamily(f"threenines_host_{name}", text, value)
        yield CounterMetricFamily(
            "threenines_host_event_lines_lost", "Event lines that the disk refused", now.event_lines_lost
        )
        process = psutil.Process()
        with process.oneshot():
            cpu = process.cpu_times()
            yield CounterMetricFamily(
                "threenines_host_cpu_seconds", "CPU time of hostd, user and system", cpu.user + cpu.system
            )
            yield GaugeMetricFamily(
                "threenines_host_resident_bytes", "Resident memory of hostd", process.memory_info().rss
            )


class _Program(Protocol):
    def collect(self) -> Iterator[Metric]: ...


@dataclass(frozen=True, slots=True)
class _ProgramFigures:
    pid: int | None
    up: bool

    def collect(self) -> Iterator[Metric]:
        yield GaugeMetricFamily("threenines_agent_up", "1 while the program passes its check", float(self.up))
        if self.pid is None:
            return
        resident, cpu_s = 0, 0.0
        try:
            root = psutil.Process(self.pid)
            for process in (root, *root.children(recursive=True)):
                resident += process.memory_info().rss
                times = process.cpu_times()
                cpu_s += times.user + times.system
        except psutil.Error:
            return  # it ended while it was looked at
        yield GaugeMetricFamily("threenines_agent_resident_bytes", "Resident memory", resident)
        yield CounterMetricFamily("threenines_agent_cpu_seconds", "CPU time, user and system", cpu_s)


def program_metrics(pid: int | None, up: bool) -> str:
    """What the kernel knows of a program and its children; `pid` None: only whether it is up."""
    registry = CollectorRegistry()
    figures: _Program = _ProgramFigures(pid, up)
    registry.register(figures)
    return generate_latest(registry).decode()
