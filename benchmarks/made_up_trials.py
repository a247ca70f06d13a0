"""Made-up trials of a night, as probes and harness tell them: faults on agents, switch-overs, lost hosts."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec

from benchmarks.made_up_records import Files
from loadtests.protocol import (
    Acted,
    Event,
    FaultPlan,
    HostFault,
    Intent,
    Picture,
    Proof,
    RegisterWish,
    Serving,
    SwitchOver,
    Trouble,
    View,
)
from loadtests.record import Kind
from verification.kinds import LEADER_FAULTS, LOSSES, SIGNALS
from verification.plan import FaultTrial, HostTrial, RunPlan, SwitchTrial

S, MS = 1_000_000_000, 1_000_000
NEVER = 2**62
FACTS = {"crash": "exited", "hang": "frozen", "errors": "misbehaving", "slow": "misbehaving"}
DETECTED_MS = {"crash": 20, "hang": 650, "errors": 250, "slow": 700}
VOID_SHARE = 0.02
"""Of the faults on agents: no proof of them came."""


class Trials:
    """Writes trial after trial; `at` is the instant that it has come to."""

    def __init__(self, plan: RunPlan, files: Files) -> None:
        self.plan = plan
        self.files = files
        self.chance = random.Random(plan.seed)
        self.at = 10**12
        self.seq = 0
        self.incarnations = {agent.name: 1 for agent in plan.agents}
        self.homes = {agent.name: agent.home for agent in plan.agents}
        self.epochs = dict.fromkeys(plan.hosts, 1)

    def fault(self, trial: FaultTrial) -> None:
        """One fault on an agent: noticed, replaced, validated."""
        files, agent, home, chance = self.files, trial.agent, trial.home, self.chance
        begin = self.at
        at = begin + 150 * MS
        old = self.incarnations[agent]
        new = self.incarnations[agent] = old + 1
        detected = DETECTED_MS[trial.fault]
        left = at + int(MS * detected * chance.uniform(0.8, 1.2))
        served = left + int(MS * chance.uniform(30, 90))
        valid = served + int(MS * chance.uniform(120, 250))
        end = valid + 60 * MS
        fact, proved = FACTS[trial.fault], chance.random() > VOID_SHARE
        signal = SIGNALS[trial.fault]
        told = FaultPlan(
            trial=trial.id, fault=trial.fault, signal=signal, home=home, incarnation=old, pid=4000 + old
        )
        files.pair("nemesis", f"trial-{trial.id}", "trial", trial.id, None, begin, end)
        files.pair("nemesis", f"nemesis-{trial.id}", "fault", agent, None, at, at + MS // 2, told, told)
        for one in ("exited", "frozen") if fact != "misbehaving" else (fact,):
            begun = Proof(trial=trial.id, pid=4000 + old, incarnation=old)
            good = one == fact and proved
            proof = msgspec.structs.replace(begun, fact=one if good else "none")
            kind, when = (Kind.OK, at + MS) if good else (Kind.FAIL, end)
            files.pair(
                f"probe-{home}",
                f"{one}-{home}-{agent}",
                one,
                agent,
                home,
                begin + MS,
                when,
                begun,
                proof,
                kind,
            )
        for host in self.plan.hosts:
            late = int(MS * chance.uniform(0, 8))
            for when, incarnation, reads in ((begin, old, 1), (left + late, new, 400), (end, new, 120)):
                view = View(
                    serving=(Serving(home, incarnation),), reads=reads, longest_gap_ms=chance.random() * 4
                )
                process = f"watch-{host}-{agent}"
                files.pair(f"probe-{host}", process, "watch", agent, host, when, when + MS // 20, None, view)
            self.calls(host, agent, begin, end, 10.0, at + MS, served + late)
        self.events(home, agent, new, (left - MS, served - 9 * MS, valid))
        self.at = end + 20 * MS

    def events(
        self, host: str, agent: str, incarnation: int, instants: Sequence[int], first: str = "exited"
    ) -> None:
        for word, at in zip((first, "promoted", "validated"), instants, strict=True):
            self.seq += 1
            event = Event(seq=self.seq, time_ns=at, event=word, agent=agent, incarnation=incarnation)
            begin, end = at + MS, at + 3 * MS
            self.files.pair(f"probe-{host}", f"event-{host}", "event", None, host, begin, end, None, [event])

    def calls(
        self, host: str, agent: str, begin: int, end: int, every_ms: float, gone: int, back: int
    ) -> None:
        """Calls from one host, which have no good answer from `gone` to `back`."""
        life, stem = 0, f"call-{host}-{agent}-{begin}-0"
        trouble = Trouble(error=f"{agent} has no usable instance", code="unavailable")
        for at in range(begin, end, int(every_ms * MS)):
            intent = Intent(method="recall", intended_ns=at)
            kind, told, took = Kind.OK, None, self.chance.randrange(300_000, 1_500_000)
            if at - 2 * MS < gone <= at + 2 * MS:
                kind, told = Kind.INFO, Trouble(error="no answer in 250 ms", code="indeterminate")
            elif gone < at < back:
                kind, told = Kind.FAIL, trouble
            self.files.pair(
                f"probe-{host}", f"{stem}.{life}", "call", agent, host, at, at + took, intent, told, kind
            )
            life += kind is Kind.INFO

    def switch(self, trial: SwitchTrial) -> None:
        """One planned switch-over, there; home again after it."""
        other = next(host for host in self.plan.hosts if host != trial.home)
        agents = [name for name in self.plan.registers if self.homes[name] == trial.home]
        begin, asked = self.at, self.at + S // 2
        answered = asked + int(MS * self.chance.uniform(150, 350))
        end = answered + S
        told = SwitchOver(home=trial.home, to=other)
        self.files.pair("nemesis", f"trial-{trial.id}", "trial", trial.id, None, begin, end)
        process = f"switchover-{trial.id}"
        self.files.pair("nemesis", process, "switchover", trial.id, None, asked, answered, told, told)
        for agent in agents:
            for host in self.plan.hosts:
                self.calls(host, agent, begin, end, 38.0, NEVER, NEVER)
            self.registers(trial.id, agent, end, 45.0, (answered, answered), other)
        self.epochs[trial.home] += 2  # there and home again
        self.at = end + S // 2

    def loss(self, trial: HostTrial) -> None:
        """One fault on a host; the other takes over, and afterwards all go home."""
        victim, observer = self.plan.hosts[0], self.plan.hosts[-1]
        loses = trial.fault in LOSSES
        begin, at = self.at, self.at + S
        left = at + int(MS * self.chance.uniform(1200, 1500))
        back = left + int(MS * self.chance.uniform(300, 600))
        healed, end = back + 2 * S, back + 5 * S
        served = sum(home == victim for home in self.homes.values())
        led = victim if trial.fault in LEADER_FAULTS else ""
        told = HostFault(trial=trial.id, fault=trial.fault, victim=victim, served=served, led=led)
        self.files.pair("nemesis", f"trial-{trial.id}", "trial", trial.id, None, begin, end)
        for f, when in (("host-fault", at), ("host-proof", at + 5 * MS), ("host-heal", healed)):
            process = f"{f}-{trial.id}"
            self.files.pair("nemesis", process, f, trial.id, None, when, when + 5 * MS, told, told)
        whole = Picture(serving={victim: served, observer: len(self.homes) - served})
        moved = Picture(serving={observer: len(self.homes)})
        pictures = [(begin, whole), (end + S // 2, whole)]
        if loses:
            lacking = Picture(serving={observer: len(self.homes) - served}, unserved=served)
            pictures += [(left, lacking), (back, moved)]
        for when, picture in pictures:
            process = f"fleet-{observer}"
            self.files.pair(
                f"probe-{observer}", process, "fleet", None, observer, when - MS, when, None, picture
            )
        for agent in self.plan.registers:
            lost = loses and self.homes[agent] == victim
            away = (at, back) if lost else (NEVER, NEVER)
            for host in self.plan.hosts:
                self.calls(host, agent, begin, end, 100.0, *away)
            self.registers(trial.id, agent, end, 200.0, away, observer)
        if loses:
            self.events(observer, self.plan.registers[0], 1, (left, back, back + 100 * MS), "takeover")
            self.epochs[victim] += 2
        self.at = end + S

    def registers(
        self, trial: str, agent: str, end: int, every_ms: float, away: tuple[int, int], to: str
    ) -> None:
        """Each host writes its register of an agent, both read; nobody answers while `away`, then `to`."""
        gone, back = away
        home = self.homes[agent]
        for number, writer in enumerate(self.plan.hosts):
            key = f"{agent}/{writer}/night.{trial}"
            last: int | None = None
            half = int(every_ms * MS / 2)
            for value, at in enumerate(range(self.at + (7 * number + 3) * MS, end, 2 * half)):
                reader = self.plan.hosts[value % 2]
                for f, host, begin in (("write", writer, at), ("read", reader, at + half)):
                    lost, moved = gone <= begin < back, begin >= back
                    if f == "write" and not lost:
                        last = value
                    told: object = Trouble(error="nobody serves", code="unavailable")
                    if not lost:
                        holder, epoch = to if moved else home, self.epochs[home] + moved
                        told = Acted(value=last, host=holder, epoch=epoch, incarnation=1)
                    wish = RegisterWish(value=value if f == "write" else None)
                    process, kind = f"{f}-{host}-{key}", Kind.FAIL if lost else Kind.OK
                    took = self.chance.randrange(800_000, 4_000_000)
                    self.files.pair(
                        f"probe-{host}", process, f, key, host, begin, begin + took, wish, told, kind
                    )
