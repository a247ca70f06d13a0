"""Planned switch-overs, there and back, while both hosts call agents and write to them."""

from __future__ import annotations

import asyncio

import msgspec

from loadtests.protocol import Call, Registers, Release, SwitchOver
from loadtests.record import Kind, Record, now_ns, raw
from verification.campaigns.bench import Bench, obeyed
from verification.campaigns.stack_view import AskError, StackView
from verification.plan import SwitchTrial

LIMIT_S = 10.0
BEFORE_S = 0.5
AFTER_S = 0.5
CALL_EVERY_MS = 38.0
REGISTER_EVERY_MS = 45.0
CALL_LIMIT_MS = 5000
"""A call that meets a switch-over is held back, not failed: it gets the usual time of a caller."""
BODIES = {"recall": msgspec.Raw(b'{"key":"probe"}'), "_ping": msgspec.Raw(b"{}")}


class SwitchOvers:
    """The planned switch-overs of a run."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._view = StackView(bench.substrate, bench.plan.hosts)

    async def run(self) -> None:
        """Each: the domain to the other host, then home again."""
        bench = self._bench
        bench.progress.phase("planned switch-overs", len(bench.plan.switches))
        refused = 0
        try:
            for number, trial in enumerate(bench.plan.switches, 1):
                if bench.over():
                    return
                refused += not await self._one(trial)
                bench.progress.tick(number, f"{refused} refused")
        finally:
            await self._view.close()

    async def _one(self, trial: SwitchTrial) -> bool:
        bench = self._bench
        other = next(host for host in bench.plan.hosts if host != trial.home)
        at_home = {agent.name for agent in bench.plan.agents if agent.home == trial.home}
        agents = tuple(name for name in bench.plan.registers if name in at_home) or bench.plan.registers
        self._record(f"trial-{trial.id}", Kind.INVOKE, "trial", trial.id, None)
        told = Registers(
            agents=agents,
            hosts=bench.plan.hosts,
            round=bench.round(trial.id),
            interval_ms=REGISTER_EVERY_MS,
            timeout_ms=CALL_LIMIT_MS,
        )
        try:
            for probe in bench.probes.values():
                await obeyed(probe, told)
                for agent in agents:
                    await probe.ask(
                        Call(agent=agent, bodies=BODIES, interval_ms=CALL_EVERY_MS, timeout_ms=CALL_LIMIT_MS)
                    )
            good = True
            for to in (other, trial.home):
                await asyncio.sleep(BEFORE_S)
                good = await self._switch(trial, to) and good
            await asyncio.sleep(AFTER_S)
        finally:
            await asyncio.shield(self._release(agents))
        # One that broke has no end: it is made again.
        self._record(f"trial-{trial.id}", Kind.OK, "trial", trial.id, None)
        return good

    async def _release(self, agents: tuple[str, ...]) -> None:
        for probe in self._bench.probes.values():
            await probe.ask(Registers(agents=()))
            for agent in agents:
                await probe.ask(Release(agent=agent))

    async def _switch(self, trial: SwitchTrial, to: str) -> bool:
        """Asks the holder; the pair of records is from before the request to its answer."""
        bench, process = self._bench, f"switchover-{trial.id}"
        told = SwitchOver(home=trial.home, to=to)
        holder = next(host for host in bench.plan.hosts if host != to)
        try:
            found = (await self._view.domains(holder)).get(trial.home)
        except AskError as error:
            bench.note("switch-over not begun", trial=trial.id, why=str(error))
            return False
        if found is None or found.holder == to:
            bench.note("switch-over not begun", trial=trial.id, why=f"{trial.home} is not held elsewhere")
            return False
        self._record(process, Kind.INVOKE, "switchover", trial.id, told)
        why = await self._view.switch_over(found.holder, trial.home, to, LIMIT_S)
        kind = Kind.OK if why is None else Kind.FAIL
        self._record(process, kind, "switchover", trial.id, msgspec.structs.replace(told, detail=why or ""))
        return why is None

    def _record(self, process: str, kind: Kind, f: str, key: str, value: object) -> None:
        self._bench.nemesis.record(
            Record(process=process, type=kind, f=f, key=key, value=raw(value), time_ns=now_ns())
        )
