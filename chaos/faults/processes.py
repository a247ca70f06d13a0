"""Faults on one process: an agent ("agent/asr-0", where it serves) or a server of a host ("pc2/redis")."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from chaos.errors import BadFault, Refused
from chaos.fault import Fault, Measure, Proof, Radius, Trial, register
from chaos.stage import Stage, Target
from chaos.undo import AnyUndo, Continue, OpenFiles, Serve

Process = Annotated[str, Meta(description="agent/NAME, where it serves now, or HOST/UNIT")]


class ProcessFault(Fault, frozen=True, kw_only=True):
    """Base of the faults on one process."""

    group = "process"
    units_only = False

    target: Process

    def check(self, stage: Stage) -> None:
        target = stage.target(self.target)
        if self.units_only and target.agent is not None:
            raise BadFault(f"{self.name} target", f"is {self.target}", "name a unit: agents belong to hostd")
        if stage.process(target) is None:
            raise Refused(f"{self.name} {target}", "it does not run now", "see threenines status")

    def targets(self, stage: Stage) -> frozenset[str]:
        return frozenset({f"process/{stage.target(self.target)}"})

    def radius(self, stage: Stage) -> Radius:
        target = stage.target(self.target)
        if target.agent is not None:
            return Radius(agents=frozenset({target.agent}))
        touched = stage.homed(target.host) if target.what in ("hostd", "zygote", "gateway") else frozenset()
        return Radius(hosts=frozenset({target.host}), agents=touched)

    def undo(self, stage: Stage, trial: Trial) -> tuple[AnyUndo, ...]:
        target = self._remember(stage, trial)
        return (
            Continue(host=target.host, what=target.what),
            Serve(host=target.host, what=target.what),
        )

    def _remember(self, stage: Stage, trial: Trial) -> Target:
        target = stage.target(self.target)
        view = stage.process(target)
        if view is None:
            raise Refused(f"{self.name} {target}", "it does not run now", "see threenines status")
        trial.words |= {"host": target.host, "what": target.what, "instance": view.instance}
        return target

    def _target(self, trial: Trial) -> Target:
        """The process as it was chosen: an agent may serve elsewhere meanwhile."""
        return Target(trial.words["host"], trial.words["what"])

    def _signal(self, stage: Stage, trial: Trial, signal: str) -> None:
        stage.substrate.signal(trial.words["host"], trial.words["what"], signal)

    def _replaced(self, stage: Stage, trial: Trial) -> Proof:
        view = stage.process(self._target(trial))
        gone = view is None or view.instance != trial.words["instance"]
        return Proof(gone, (Measure("process", "gone" if gone else "still there"),))


@register
class ProcessKill(ProcessFault, frozen=True, kw_only=True):
    name = "process-kill"
    summary = "End a process at once (SIGKILL); what supervises it starts it again."

    def inject(self, stage: Stage, trial: Trial) -> None:
        self._signal(stage, trial, "KILL")

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        return self._replaced(stage, trial)


@register
class ProcessFreeze(ProcessFault, frozen=True, kw_only=True):
    name = "process-freeze"
    summary = "Hold a process still (SIGSTOP): it is there and does not answer."

    def inject(self, stage: Stage, trial: Trial) -> None:
        self._signal(stage, trial, "STOP")

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        """The process stands still, or what supervises it has replaced it for that."""
        target = self._target(trial)
        view = stage.process(target)
        if view is not None and view.stopped:
            return Proof(True, (Measure("process", "stands still"),))
        return self._replaced(stage, trial)


@register
class ProcessStop(ProcessFault, frozen=True, kw_only=True):
    name = "process-stop"
    summary = "Stop a unit in order, and keep it stopped."
    units_only = True

    def inject(self, stage: Stage, trial: Trial) -> None:
        stage.substrate.stop_unit(trial.words["host"], trial.words["what"])

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        view = stage.process(self._target(trial))
        return Proof(view is None, (Measure("process", "gone" if view is None else "still there"),))


@register
class ProcessRestart(ProcessFault, frozen=True, kw_only=True):
    name = "process-restart"
    summary = "Restart a process in order (SIGTERM), as an update does."

    def inject(self, stage: Stage, trial: Trial) -> None:
        host, what = trial.words["host"], trial.words["what"]
        if what.startswith("agent/"):
            self._signal(stage, trial, "TERM")
        else:
            stage.substrate.stop_unit(host, what)
            stage.substrate.start_unit(host, what)

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        return self._replaced(stage, trial)


@register
class ProcessCrashLoop(ProcessFault, frozen=True, kw_only=True):
    name = "process-crash-loop"
    summary = "Kill a process each time it has come back."
    effect_within_s = 15.0

    every_ms: Annotated[int, Meta(description="how long each lives", ge=0, le=60000)] = 100

    def inject(self, stage: Stage, trial: Trial) -> None:
        trial.numbers["crashes"] = 0.0
        self._crash(stage, trial)

    def keep(self, stage: Stage, trial: Trial) -> None:
        view = stage.process(self._target(trial))
        if view is None:
            return
        now = stage.clock()
        if view.instance != trial.words["instance"]:
            trial.words["instance"] = view.instance
            trial.numbers["came"] = now
        elif now - trial.numbers.get("came", now) >= self.every_ms / 1000 and "came" in trial.numbers:
            self._crash(stage, trial)

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        crashes = trial.numbers["crashes"]
        return Proof(crashes >= 2, (Measure("crashes", crashes),))

    def _crash(self, stage: Stage, trial: Trial) -> None:
        self._signal(stage, trial, "KILL")
        trial.numbers["crashes"] += 1
        trial.numbers.pop("came", None)


@register
class ProcessSlowStart(ProcessFault, frozen=True, kw_only=True):
    name = "process-slow-start"
    summary = "Kill a process and hold its successor still before it serves."
    effect_within_s = 15.0

    delay_ms: Annotated[int, Meta(description="how long its successor is held", ge=100, le=60000)] = 2000

    def inject(self, stage: Stage, trial: Trial) -> None:
        self._signal(stage, trial, "KILL")

    def keep(self, stage: Stage, trial: Trial) -> None:
        now = stage.clock()
        if "held" in trial.numbers:
            if trial.numbers["held"] + self.delay_ms / 1000 <= now and "released" not in trial.numbers:
                trial.numbers["released"] = now
                view = stage.process(self._target(trial))
                if view is not None and view.stopped:
                    self._signal(stage, trial, "CONT")
            return
        view = stage.process(self._target(trial))
        if view is not None and view.instance != trial.words["instance"]:
            self._signal(stage, trial, "STOP")
            trial.numbers["held"] = now

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        view = stage.process(self._target(trial))
        held = "held" in trial.numbers and (view is None or view.stopped)
        word = "stands still" if held else "waited for"
        return Proof(held, (Measure("successor", word),))


@register
class ProcessOpenFiles(ProcessFault, frozen=True, kw_only=True):
    name = "process-open-files"
    summary = "Let a process open no more files than it has (and a few)."

    spare: Annotated[int, Meta(description="how many more it may open", ge=0, le=1000)] = 0

    def undo(self, stage: Stage, trial: Trial) -> tuple[AnyUndo, ...]:
        target = self._remember(stage, trial)
        view = stage.process(target)
        assert view is not None
        limit = view.open_files_limit
        return (
            OpenFiles(host=target.host, what=target.what, instance=view.instance, limit=limit),
            Serve(host=target.host, what=target.what),
        )

    def inject(self, stage: Stage, trial: Trial) -> None:
        view = stage.process(self._target(trial))
        if view is None:
            raise Refused(f"{self.name} {self.target}", "it has ended", "try again")
        limit = view.open_files + self.spare
        trial.numbers["limit"] = limit
        stage.substrate.limit_open_files(trial.words["host"], trial.words["what"], limit)

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        view = stage.process(self._target(trial))
        if view is None:
            return Proof(False, (Measure("process", "gone"),))
        limit = trial.numbers["limit"]
        return Proof(
            view.open_files_limit == limit and view.instance == trial.words["instance"],
            (Measure("open files", float(view.open_files)), Measure("allowed", float(view.open_files_limit))),
        )
