"""What a load came to, from the records that its generators wrote: planned, reached, latencies. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from loadtests.histogram import Histogram
from loadtests.protocol import LoadPlan, LoadSecond
from loadtests.record import Kind, Record
from loadtests.workload import Loop

LEAST_SHARE = 0.95
"""Of the planned arrivals; a load below it is void."""
QUANTILES = (0.5, 0.9, 0.99, 0.999)
FAR_SIGMA = 6.0


@dataclass
class KindOutcome:
    """One kind of operation: how many ended how, and their latency from the intended start."""

    ok: int = 0
    fail: int = 0
    info: int = 0
    latency: Histogram = field(default_factory=Histogram)

    @property
    def count(self) -> int:
        """All of them."""
        return self.ok + self.fail + self.info


@dataclass
class HostOutcome:
    """What the generators of one host did. `last_s`: the end of the last second in which anything was due."""

    host: str
    plans: list[LoadPlan] = field(default_factory=list)
    finished: int = 0
    planned: int = 0
    arrivals: int = 0
    last_s: int = 0
    kinds: dict[str, KindOutcome] = field(default_factory=dict)
    late: Histogram = field(default_factory=Histogram)

    @property
    def told(self) -> bool:
        """Whether there is any second of it."""
        return bool(self.kinds) or self.planned > 0

    @property
    def share(self) -> float:
        """Arrivals that came to an end, over those planned."""
        return self.arrivals / self.planned if self.planned else 0.0

    @property
    def operations(self) -> int:
        """All operations that came to an end."""
        return sum(kind.count for kind in self.kinds.values())

    @property
    def failed(self) -> int:
        """Of these, all that did not go well."""
        return sum(kind.fail + kind.info for kind in self.kinds.values())

    @property
    def closed(self) -> bool:
        """Whether it was a closed loop."""
        return any(plan.workload is not None and plan.workload.loop is Loop.CLOSED for plan in self.plans)

    def add(self, second: LoadSecond) -> None:
        """Counts one more record of a second."""
        self.planned += second.planned
        if second.planned:
            self.last_s = max(self.last_s, second.second + 1)
        self.late.add_encoded(second.late)
        for told in second.kinds:
            kind = self.kinds.setdefault(told.f, KindOutcome())
            kind.ok += told.ok
            kind.fail += told.fail
            kind.info += told.info
            kind.latency.add_encoded(told.latency)
            self.arrivals += told.arrivals

    def shortfall(self, least_share: float = LEAST_SHARE) -> str | None:
        """Why this load proves nothing; None when it does."""
        if self.closed:
            return f"the load on {self.host} was a closed loop, which hides stalls"
        if not self.planned:
            return f"no load ran on {self.host}"
        if self.share < least_share:
            return (
                f"the load on {self.host} reached {self.share:.1%} of its {self.planned:,} planned arrivals "
                f"({least_share:.0%} are needed)"
            )
        return self._unlike_its_plan()

    def _unlike_its_plan(self) -> str | None:
        """A generator that planned less than its workload says (or more) is not believed."""
        workload = self.plans[0].workload if self.plans else None
        if workload is None or workload.replay is not None or self.last_s < 1:
            return None
        least, most = (workload.profile.expected(t) for t in (self.last_s - 1, self.last_s))
        slack = FAR_SIGMA * max(most, 1.0) ** 0.5
        if least - slack <= self.planned <= most + slack:
            return None
        return (
            f"the load on {self.host} planned {self.planned:,} arrivals in {self.last_s} s, "
            f"where its workload has {most:,.0f}"
        )


class Outcome:
    """The outcome of a load over all of its hosts."""

    def __init__(self) -> None:
        self.hosts: dict[str, HostOutcome] = {}
        self._decoder = msgspec.json.Decoder(Record)

    def take(self, lines: bytes) -> None:
        """Counts whole lines of history; those of single operations are passed over."""
        for line in lines.splitlines():
            if b'"f":"load-plan"' in line or b'"f":"load-second"' in line:
                self.take_record(self._decoder.decode(line))

    def take_record(self, record: Record) -> None:
        """Counts one record."""
        host = record.host or ""
        outcome = self.hosts.setdefault(host, HostOutcome(host))
        if record.f == "load-plan" and record.type is Kind.INVOKE:
            outcome.plans.append(msgspec.json.decode(record.value, type=LoadPlan))
        elif record.f == "load-plan":
            outcome.finished += 1
        elif record.f == "load-second" and record.type is Kind.OK:
            outcome.add(msgspec.json.decode(record.value, type=LoadSecond))

    def shortfall(self, least_share: float = LEAST_SHARE) -> str | None:
        """Why the load proves nothing; None when it does."""
        if not self.hosts:
            return "no load ran"
        for one in self.hosts.values():
            if (why := one.shortfall(least_share)) is not None:
                return why
            if one.finished < len(one.plans):
                silent = len(one.plans) - one.finished
                return f"{silent} of {len(one.plans)} generators on {one.host} did not tell the end of theirs"
        return None

    def merged(self) -> Mapping[str, KindOutcome]:
        """By kind of operation, over all hosts."""
        return merge(self.hosts.values())

    def summary(self) -> Sequence[str]:
        """What to tell a person, a line each."""
        lines = []
        for host in sorted(self.hosts.values(), key=lambda one: one.host):
            told = f"load on {host.host}: {host.operations:,} operations, {host.failed:,} failed"
            if not host.closed:
                told += f"; {host.arrivals:,} of {host.planned:,} planned arrivals ({host.share:.1%})"
            lines.append(told)
            lines += _generator_lines(host)
        for f, kind in sorted(self.merged().items()):
            lines.append(f"{f.removeprefix('load-')}: {kind.count:,}{_latencies(kind.latency)}")
        why = self.shortfall()
        if why is not None:
            lines.append(f"VOID: {why}")
        return lines


def merge(hosts: Iterable[HostOutcome]) -> dict[str, KindOutcome]:
    """The kinds of several hosts together."""
    merged: dict[str, KindOutcome] = {}
    for host in hosts:
        for f, kind in host.kinds.items():
            whole = merged.setdefault(f, KindOutcome())
            whole.ok += kind.ok
            whole.fail += kind.fail
            whole.info += kind.info
            whole.latency.add(kind.latency)
    return merged


def _latencies(latency: Histogram) -> str:
    if not latency.count:
        return ""
    values = latency.quantiles_ms(QUANTILES)
    told = ", ".join(
        f"p{share * 100:g} {value:.3g} ms" for share, value in zip(QUANTILES, values, strict=True)
    )
    return f"; from the intended start {told}, most {latency.largest_ms():.3g} ms"


def _generator_lines(host: HostOutcome) -> list[str]:
    p99_ms = host.late.quantile_ms(0.99)
    limits = [plan.workload.late_limit_ms for plan in host.plans if plan.workload is not None]
    if p99_ms is None or not limits:
        return []
    held = f"generator on {host.host}: began operations {p99_ms:.2f} ms late (p99) with a user free"
    if p99_ms <= min(limits):
        return [held]
    return [f"{held}: over its limit of {min(limits):g} ms; it cannot hold this rate here"]
