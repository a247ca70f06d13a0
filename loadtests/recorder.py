"""What a load generator keeps of its work: counts and histograms of each second, raw records beside them.

Recording an operation is a few microseconds; lines are written by `flush`, aside from the calls. A second's
figures are written once it is over, and again for what ends later: records of one second add up.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

from loadtests.histogram import Histogram
from loadtests.mix import Step
from loadtests.protocol import LoadCall, LoadKind, LoadPlan, LoadSecond, Trouble
from loadtests.raw import Raw
from loadtests.record import Kind, Record, encode_line, now_ns, raw

SECOND_NS = 1_000_000_000
Sink = Callable[[bytes], None]


class _Tally:
    """One kind of operation in one second."""

    __slots__ = ("arrivals", "counts", "latency")

    def __init__(self) -> None:
        self.arrivals = 0
        self.counts = {Kind.OK: 0, Kind.FAIL: 0, Kind.INFO: 0}
        self.latency = Histogram()


class _Second:
    __slots__ = ("kinds", "late", "planned")

    def __init__(self) -> None:
        self.planned = 0
        self.late: Histogram | None = None
        self.kinds: dict[str, _Tally] = {}


class Recorder:
    """The history of generator `place` of `places` on a host; `write` takes whole lines."""

    def __init__(self, host: str, write: Sink, raw_records: Raw = Raw.ALL, place: int = 0) -> None:
        self.host = host
        self.process = f"load-{host}-{place}" if place else f"load-{host}"
        self._write = write
        self._raw = raw_records
        self._lines: list[bytes] = []
        self._begin_ns = 0
        self._seconds: dict[int, _Second] = {}
        self._planned = False

    def begin(self, plan: LoadPlan) -> None:
        """Says what is meant to be done; `plan.begin_ns` is the begin of second 0."""
        self._begin_ns = plan.begin_ns
        self._planned = True
        self._add(self.process, Kind.INVOKE, "load-plan", self.host, plan, now_ns())

    def planned(self, due_ns: int) -> None:
        """An arrival was due."""
        self._second(due_ns).planned += 1

    def late(self, due_ns: int, late_ns: int) -> None:
        """The generator began it so much later, for no other reason than itself."""
        second = self._second(due_ns)
        if second.late is None:
            second.late = Histogram()
        second.late.record(late_ns)

    def ended(
        self,
        process: str,
        step: Step,
        due_ns: int,
        begun_ns: int,
        ended_ns: int,
        kind: Kind,
        trouble: Trouble | None,
        *,
        follows: bool = False,
    ) -> None:
        """An operation is over; `follows`: it was no arrival, its caller had asked before."""
        kinds = self._second(due_ns).kinds
        tally = kinds.get(step.f)
        if tally is None:
            tally = kinds[step.f] = _Tally()
        tally.counts[kind] += 1
        tally.arrivals += not follows
        tally.latency.record(ended_ns - due_ns)
        if self._raw is Raw.NONE or (self._raw is Raw.FAILURES and kind is Kind.OK):
            return
        call = LoadCall(
            intended_ns=due_ns,
            category=step.category,
            method=step.method,
            task=step.task,
            turn=step.turn,
            size_bytes=step.size_bytes,
            follows=follows,
        )
        self._add(process, Kind.INVOKE, step.f, step.agent, call, begun_ns)
        self._add(process, kind, step.f, step.agent, trouble, ended_ns)

    def flush(self, *, whole: bool = False) -> None:
        """Writes what is collected; seconds that are not over stay, unless `whole`."""
        over = (now_ns() - self._begin_ns) // SECOND_NS
        for number in sorted(self._seconds):
            if whole or number < over:
                self._tell(number, self._seconds.pop(number))
        lines, self._lines = self._lines, []
        if lines:
            self._write(b"".join(lines))

    def end(self) -> None:
        """The load is over: writes all."""
        if self._planned:
            self.flush(whole=True)
            self._add(self.process, Kind.OK, "load-plan", self.host, None, now_ns())
            self._planned = False
        self.flush(whole=True)

    def _second(self, due_ns: int) -> _Second:
        number = (due_ns - self._begin_ns) // SECOND_NS
        second = self._seconds.get(number)
        if second is None:
            second = self._seconds[number] = _Second()
        return second

    def _tell(self, number: int, second: _Second) -> None:
        value = LoadSecond(
            second=number,
            planned=second.planned,
            late=second.late.encode() if second.late is not None else "",
            kinds=tuple(
                LoadKind(
                    f=f,
                    ok=tally.counts[Kind.OK],
                    fail=tally.counts[Kind.FAIL],
                    info=tally.counts[Kind.INFO],
                    arrivals=tally.arrivals,
                    latency=tally.latency.encode(),
                )
                for f, tally in second.kinds.items()
            ),
        )
        begun_ns = self._begin_ns + number * SECOND_NS
        process = f"{self.process}-seconds"
        self._add(process, Kind.INVOKE, "load-second", self.host, None, begun_ns)
        self._add(process, Kind.OK, "load-second", self.host, value, max(begun_ns, now_ns()))

    def _add(self, process: str, kind: Kind, f: str, key: str, value: object, time_ns: int) -> None:
        record = Record(
            process=process, type=kind, f=f, key=key, value=raw(value), time_ns=time_ns, host=self.host
        )
        self._lines.append(encode_line(record))


class Sinks:
    """Writes lines to several places."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self._sinks = tuple(sinks)

    def __call__(self, lines: bytes) -> None:
        for sink in self._sinks:
            sink(lines)


class DescriptorSink:
    """Appends lines to a file descriptor. A reader that has gone away makes it do nothing."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._intact = True

    def __call__(self, lines: bytes) -> None:
        view = memoryview(lines)
        try:
            while view and self._intact:
                view = view[os.write(self._descriptor, view) :]
        except BrokenPipeError:
            self._intact = False
