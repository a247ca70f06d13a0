"""Pressure on a GPU by a process of its own; target and achieved pressure are read back from NVML."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from chaos import messages as m
from chaos.errors import Refused
from chaos.fault import Fault, Measure, Proof, Radius, Trial, register
from chaos.faults.resources import LONGEST_S
from chaos.stage import Stage
from chaos.undo import AnyUndo, GiveBackGpu, ask_gpu

MEMORY_SLACK = 0.95
COMPUTE_SLACK = 0.5
"""Share of the target that counts as reached: NVML samples utilisation coarsely."""
MEMORY_FLOOR_MB = 256.0


class GpuFault(Fault, frozen=True, kw_only=True):
    """Base of the two."""

    group = "gpu"
    resource = m.Resource.GPU_MEMORY
    effect_within_s = 15.0

    host: Annotated[str, Meta(description="the worker with the GPU")]
    device: Annotated[int, Meta(description="which of its GPUs", ge=0, le=64)] = 0

    def check(self, stage: Stage) -> None:
        stage.host(self.host, worker=True)

    def targets(self, stage: Stage) -> frozenset[str]:
        return frozenset({f"{self.resource.value}/{self.host}/{self.device}"})

    def radius(self, stage: Stage) -> Radius:
        models = {agent.name for agent in stage.fleet.agents if agent.model is not None}
        return Radius(hosts=frozenset({self.host}), agents=stage.homed(self.host) & models)

    def undo(self, stage: Stage, trial: Trial) -> tuple[AnyUndo, ...]:
        view = ask_gpu(stage, self.host, self.device)
        trial.numbers["used_mb"] = view.used_mb
        trial.numbers["busy_percent"] = view.busy_percent
        self.admit(view)
        return (GiveBackGpu(host=self.host, id=trial.id, device=self.device, used_mb=view.used_mb),)

    def admit(self, view: m.GpuView) -> None:
        """Raises Refused when there is not that much to take."""

    def wanted(self) -> int:
        """MiB or percent."""
        raise NotImplementedError

    def inject(self, stage: Stage, trial: Trial) -> None:
        take = m.Take(
            id=trial.id,
            resource=self.resource,
            amount=self.wanted(),
            device=self.device,
            seconds=LONGEST_S,
        )
        stage.ask(self.host, take, int)

    def _view(self, stage: Stage, trial: Trial) -> m.GpuView:
        taken = stage.ask(self.host, m.Taken(id=trial.id), m.TakenView)
        if taken.trouble:
            raise Refused(f"{self.name} {self.host}", taken.trouble, "ask for less, or look at the driver")
        return ask_gpu(stage, self.host, self.device)


@register
class GpuMemory(GpuFault, frozen=True, kw_only=True):
    name = "gpu-memory"
    summary = "Take memory of a GPU."

    memory_mb: Annotated[int, Meta(description="how much", ge=1, le=1 << 24)] = 1024

    def admit(self, view: m.GpuView) -> None:
        free_mb = view.total_mb - view.used_mb
        if free_mb - self.memory_mb < MEMORY_FLOOR_MB:
            raise Refused(
                f"{self.name} {self.host}", f"only {free_mb:.0f} MiB of the GPU are free", "ask for less"
            )

    def wanted(self) -> int:
        return self.memory_mb

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        view = self._view(stage, trial)
        risen_mb = view.used_mb - trial.numbers["used_mb"]
        return Proof(
            risen_mb >= self.memory_mb * MEMORY_SLACK,
            (
                Measure("target", float(self.memory_mb), "MiB"),
                Measure("achieved", risen_mb, "MiB"),
                Measure("device", view.name),
            ),
            view.simulated,
        )


@register
class GpuCompute(GpuFault, frozen=True, kw_only=True):
    name = "gpu-compute"
    summary = "Keep a GPU computing."
    resource = m.Resource.GPU_COMPUTE

    busy_percent: Annotated[int, Meta(description="share of the time", ge=1, le=100)] = 90

    def wanted(self) -> int:
        return self.busy_percent

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        view = self._view(stage, trial)
        return Proof(
            view.busy_percent >= self.busy_percent * COMPUTE_SLACK
            and view.busy_percent > trial.numbers["busy_percent"],
            (
                Measure("target", float(self.busy_percent), "%"),
                Measure("achieved", view.busy_percent, "%"),
                Measure("device", view.name),
            ),
            view.simulated,
        )
