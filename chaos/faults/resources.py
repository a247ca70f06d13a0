"""Faults that take something from everybody on a host, or time from one agent."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from chaos import messages as m
from chaos.errors import BadFault, Refused
from chaos.fault import Fault, Measure, Proof, Radius, Trial, register
from chaos.stage import Stage
from chaos.undo import WRITE_S, AnyUndo, FreeDisk, GiveBack
from infra.substrates.base import Capability

LONGEST_S = 14_400.0
"""A taker ends by itself after this, whatever became of everybody else."""
MEMORY_FLOOR_MB = 1024.0
"""So much memory stays available, whatever was asked for."""
_CPU_LEAST = 0.1
"""Share of a processor that each burner must have had: others compete for it, so not 1."""


class Taking(Fault, frozen=True, kw_only=True):
    """Base of the faults that hold a resource of a host."""

    group = "resource"
    resource = m.Resource.CPU

    host: Annotated[str, Meta(description="which host")]

    def check(self, stage: Stage) -> None:
        stage.host(self.host)

    def targets(self, stage: Stage) -> frozenset[str]:
        return frozenset({f"{self.resource.value}/{self.host}"})

    def radius(self, stage: Stage) -> Radius:
        return Radius(hosts=frozenset({self.host}), agents=stage.homed(self.host))

    def undo(self, stage: Stage, trial: Trial) -> tuple[AnyUndo, ...]:
        facts = stage.ask(self.host, m.Facts(), m.FactsView)
        return (
            GiveBack(
                host=self.host,
                id=trial.id,
                memory_free_mb=facts.memory_free_mb,
                disk_free_mb=facts.disk_free_mb,
                resource=self.resource,
            ),
        )

    def inject(self, stage: Stage, trial: Trial) -> None:
        trial.numbers["since"] = stage.clock()
        take = m.Take(id=trial.id, resource=self.resource, amount=self.wanted(stage), seconds=LONGEST_S)
        stage.ask(self.host, take, int)

    def wanted(self, stage: Stage) -> int:
        """Processes or MiB."""
        raise NotImplementedError

    def _taken(self, stage: Stage, trial: Trial) -> m.TakenView:
        view = stage.ask(self.host, m.Taken(id=trial.id), m.TakenView)
        if view.trouble:
            raise Refused(f"{self.name} {self.host}", view.trouble, "ask for less")
        return view


@register
class CpuBurn(Taking, frozen=True, kw_only=True):
    name = "cpu-burn"
    summary = "Keep processors of a host busy."

    processes: Annotated[int, Meta(description="how many processors; 0: all", ge=0, le=1024)] = 0

    def wanted(self, stage: Stage) -> int:
        return self.processes or stage.ask(self.host, m.Facts(), m.FactsView).cores

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        view = self._taken(stage, trial)
        passed_s = stage.clock() - trial.numbers["since"]
        burning = view.cpu_s / max(passed_s, 1e-3)
        enough = passed_s >= 0.5 and view.processes > 0 and burning >= _CPU_LEAST * view.processes
        return Proof(
            enough, (Measure("processors burnt", burning), Measure("processes", float(view.processes)))
        )


@register
class MemoryFill(Taking, frozen=True, kw_only=True):
    name = "memory-fill"
    summary = "Take memory of a host; its taker is the first to be killed when none is left."
    resource = m.Resource.MEMORY
    effect_within_s = 20.0

    memory_mb: Annotated[int, Meta(description="how much", ge=1, le=1 << 24)]

    def check(self, stage: Stage) -> None:
        super().check(stage)
        free_mb = stage.ask(self.host, m.Facts(), m.FactsView).memory_free_mb
        if free_mb - self.memory_mb < MEMORY_FLOOR_MB:
            raise Refused(
                f"{self.name} {self.host}",
                f"{self.memory_mb} of {free_mb:.0f} MiB would leave less than {MEMORY_FLOOR_MB:.0f}",
                "ask for less",
            )

    def wanted(self, stage: Stage) -> int:
        return self.memory_mb

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        view = self._taken(stage, trial)
        return Proof(view.memory_mb >= self.memory_mb * 0.95, (Measure("held", view.memory_mb, "MiB"),))


@register
class DiskFull(Taking, frozen=True, kw_only=True):
    name = "disk-full"
    summary = "Fill the disk of a host's data with a file without a name, down to a floor."
    resource = m.Resource.DISK
    effect_within_s = 30.0

    floor_mb: Annotated[int, Meta(description="what stays free", ge=0, le=1 << 24)] = 64
    most_mb: Annotated[int, Meta(description="refuse a disk with more free than this", ge=1)] = 8192

    def check(self, stage: Stage) -> None:
        super().check(stage)
        free_mb = stage.ask(self.host, m.Facts(), m.FactsView).disk_free_mb
        if free_mb > self.most_mb:
            raise Refused(
                f"{self.name} {self.host}",
                f"{free_mb:.0f} MiB are free, more than most_mb={self.most_mb}: it may be everybody's disk",
                "give the stack a small one of its own (stateDir), or a higher most_mb",
            )
        if free_mb <= self.floor_mb:
            raise BadFault(f"{self.name} floor_mb", f"only {free_mb:.0f} MiB are free", "give a lower floor")

    def wanted(self, stage: Stage) -> int:
        return self.floor_mb

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        view = self._taken(stage, trial)
        return Proof(
            view.disk_mb > 0 and view.disk_free_mb <= self.floor_mb + 1,
            (Measure("taken", view.disk_mb, "MiB"), Measure("left free", view.disk_free_mb, "MiB")),
        )


@register
class DiskSlow(Fault, frozen=True, kw_only=True):
    name = "disk-slow"
    group = "resource"
    summary = "Limit what a host's disk takes in a second (where the substrate can)."
    needs = frozenset({Capability.SLOW_DISK})
    effect_within_s = 30.0

    host: Annotated[str, Meta(description="which host")]
    rate_kb_s: Annotated[int, Meta(description="KiB a second", ge=16, le=1 << 20)] = 512

    def check(self, stage: Stage) -> None:
        stage.host(self.host)

    def targets(self, stage: Stage) -> frozenset[str]:
        return frozenset({f"disk/{self.host}"})

    def radius(self, stage: Stage) -> Radius:
        return Radius(hosts=frozenset({self.host}), agents=stage.homed(self.host))

    def undo(self, stage: Stage, trial: Trial) -> tuple[AnyUndo, ...]:
        took_ms = stage.ask(self.host, m.WriteSpeed(), float, WRITE_S)
        trial.numbers["before_ms"] = took_ms
        return (FreeDisk(host=self.host, write_ms=took_ms),)

    def inject(self, stage: Stage, trial: Trial) -> None:
        stage.substrate.slow_disk(self.host, self.rate_kb_s)

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        request = m.WriteSpeed()
        took_ms = stage.ask(self.host, request, float, WRITE_S)
        least_ms = request.size_kb / self.rate_kb_s * 1000 * 0.5
        slow = took_ms >= least_ms and took_ms > trial.numbers["before_ms"]
        return Proof(slow, (Measure("a write takes", took_ms, "ms"), Measure("at least", least_ms, "ms")))
