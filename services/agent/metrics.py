"""An agent's metrics: plain numbers while it works, Prometheus families when it is asked."""

from __future__ import annotations

import os
import resource
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

BUCKETS_S: Final = tuple(step * 10.0**power for power in (-4, -3, -2, -1, 0) for step in (1.0, 2.5, 5.0))
_PAGE_BYTES: Final = resource.getpagesize()
OTHER: Final = "_other"


class _Durations:
    __slots__ = ("counts", "total_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.total_s = 0.0


class CallMetrics:
    """Counts calls by method and outcome. Method names come from the agent's table only (bounded labels)."""

    def __init__(
        self,
        *,
        in_flight: Callable[[], int],
        waiting: Callable[[], int],
        state_items: Callable[[], int],
        up: Callable[[], bool],
    ) -> None:
        self._calls: dict[tuple[str, str], int] = {}
        self._durations: dict[str, _Durations] = {}
        self._in_flight = in_flight
        self._waiting = waiting
        self._state_items = state_items
        self._up = up
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(self)

    def count(self, method: str, outcome: str, duration_s: float) -> None:
        """One call ended: `outcome` is `ok` or a failure's code."""
        key = (method, outcome)
        self._calls[key] = self._calls.get(key, 0) + 1
        durations = self._durations.get(method)
        if durations is None:
            durations = self._durations[method] = _Durations()
        durations.counts[bisect_left(BUCKETS_S, duration_s)] += 1
        durations.total_s += duration_s

    def calls(self, method: str, outcome: str) -> int:
        """Calls of `method` that ended in `outcome`."""
        return self._calls.get((method, outcome), 0)

    def text(self) -> str:
        """Everything as Prometheus text."""
        return generate_latest(self._registry).decode()

    def collect(self) -> Iterator[Metric]:
        """prometheus_client's side."""
        calls = CounterMetricFamily(
            "threenines_agent_calls", "Calls handled, by method and outcome", labels=("method", "outcome")
        )
        for (name, outcome), number in sorted(self._calls.items()):
            calls.add_metric((name, outcome), number)
        yield calls
        seconds = HistogramMetricFamily(
            "threenines_agent_call_seconds", "Time from a request's arrival to its reply", labels=("method",)
        )
        for name, durations in sorted(self._durations.items()):
            buckets, cumulated = [], 0
            for bound, number in zip((*map(str, BUCKETS_S), "+Inf"), durations.counts, strict=True):
                cumulated += number
                buckets.append((bound, float(cumulated)))
            seconds.add_metric((name,), buckets, durations.total_s)
        yield seconds
        times = os.times()
        for metric, text, value in (
            ("threenines_agent_up", "1 while the agent accepts calls", float(self._up())),
            ("threenines_agent_in_flight", "Calls being handled", self._in_flight()),
            ("threenines_agent_waiting", "Calls in the line before the agent", self._waiting()),
            ("threenines_agent_resident_bytes", "Resident memory, shared pages included", _resident_bytes()),
            ("threenines_agent_state_items", "Values in the agent's state", self._state_items()),
        ):
            yield GaugeMetricFamily(metric, text, value)
        yield CounterMetricFamily(
            "threenines_agent_cpu_seconds", "CPU time, user and system", times.user + times.system
        )


def _resident_bytes() -> int:
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES
