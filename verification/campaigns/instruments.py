"""How far the hosts' clocks are from the harness's, before anything else runs."""

from __future__ import annotations

from loadtests.instrument import ClockReading, clock_offset
from loadtests.protocol import ReadClock, Trouble
from loadtests.record import Kind, Record, now_ns, raw
from verification.campaigns.bench import Bench
from verification.links import ProbeLink

EXCHANGES = 15


async def clocks(bench: Bench) -> None:
    """Asks each host for its time; one host after the other, so that no answer waits for another."""
    bench.progress.phase("comparing clocks")
    for host, probe in bench.probes.items():
        begun_ns = now_ns()
        exchanges = await _exchanges(probe)
        kind: Kind = Kind.OK if exchanges else Kind.FAIL
        value = clock_offset(exchanges) if exchanges else Trouble(error="the probe tells no time")
        for which, told, at in ((Kind.INVOKE, None, begun_ns), (kind, value, now_ns())):
            bench.nemesis.record(
                Record(
                    process=f"clock-{host}",
                    type=which,
                    f="clock-offset",
                    key=host,
                    value=raw(told),
                    time_ns=at,
                    host=host,
                )
            )


async def _exchanges(probe: ProbeLink) -> list[ClockReading]:
    found = []
    for _ in range(EXCHANGES):
        asked_ns = now_ns()
        told = await probe.ask(ReadClock())
        answered_ns = now_ns()
        if told.clock_ns is not None:
            found.append(ClockReading(asked_ns, told.clock_ns, answered_ns))
    return found
