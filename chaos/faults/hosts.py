"""Faults on a whole host."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from chaos.errors import Refused
from chaos.fault import Fault, Measure, Proof, Radius, Trial, register
from chaos.faults.links import LinkCut
from chaos.stage import Stage
from chaos.undo import CLOCK_SLACK_MS, AnyUndo, BootHost, Thaw, TrueClock, clock_offset_ms
from infra.substrates.base import Capability


class HostFault(Fault, frozen=True, kw_only=True):
    """Base of the faults on a host."""

    group = "host"
    needs = frozenset({Capability.KILL_HOST})

    host: Annotated[str, Meta(description="which host")]

    def check(self, stage: Stage) -> None:
        stage.host(self.host)
        state = stage.substrate.inspect_host(self.host)
        if state is None or not state.running:
            raise Refused(f"{self.name} {self.host}", "it does not run now", "see threenines status")

    def targets(self, stage: Stage) -> frozenset[str]:
        return frozenset({f"host/{self.host}"})

    def radius(self, stage: Stage) -> Radius:
        return Radius(hosts=frozenset({self.host}), agents=stage.homed(self.host))

    def undo(self, stage: Stage, trial: Trial) -> tuple[AnyUndo, ...]:
        up = stage.agents_up()
        for unit in (u for u in stage.plan.units if u.host == self.host):
            found = stage.substrate.inspect_unit(self.host, unit.name)
            trial.words[unit.name] = found.instance if found is not None else ""
        return (Thaw(host=self.host, agents_up=up), BootHost(host=self.host, agents_up=up))


@register
class HostKill(HostFault, frozen=True, kw_only=True):
    name = "host-kill"
    summary = "End every process of a host at once; it stays down until the fault ends."

    def inject(self, stage: Stage, trial: Trial) -> None:
        stage.substrate.kill_host(self.host)

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        return _down(stage, self.host)


@register
class HostRestart(HostFault, frozen=True, kw_only=True):
    name = "host-restart"
    summary = "End every process of a host and start it again at once, as a short power cut."

    def inject(self, stage: Stage, trial: Trial) -> None:
        stage.substrate.kill_host(self.host)
        stage.substrate.restart_host(self.host)

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        """Every unit that ran is another process, or none yet."""
        same = []
        for unit, instance in trial.words.items():
            found = stage.substrate.inspect_unit(self.host, unit)
            if instance and found is not None and found.instance == instance:
                same.append(unit)
        return Proof(not same, (Measure("units that still run as before", ", ".join(same) or "none"),))


@register
class HostFreeze(HostFault, frozen=True, kw_only=True):
    name = "host-freeze"
    summary = "Hold every process of a host still, as a machine that hangs."
    needs = frozenset({Capability.FREEZE_HOST})

    def inject(self, stage: Stage, trial: Trial) -> None:
        stage.substrate.freeze_host(self.host)

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        state = stage.substrate.inspect_host(self.host)
        frozen = state is not None and state.frozen
        return Proof(frozen, (Measure("host", "frozen" if frozen else "not frozen"),))


@register
class HostCutOff(LinkCut, frozen=True, kw_only=True):
    name = "host-cut-off"
    group = "host"
    summary = "Lose everything between a host and everybody, in silence: link-cut without a peer."

    def check(self, stage: Stage) -> None:
        if self.peer is not None:
            raise Refused(f"{self.name} peer", "it is cut off from everybody", "use link-cut for one peer")
        super().check(stage)


class ClockFault(HostFault, frozen=True, kw_only=True):
    """Base of the faults on a host's clock; proved by its wall clock beside ours."""

    needs = frozenset({Capability.SET_CLOCK})

    def undo(self, stage: Stage, trial: Trial) -> tuple[AnyUndo, ...]:
        offset_ms = clock_offset_ms(stage, self.host)
        trial.numbers |= {"offset_ms": offset_ms, "since": stage.clock()}
        return (TrueClock(host=self.host, offset_ms=offset_ms),)


@register
class ClockStep(ClockFault, frozen=True, kw_only=True):
    name = "clock-step"
    summary = "Set a host's clock off (where the substrate gives hosts clocks of their own)."

    offset_ms: Annotated[float, Meta(description="how far; negative: back", ge=-1e9, le=1e9)] = 5000.0

    def inject(self, stage: Stage, trial: Trial) -> None:
        stage.substrate.step_clock(self.host, self.offset_ms)

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        moved_ms = clock_offset_ms(stage, self.host) - trial.numbers["offset_ms"]
        near = abs(moved_ms - self.offset_ms) <= max(CLOCK_SLACK_MS, abs(self.offset_ms) * 0.1)
        return Proof(near and moved_ms != 0, (Measure("clock moved", moved_ms, "ms"),))


@register
class ClockSkew(ClockFault, frozen=True, kw_only=True):
    name = "clock-skew"
    summary = "Let a host's clock drift (where the substrate gives hosts clocks of their own)."
    effect_within_s = 60.0

    drift_ppm: Annotated[float, Meta(description="how much it gains", ge=-100000, le=100000)] = 1000.0

    def inject(self, stage: Stage, trial: Trial) -> None:
        stage.substrate.step_clock(self.host, 0.0, self.drift_ppm)

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        """The drift has to come to more than what the look itself takes."""
        moved_ms = clock_offset_ms(stage, self.host) - trial.numbers["offset_ms"]
        due_ms = self.drift_ppm * (stage.clock() - trial.numbers["since"]) / 1000
        seen = abs(due_ms) >= CLOCK_SLACK_MS and abs(moved_ms - due_ms) <= abs(due_ms) * 0.5
        return Proof(seen, (Measure("clock moved", moved_ms, "ms"), Measure("due", due_ms, "ms")))


def _down(stage: Stage, host: str) -> Proof:
    state = stage.substrate.inspect_host(host)
    units = [u.name for u in stage.plan.units if u.host == host]
    alive = []
    for unit in units:
        found = stage.substrate.inspect_unit(host, unit)
        if found is not None and found.running:
            alive.append(unit)
    down = state is not None and not state.running and not alive
    return Proof(
        down,
        (Measure("host", "down" if down else "runs"), Measure("units that run", float(len(alive)))),
    )
