"""Takes hosts away, one after the other, while the others are watched, called, written to and read from.

The worker that serves most agents is the next victim: what was lost in one trial stands by in the next, so
that no trial waits for a fail-back.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import msgspec

from chaos.errors import LeaseLost
from infra.substrates.base import SubstrateError
from loadtests.protocol import Call, Events, Fleet, HostFault, Picture, Registers, Release
from loadtests.record import Kind, Record, now_ns, raw
from verification.campaigns.bench import Bench, obeyed
from verification.campaigns.host_faults import KINDS, HostFaultKind, Scene, proved
from verification.campaigns.host_tracker import HostTracker
from verification.campaigns.stack_view import AskError, StackView
from verification.kinds import SAFETY_FAULTS
from verification.links import EVERY, LinkError, ProbeLink
from verification.plan import HostTrial

SETTLE_LIMIT_S = 60.0
USUAL_LIMIT_S = 8.0
"""So long the usual number of instances is waited for; then those at home have to do."""
READY_LIMIT_S = 15.0
PROBE_ENDS_LIMIT_S = 5.0
"""How long the pipe of a probe that was killed with its host may take to say so."""
TRIAL_LIMIT_S = 240.0
"""More than all waits of a trial together: one that is still not over hangs."""
MOST_BROKEN = 3
"""So many trials in a row that could not be made: the stack or the harness is broken, not a trial."""
POLL_S = 0.25
LINGER_S = 0.05
SWITCH_LIMIT_S = 10.0
LED_FOR_S = 1.0
"""So long a victim that has to lead etcd has led it when it is lost; after three the witness is asked to."""
HOME_TRIES = 3
CALL_EVERY_MS = 100.0
REGISTER_EVERY_MS = 200.0
BODIES = {"recall": msgspec.Raw(b'{"key":"probe"}'), "_ping": msgspec.Raw(b"{}")}
"""Reads of an agent's state: answered by nobody but an owner that has loaded it."""


