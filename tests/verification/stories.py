"""Histories made up on purpose: what a checker must find in them is known."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import msgspec

from infra.topology import AgentSpec, Fleet, HostRole, HostSpec
from loadtests.protocol import (
    Answer,
    Event,
    FaultPlan,
    Intent,
    LoadCall,
    LoadPlan,
    Proof,
    Serving,
    View,
)
from loadtests.record import Kind, Record, raw
from verification.catalogue import Catalogue, load_catalogue
from verification.plan import Load, RunPlan, make_plan

HOSTS = ("mainpc", "pc2")
MS = 1_000_000
START_NS = 10**12


def fleet(agents: int = 4) -> Fleet:
    """So many agents, alternating between the hosts."""
    return Fleet(
        name="made-up",
        hosts=(
            HostSpec(name="mainpc"),
            HostSpec(name="pc2"),
            HostSpec(name="witness", role=HostRole.WITNESS),
        ),
        agents=tuple(
            AgentSpec(
                name=f"agent-{i}",
                home=HOSTS[i % 2],
                standby=HOSTS[1 - i % 2],
                category="core",
                handler="module:Class",
            )
            for i in range(agents)
        ),
    )


def plan(agents: int = 4, seed: int = 7, catalogue: Catalogue | None = None, per_s: float = 100.0) -> RunPlan:
    """The plan of the quick profile over that fleet."""
    return make_plan(
        profile="quick",
        seed=seed,
        fleet=fleet(agents),
        catalogue=catalogue or load_catalogue(),
        load=Load(workload="reference", per_s=per_s, users=10),
        created="2026-01-31T12:00:00Z",
    )


def with_plan(criterion: str, **changes: object) -> Catalogue:
    """The catalogue with another quick plan for one criterion."""
    catalogue = load_catalogue()
    entries = []
    for entry in catalogue.criteria:
        if entry.id == criterion:
            quick = msgspec.structs.replace(entry.plans["quick"], **changes)
            entries.append(msgspec.structs.replace(entry, plans={"quick": quick}))
        else:
            entries.append(entry)
    return msgspec.structs.replace(catalogue, criteria=tuple(entries))


def record(
    process: str, kind: Kind, f: str, key: str | None, value: object, ms: float, host: str | None = None
) -> Record:
    """A record so many milliseconds after the start."""
    return Record(
        process=process,
        type=kind,
        f=f,
        key=key,
        value=raw(value),
        time_ns=START_NS + round(ms * MS),
        host=host,
    )


def pair(
    process: str,
    f: str,
    key: str | None,
    begin_ms: float,
    end_ms: float,
    *,
    begun: object = None,
    kind: Kind = Kind.OK,
    ended: object = None,
    host: str | None = None,
) -> list[Record]:
    """An operation with its completion."""
    return [
        record(process, Kind.INVOKE, f, key, begun, begin_ms, host),
        record(process, kind, f, key, ended, end_ms, host),
    ]


@dataclass(frozen=True)
class Fault:
    """One fault trial as it shall have happened; times in milliseconds after the signal, None: never."""

    number: int = 0
    fault: str = "crash"
    agent: str = "agent-0"
    home: str = "mainpc"
    gone_ms: float | None = 1.0
    left_ms: tuple[float | None, ...] = (20.0, 25.0)
    served_ms: tuple[float | None, ...] = (50.0, 60.0)
    validated_ms: float | None = 80.0
    call_every_ms: float = 10.0
    end_ms: float = 10_000.0
    calls_before: int = 5
    signal_sent: bool = True
    finished: bool = True

    @property
    def id(self) -> str:
        return f"{self.fault}-{self.number:03d}"

    def records(self) -> list[Record]:
        """What probes and harness would have written, in order of time."""
        at = 100_000.0 * (self.number + 1)
        old, new = 10 * self.number + 1, 10 * self.number + 2
        told = FaultPlan(
            trial=self.id, fault=self.fault, signal="KILL", home=self.home, incarnation=old, pid=4000
        )
        lines = [record(f"trial-{self.id}", Kind.INVOKE, "trial", self.id, None, at - 500)]
        lines += pair(
            f"nemesis-{self.id}",
            "fault",
            self.agent,
            at,
            at + 0.5,
            begun=told,
            kind=Kind.OK if self.signal_sent else Kind.FAIL,
            ended=told,
        )
        lines += self._proof(at, old)
        for index, host in enumerate(HOSTS):
            lines += self._watch(host, at, old, new, self.left_ms[index])
            lines += self._calls(host, at, self.served_ms[index])
        if self.validated_ms is not None:
            event = Event(seq=self.number, time_ns=0, event="validated", agent=self.agent, incarnation=new)
            heard = at + self.validated_ms
            lines += pair(
                f"event-{self.home}", "event", None, heard - 1, heard, ended=[event], host=self.home
            )
        if self.finished:
            lines.append(record(f"trial-{self.id}", Kind.OK, "trial", self.id, None, at + self.end_ms))
        return sorted(lines, key=lambda line: line.time_ns)

    def _proof(self, at: float, old: int) -> list[Record]:
        fact = "exited" if self.fault == "crash" else "frozen"
        process = f"{fact}-{self.home}-{self.agent}"
        proof = Proof(trial=self.id, pid=4000, incarnation=old, fact=fact)
        kind = Kind.OK if self.gone_ms is not None else Kind.FAIL
        end = at + (self.gone_ms if self.gone_ms is not None else self.end_ms - 1)
        return pair(
            process, fact, self.agent, at - 400, end, begun=proof, kind=kind, ended=proof, host=self.home
        )

    def _watch(self, host: str, at: float, old: int, new: int, left_ms: float | None) -> list[Record]:
        process = f"watch-{host}-{self.agent}"
        before = View(serving=(Serving(self.home, old),), reads=1)
        lines = pair(process, "watch", self.agent, at - 400, at - 399.9, ended=before, host=host)
        if left_ms is not None:
            after = View(serving=(Serving(self.home, new),), reads=10)
            end = at + left_ms
            lines += pair(process, "watch", self.agent, end - 0.05, end, ended=after, host=host)
        return lines

    def _calls(self, host: str, at: float, served_ms: float | None) -> list[Record]:
        lines: list[Record] = []
        process = f"call-{host}-{self.agent}"
        intent = Intent(method="ask", intended_ns=0)
        for i in range(self.calls_before):
            begin = at - 300 + 10 * i
            lines += pair(process, "call", self.agent, begin, begin + 1, begun=intent, host=host)
        if served_ms is not None:
            for i in range(5):
                end = at + served_ms + self.call_every_ms * i
                lines += pair(process, "call", self.agent, end - 0.5, end, begun=intent, host=host)
        return lines


def faults(count: int, **changes: object) -> list[Record]:
    """So many trials, one after the other."""
    lines: list[Record] = []
    for number in range(count):
        lines += replace(Fault(number=number), **changes).records()  # type: ignore[arg-type]
    return lines


def load(per_s: float = 100.0, seconds: float = 20.0, hosts: Sequence[str] = HOSTS) -> list[Record]:
    """A load at that rate on each host, calls only."""
    lines: list[Record] = []
    for host in hosts:
        lines.append(
            record(f"load-{host}", Kind.INVOKE, "load-plan", host, LoadPlan(per_s=per_s, users=10), 0, host)
        )
        for i in range(round(per_s * seconds)):
            begin = 1000.0 * i / per_s
            call = LoadCall(intended_ns=0, category="core", method="ask")
            lines += pair(f"load-{host}-0", "load-call", "agent-0", begin, begin + 1, begun=call, host=host)
        lines.append(record(f"load-{host}", Kind.OK, "load-plan", host, None, 1000 * seconds, host))
    return lines


def look_ups(
    f: str, host: str, took_ms: Iterable[float], *, usable: int = 1, agent: str = "agent-0"
) -> list[Record]:
    """Look-ups one after the other."""
    lines: list[Record] = []
    at = 0.0
    for took in took_ms:
        lines += pair(f"{f}-{host}", f, agent, at, at + took, ended=Answer(usable=usable), host=host)
        at += took + 1.0
    return lines