class HostTrials:
    """The trials on hosts of a run."""

    def __init__(self, bench: Bench, timeout_s: float) -> None:
        self._bench = bench
        self._timeout_s = timeout_s
        self._view = StackView(bench.substrate, bench.plan.hosts)
        self._waiting = [trial for trial in bench.plan.host_faults if not trial.reserve]
        self._reserve = [trial for trial in bench.plan.host_faults if trial.reserve]
        self._names = tuple(agent.name for agent in bench.plan.agents if agent.standby is not None)
        self._homed = dict(Counter(agent.home for agent in bench.plan.agents if agent.faults))
        self._serving: dict[str, int] = {}
        self._broken = 0
        self._done = self._void = self._late = 0
        self._slowest_ms: dict[str, float] = {}

    async def run(self) -> None:
        """Runs them all in the plan's order; at the end every domain is at home again."""
        bench = self._bench
        bench.progress.phase("losses of hosts", len(self._waiting))
        await bench.guarded.stand()
        try:
            await self._view.learn()
        except AskError as error:
            raise LinkError(
                f"hostd on {bench.plan.hosts[0]}", str(error), "see `threenines status`"
            ) from error
        try:
            while self._waiting and not bench.over():
                trial = self._waiting.pop(0)
                self._finished(trial, await self._made(trial))
        finally:
            await asyncio.shield(self._silence())
            await asyncio.shield(self._go_home())
            await self._view.close()

    def _finished(self, trial: HostTrial, took_ms: float | None) -> None:
        if took_ms is None:
            self._void += 1
            spare = next((one for one in self._reserve if one.fault == trial.fault), None)
            if spare is not None:
                self._reserve.remove(spare)
                self._waiting.append(spare)
        else:
            self._done += 1
            late = took_ms >= self._timeout_s * 1000
            self._late += late
            self._slowest_ms[trial.fault] = max(self._slowest_ms.get(trial.fault, 0.0), took_ms)
        slowest = ", ".join(f"slowest {kind} {ms:.0f} ms" for kind, ms in self._slowest_ms.items())
        note = f"{self._late} not recovered, {self._void} void" + (f", {slowest}" if slowest else "")
        self._bench.progress.tick(self._done, note)

    # One trial.

    async def _made(self, trial: HostTrial) -> float | None:
        """One trial; what breaks in the harness meanwhile makes it void and ends no campaign.

        Raises what broke when several trials in a row could not be made.
        """
        try:
            async with asyncio.timeout(TRIAL_LIMIT_S):
                took_ms = await self._trial(trial)
        except (LinkError, SubstrateError, TimeoutError) as error:
            self._bench.note("trial broke", trial=trial.id, why=str(error) or "it hung")
            self._broken += 1
            if self._broken >= MOST_BROKEN:
                raise
            return None
        self._broken = 0
        return took_ms

    async def _trial(self, trial: HostTrial) -> float | None:
        """Milliseconds from the fault to the last thing that was waited for; None: the trial is void.

        A trial that breaks has no end in the history, which makes it void for every checker.
        """
        bench, kind = self._bench, KINDS[trial.fault]
        self._mark(trial, Kind.INVOKE)
        took_ms = None
        try:
            await bench.guarded.stand()
            scene = await self._scene(trial, kind)
            if scene is not None:
                registers = len(bench.plan.registers) * len(bench.plan.hosts)
                tracker = HostTracker(bench.plan.registers, registers, len(self._names))
                observer = bench.probes[scene.observer]
                with observer.listening(EVERY, tracker.listener()):
                    took_ms = await self._led(trial, kind, scene, tracker)
        except LeaseLost as error:
            bench.note("trial void", trial=trial.id, why=str(error))
            return None
        self._mark(trial, Kind.OK)
        return took_ms

    async def _led(
        self, trial: HostTrial, kind: HostFaultKind, scene: Scene, tracker: HostTracker
    ) -> float | None:
        """As `_observed`; where the victim has to lead etcd, the witness leads again afterwards.

        Left alone, hosts would hand it over ever more seldom, for they see that it does not last.
        """
        try:
            return await self._observed(trial, kind, scene, tracker)
        finally:
            if kind.leads and scene.witness is not None:
                await asyncio.shield(self._lead(scene.witness))

    async def _scene(self, trial: HostTrial, kind: HostFaultKind) -> Scene | None:
        """Everything is back and in use; None when the trial cannot be made. Raises LinkError."""
        bench = self._bench
        why = await self._settled()
        if why is not None:
            raise LinkError(f"stack {', '.join(bench.plan.hosts)}", f"is not whole: {why}", "see its status")
        for host in bench.plan.hosts:
            await self._revive(host)
        victim, observer = self._places()
        scene = Scene(bench.substrate, victim, observer, bench.witness)
        why = kind.possible(scene)
        if why is not None:
            bench.note("trial not begun", trial=trial.id, why=why)
            return None
        for probe in bench.probes.values():
            await self._used(trial, probe, writes=True)
        return scene

    async def _used(self, trial: HostTrial, probe: ProbeLink, *, writes: bool) -> None:
        """Has the probe call agents and work with their registers."""
        plan = self._bench.plan
        told = Registers(
            agents=plan.registers,
            hosts=plan.hosts,
            round=self._bench.round(trial.id),
            interval_ms=REGISTER_EVERY_MS,
            writes=writes,
        )
        await obeyed(probe, told)
        for agent in plan.registers:
            await probe.ask(Call(agent=agent, bodies=BODIES, interval_ms=CALL_EVERY_MS))

    async def _observed(
        self, trial: HostTrial, kind: HostFaultKind, scene: Scene, tracker: HostTracker
    ) -> float | None:
        bench = self._bench
        # What is there already is told again, now that somebody listens.
        await bench.probes[scene.observer].ask(Fleet(names=self._names))
        if not await _within(tracker.ready, READY_LIMIT_S):
            bench.note("trial not begun", trial=trial.id, why=f"not all served as {scene.observer} sees it")
            return None
        if kind.leads:
            await self._lead(scene.victim)
            await asyncio.sleep(LED_FOR_S)
        led = await self._view.leader(bench.members) or ""
        if kind.leads and led != scene.victim:
            bench.note("trial not begun", trial=trial.id, why=f"etcd is led by {led or 'nobody'}")
            return None
        served = tracker.serving.get(scene.victim, 0)
        told = HostFault(trial=trial.id, fault=trial.fault, victim=scene.victim, served=served, led=led)
        bench.note("host fault", trial=trial.id, victim=scene.victim, fault=trial.fault)
        undo = kind.undo(scene)
        touched = tuple({f"host/{one.host}": None for one in undo})
        async with bench.guarded.covered(f"{trial.fault} {scene.victim}", touched, undo) as cover:
            begin_ns = now_ns()
            try:
                sent = await self._do(trial, "host-fault", told, kind.inject, scene)
                effect_ns = await self._effect(trial, told, kind, scene) if sent else None
                if effect_ns is not None and kind.loses:
                    tracker.lost(scene.victim, effect_ns)
                    await _within(tracker.done, self._timeout_s)
                    await asyncio.sleep(LINGER_S)
                elif effect_ns is not None:
                    await asyncio.sleep(kind.hold_s)
            finally:
                healed = await asyncio.shield(self._do(trial, "host-heal", told, kind.heal, scene))
                if healed:
                    cover.healed()
        if not healed:
            raise LinkError(
                f"host {scene.victim}", f"{trial.fault} had to be undone by force", "look at the journal"
            )
        if effect_ns is None:
            return None
        if not kind.loses:
            begin_ns = now_ns()
            with contextlib.ExitStack() as anew:
                if scene.observer in _gone(kind, scene):
                    anew.enter_context(await self._seen_anew(trial, scene.observer, tracker))
                tracker.untouched(begin_ns)
                await _within(tracker.done, self._timeout_s)
        end_ns = tracker.end_ns
        if kind.loses and trial.fault in SAFETY_FAULTS:
            # What is judged is the service after the healing: it has to be seen before the trial ends.
            tracker.untouched(now_ns())
            await _within(tracker.done, self._timeout_s)
        return self._timeout_s * 1000 if end_ns is None else max(0.0, (end_ns - begin_ns) / 1e6)

    async def _lead(self, host: str) -> None:
        try:
            await self._view.lead(host, self._bench.members)
        except AskError as error:
            self._bench.note("leadership not moved", to=host, why=str(error))

    async def _seen_anew(self, trial: HostTrial, host: str, tracker: HostTracker) -> contextlib.ExitStack:
        """Has a new probe on `host` see the service come back; while in the context, `tracker` hears it.

        Nothing of it asks the daemon, which may take long to be back: that is what the trial measures. The
        registers are only read: their writers ended with the hosts, and nobody else may write to them.
        """
        bench = self._bench
        await bench.revive(host)
        probe = bench.probes[host]
        tracker.blinded()
        with contextlib.ExitStack() as heard:
            heard.enter_context(probe.listening(EVERY, tracker.listener()))
            await obeyed(probe, Fleet(names=self._names))
            await self._used(trial, probe, writes=False)
            return heard.pop_all()

    async def _effect(
        self, trial: HostTrial, told: HostFault, kind: HostFaultKind, scene: Scene
    ) -> int | None:
        """Until the fault is proved; when that was at the latest, None: no proof."""
        bench, process = self._bench, f"proof-{trial.id}"
        self._record(process, Kind.INVOKE, "host-proof", trial.id, told)
        good = await proved(kind, scene)
        for host in _gone(kind, scene):
            # A program of ours on the host was killed as well: its pipe says so, which is the kernel's word.
            good = good and await _within(bench.probes[host].ended, PROBE_ENDS_LIMIT_S)
        at_ns = now_ns()
        self._record(process, Kind.OK if good else Kind.FAIL, "host-proof", trial.id, told, at_ns)
        return at_ns if good else None

    async def _do(self, trial: HostTrial, f: str, told: HostFault, verb: object, scene: Scene) -> bool:
        """Injects or heals; both instants are on record."""
        process = f"{f}-{trial.id}"
        assert callable(verb)
        self._record(process, Kind.INVOKE, f, trial.id, told)
        try:
            await asyncio.to_thread(verb, scene)
        except SubstrateError as error:
            self._record(process, Kind.FAIL, f, trial.id, msgspec.structs.replace(told, detail=str(error)))
            self._bench.note(f"{f} failed", trial=trial.id, error=str(error))
            return False
        self._record(process, Kind.OK, f, trial.id, told)
        return True

    # Between trials.

    async def _settled(self) -> str | None:
        """Waits until everything is back; what lacks when it does not come in time."""
        loop = asyncio.get_running_loop()
        begin = loop.time()
        waited: str | None = None
        while True:
            # What stood by for an agent that has gone home since is not usual any more.
            patient = loop.time() < begin + USUAL_LIMIT_S
            lacks = await self._lacks(None if patient else self._homed)
            if lacks is None or loop.time() >= begin + SETTLE_LIMIT_S:
                if waited is not None:
                    self._bench.note("settled", after_s=f"{loop.time() - begin:.1f}", waited_for=waited)
                return lacks
            waited = lacks
            await asyncio.sleep(POLL_S)

    async def _lacks(self, least: dict[str, int] | None) -> str | None:
        """What is not back yet, None: nothing."""
        lacks = await self._view.whole(least)
        if lacks is not None:
            return lacks
        well = await asyncio.gather(*(self._view.member_well(host) for host in self._bench.members))
        sick = [host for host, good in zip(self._bench.members, well, strict=True) if not good]
        return f"etcd on {', '.join(sick)} is not well" if sick else None

    async def _revive(self, host: str) -> None:
        """Sees that a probe of this host lives, follows its daemon and looks at the fleet.

        Raises LinkError; TimeoutError when nobody serves anything there.
        """
        bench = self._bench
        if bench.probes[host].ended.is_set():
            await bench.revive(host)
        probe = bench.probes[host]
        await obeyed(probe, Events())

        def seen(record: Record) -> None:
            if record.f == "fleet" and record.type is Kind.OK:
                self._serving = msgspec.json.decode(record.value, type=Picture).serving

        with probe.listening(None, seen):
            self._serving = {}
            await obeyed(probe, Fleet(names=self._names))
            async with asyncio.timeout(READY_LIMIT_S):
                while not self._serving:  # noqa: ASYNC110  it comes with the first record of the watch
                    await asyncio.sleep(POLL_S / 10)

    def _places(self) -> tuple[str, str]:
        """Victim and observer: who serves most, and another worker. A tie goes by the plan's seed."""
        hosts = self._bench.plan.hosts
        victim = max(hosts, key=lambda host: (self._serving.get(host, 0), host == hosts[0]))
        return victim, next(host for host in hosts if host != victim)

    async def _silence(self) -> None:
        """Ends what the probes do for these trials."""
        for probe in self._bench.probes.values():
            with contextlib.suppress(LinkError, TimeoutError):
                await probe.ask(Registers(agents=()), READY_LIMIT_S)
                await probe.ask(Fleet(names=()), READY_LIMIT_S)
                for agent in self._bench.plan.registers:
                    await probe.ask(Release(agent=agent), READY_LIMIT_S)

    async def _go_home(self) -> None:
        """Every domain back to its home host, as the stack was found; what cannot be is noted."""
        await self._settled()
        for home in self._bench.plan.hosts:
            for _ in range(HOME_TRIES):
                try:
                    domain = (await self._view.domains(home)).get(home)
                except AskError as error:
                    self._bench.note("domain not asked for", home=home, error=str(error))
                    continue
                if domain is None or domain.holder == home:
                    break
                why = await self._view.switch_over(domain.holder, home, home, SWITCH_LIMIT_S)
                if why is not None:
                    self._bench.note("domain not brought home", home=home, why=why)

    # Records.

    def _mark(self, trial: HostTrial, kind: Kind) -> None:
        self._record(f"trial-{trial.id}", kind, "trial", trial.id, None)

    def _record(
        self, process: str, kind: Kind, f: str, key: str, value: object, time_ns: int | None = None
    ) -> None:
        self._bench.nemesis.record(
            Record(
                process=process,
                type=kind,
                f=f,
                key=key,
                value=raw(value),
                time_ns=now_ns() if time_ns is None else time_ns,
            )
        )


def _gone(kind: HostFaultKind, scene: Scene) -> tuple[str, ...]:
    """The workers whose processes all ended."""
    places = {"victim": scene.victim, "observer": scene.observer}
    return tuple(places[place] for place in kind.ends)


async def _within(event: asyncio.Event, limit_s: float) -> bool:
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit_s):
            await event.wait()
    return event.is_set()
