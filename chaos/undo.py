"""What ends a fault, as data: written to disk before the fault begins, performed by whoever lives then.

Every undo may be performed when nothing was done yet, when it was done by halves, and twice. What stands in
an undo besides its place is what was measured before the fault: restoration is measured against it.
"""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING, ClassVar

import msgspec

from chaos import messages as m
from chaos.errors import ChaosError, NotReached, Refused
from chaos.fault import Measure, Proof
from infra.substrates.base import SubstrateError

if TYPE_CHECKING:
    from chaos.stage import Stage, Target

ROUND_TRIP_FACTOR, ROUND_TRIP_SLACK_MS = 3.0, 30.0
"""A way is as it was when its round trip is below so many times the one before, plus the slack."""
RESTORED_WITHIN_S = 30.0
SHARED_SLACK = 0.8
"""Share of what was free that must be free again: others use the same memory and disk."""
GPU_SLACK_MB = 64.0
CLOCK_SLACK_MS = 20.0
DISK_SLACK_MS = 200.0
WRITE_S = 30.0
_GPU_S = 25.0


class Undo(msgspec.Struct, frozen=True, kw_only=True, tag_field="undo"):
    """Base of all undos."""

    order: ClassVar[int] = 50
    """Of several, the lower first: a frozen host can mend nothing else."""
    within_s: ClassVar[float] = RESTORED_WITHIN_S

    def perform(self, stage: Stage) -> None:
        """Ends it. Raises ChaosError or SubstrateError when it could not."""
        raise NotImplementedError

    def restored(self, stage: Stage) -> Proof:
        """Whether all is as before, measured now."""
        raise NotImplementedError


class Thaw(Undo, frozen=True, kw_only=True, tag="thaw"):
    """Lets a frozen host go on."""

    order = 0
    host: str
    agents_up: int

    def perform(self, stage: Stage) -> None:
        stage.substrate.thaw_host(self.host)

    def restored(self, stage: Stage) -> Proof:
        return _host_proof(stage, self.host, self.agents_up)


class BootHost(Undo, frozen=True, kw_only=True, tag="boot-host"):
    """Starts a host again that does not run."""

    order = 5
    within_s = 90.0
    host: str
    agents_up: int

    def perform(self, stage: Stage) -> None:
        state = stage.substrate.inspect_host(self.host)
        if state is not None and not state.running:
            stage.substrate.restart_host(self.host)

    def restored(self, stage: Stage) -> Proof:
        return _host_proof(stage, self.host, self.agents_up)


class MendLinks(Undo, frozen=True, kw_only=True, tag="mend-links"):
    """Ends the cuts of a host."""

    order = 10
    host: str
    peers: tuple[str, ...]
    """Whom it must reach again."""

    def perform(self, stage: Stage) -> None:
        stage.substrate.mend_links(self.host)

    def restored(self, stage: Stage) -> Proof:
        from infra.topology import Port

        left = stage.substrate.cuts(self.host)
        measures = [Measure("cuts left", float(len(left)))]
        reached = not left
        for peer in self.peers:
            view = stage.handshake(self.host, there=peer, port=int(Port.ETCD_CLIENT), timeout_ms=1000)
            reached = reached and view.outcome == "ok"
            measures.append(_round_trip(f"round trip to {peer}", view))
        return Proof(reached, tuple(measures))


class ClearWay(Undo, frozen=True, kw_only=True, tag="clear-way"):
    """Opens a proxied way and takes a fault's toxics off it.

    When the control port does not answer in time, Toxiproxy is started anew: it comes with open ways.
    """

    order = 20
    host: str
    way: str
    toxics: tuple[str, ...] | None
    round_trip_ms: float

    def perform(self, stage: Stage) -> None:
        try:
            stage.ask(self.host, m.ClearWay(proxy=self.way, toxics=self.toxics), type(None), 3.0)
        except (NotReached, Refused):
            restart_toxiproxy(stage, self.host)

    def restored(self, stage: Stage) -> Proof:
        way = stage.way(self.host, self.way)
        try:
            shown = stage.ask(self.host, m.Proxies(), list[m.ProxyView], 3.0)
        except (NotReached, Refused) as error:
            return Proof(False, (Measure("Toxiproxy", error.what),))
        view = stage.handshake(self.host, way)
        ours = next((one for one in shown if one.name == self.way), None)
        clean = ours is not None and ours.enabled
        if ours is not None:
            left = [t.name for t in ours.toxics if self.toxics is None or t.name in self.toxics]
            clean = clean and not left
        most_ms = self.round_trip_ms * ROUND_TRIP_FACTOR + ROUND_TRIP_SLACK_MS
        quick = view.outcome == "ok" and view.took_ms <= most_ms
        return Proof(
            clean and quick,
            (_round_trip("round trip", view), Measure("before", self.round_trip_ms, "ms")),
        )


class Continue(Undo, frozen=True, kw_only=True, tag="continue"):
    """Lets a process go on that a signal holds; then it, or its successor, serves."""

    order = 30
    host: str
    what: str

    def perform(self, stage: Stage) -> None:
        target = _target(self.host, self.what)
        view = stage.process(target)
        if view is not None and view.stopped:
            with contextlib.suppress(SubstrateError):  # it ended at this moment: nothing to undo
                stage.substrate.signal(self.host, self.what, "CONT")

    def restored(self, stage: Stage) -> Proof:
        return _process_proof(stage, self.host, self.what)


class Serve(Undo, frozen=True, kw_only=True, tag="serve"):
    """Sees that a process serves: a unit is started where it does not, an agent comes by its host."""

    order = 40
    within_s = 60.0
    host: str
    what: str

    def perform(self, stage: Stage) -> None:
        if not self.what.startswith("agent/"):
            stage.substrate.start_unit(self.host, self.what)

    def restored(self, stage: Stage) -> Proof:
        return _process_proof(stage, self.host, self.what)


class OpenFiles(Undo, frozen=True, kw_only=True, tag="open-files"):
    """Gives a process its limit of open files back; a new process has its own."""

    order = 35
    host: str
    what: str
    instance: str
    limit: int

    def perform(self, stage: Stage) -> None:
        view = stage.process(_target(self.host, self.what))
        if view is not None and view.instance == self.instance:
            stage.substrate.limit_open_files(self.host, self.what, self.limit)

    def restored(self, stage: Stage) -> Proof:
        view = stage.process(_target(self.host, self.what))
        served = _process_proof(stage, self.host, self.what)
        given = view is not None and (view.instance != self.instance or view.open_files_limit == self.limit)
        limit = float(view.open_files_limit) if view is not None else 0.0
        return Proof(served.holds and given, (*served.measures, Measure("open files allowed", limit)))


class GiveBack(Undo, frozen=True, kw_only=True, tag="give-back"):
    """Ends what takes a resource of a host; what was free is free again."""

    order = 45
    host: str
    id: str
    memory_free_mb: float
    disk_free_mb: float
    resource: m.Resource

    def perform(self, stage: Stage) -> None:
        stage.ask(self.host, m.Leave(id=self.id), int)

    def restored(self, stage: Stage) -> Proof:
        taken = stage.ask(self.host, m.Taken(id=self.id), m.TakenView)
        facts = stage.ask(self.host, m.Facts(), m.FactsView)
        measures = [Measure("processes that take it", float(taken.processes))]
        free = True
        if self.resource is m.Resource.MEMORY:
            free = facts.memory_free_mb >= self.memory_free_mb * SHARED_SLACK
            measures.append(Measure("memory free", facts.memory_free_mb, "MiB"))
            measures.append(Measure("before", self.memory_free_mb, "MiB"))
        if self.resource is m.Resource.DISK:
            free = facts.disk_free_mb >= self.disk_free_mb * SHARED_SLACK
            measures.append(Measure("disk free", facts.disk_free_mb, "MiB"))
            measures.append(Measure("before", self.disk_free_mb, "MiB"))
        return Proof(free and taken.processes == 0, tuple(measures))


class Behave(Undo, frozen=True, kw_only=True, tag="behave"):
    """Tells an agent to answer properly again; one that was replaced meanwhile does anyway."""

    order = 45
    host: str
    agent: str

    def perform(self, stage: Stage) -> None:
        body = '{"mode":"none","seconds":0}'
        with contextlib.suppress(NotReached):  # it is gone with its host
            view = stage.ask(
                self.host, m.Call(agent=self.agent, method="misbehave", body=body), m.CallView, 4.0
            )
            if view.outcome == "handler-error":
                raise Refused(f"agent {self.agent}", f"misbehave: {view.outcome}", "restart it")

    def restored(self, stage: Stage) -> Proof:
        answered = stage.ask(self.host, m.Call(agent=self.agent, method="stats", timeout_ms=1000), m.CallView)
        pinged = _process_proof(stage, self.host, f"agent/{self.agent}")
        good = answered.outcome == "ok"
        return Proof(
            good and pinged.holds,
            (Measure("answer", answered.outcome), Measure("took", answered.took_ms, "ms")),
        )


class RedisSetting(Undo, frozen=True, kw_only=True, tag="redis-setting"):
    """Sets Redis as it was; one that started anew is."""

    order = 45
    host: str
    key: str
    value: str

    def perform(self, stage: Stage) -> None:
        try:
            ask_redis(stage, self.host, "CONFIG", "SET", self.key, self.value)
        except (NotReached, Refused):
            if stage.process(_target(self.host, "redis")) is not None:
                raise  # else the setting has ended with its process

    def restored(self, stage: Stage) -> Proof:
        found = ask_redis(stage, self.host, "CONFIG", "GET", self.key)
        return Proof(found.split() == [self.key, self.value], (Measure(self.key, found.split()[-1]),))


class TrueClock(Undo, frozen=True, kw_only=True, tag="true-clock"):
    """Sets a host's clock right."""

    host: str
    offset_ms: float

    def perform(self, stage: Stage) -> None:
        stage.substrate.step_clock(self.host, 0.0, 0.0)

    def restored(self, stage: Stage) -> Proof:
        offset_ms = clock_offset_ms(stage, self.host)
        return Proof(
            abs(offset_ms - self.offset_ms) <= CLOCK_SLACK_MS,
            (Measure("clock is off by", offset_ms, "ms"), Measure("before", self.offset_ms, "ms")),
        )


class FreeDisk(Undo, frozen=True, kw_only=True, tag="free-disk"):
    """Ends the limit of a host's disk."""

    host: str
    write_ms: float

    def perform(self, stage: Stage) -> None:
        stage.substrate.slow_disk(self.host, None)

    def restored(self, stage: Stage) -> Proof:
        took_ms = stage.ask(self.host, m.WriteSpeed(), float, WRITE_S)
        return Proof(
            took_ms <= self.write_ms * ROUND_TRIP_FACTOR + DISK_SLACK_MS,
            (Measure("a write takes", took_ms, "ms"), Measure("before", self.write_ms, "ms")),
        )


class GiveBackGpu(Undo, frozen=True, kw_only=True, tag="give-back-gpu"):
    """Ends what presses on a GPU; its memory is free again, as NVML says."""

    order = 45
    host: str
    id: str
    device: int
    used_mb: float

    def perform(self, stage: Stage) -> None:
        stage.ask(self.host, m.Leave(id=self.id), int)

    def restored(self, stage: Stage) -> Proof:
        view = ask_gpu(stage, self.host, self.device)
        return Proof(
            view.used_mb <= self.used_mb + GPU_SLACK_MB,
            (Measure("GPU memory used", view.used_mb, "MiB"), Measure("before", self.used_mb, "MiB")),
            view.simulated,
        )


AnyUndo = (
    Thaw
    | BootHost
    | MendLinks
    | ClearWay
    | Continue
    | Serve
    | OpenFiles
    | GiveBack
    | Behave
    | RedisSetting
    | TrueClock
    | FreeDisk
    | GiveBackGpu
)


def restart_toxiproxy(stage: Stage, host: str) -> None:
    """Ends a Toxiproxy that does not answer; it comes back with open ways. Raises SubstrateError."""
    with contextlib.suppress(SubstrateError):  # it does not run: start_unit says what is wrong
        stage.substrate.signal(host, "toxiproxy", "KILL")
    stage.substrate.start_unit(host, "toxiproxy")


def ask_redis(stage: Stage, host: str, *command: str) -> str:
    """Redis' answer in words. Raises NotReached, Refused (also when it answers with an error)."""
    from infra.topology import Port

    request = m.Redis(address=stage.substrate.address(host), port=int(Port.REDIS), name=host, command=command)
    text = stage.ask(host, request, m.RedisView).text
    if text.startswith("-"):
        raise Refused(f"Redis on {host}", f"{command[0]}: {text[1:]}", "look at its log")
    return text


def clock_offset_ms(stage: Stage, host: str) -> float:
    """By how much a host's wall clock is ahead of ours, give or take half of the question's time."""
    before_ns = time.time_ns()
    there_ns = stage.ask(host, m.Clock(), int)
    return (there_ns - (before_ns + time.time_ns()) / 2) / 1e6


def ask_gpu(stage: Stage, host: str, device: int) -> m.GpuView:
    """A GPU as NVML has it. Raises NotReached, Refused."""
    return stage.ask(host, m.Gpu(device=device), m.GpuView, _GPU_S)


def _target(host: str, what: str) -> Target:
    from chaos.stage import Target

    return Target(host, what)


def _process_proof(stage: Stage, host: str, what: str) -> Proof:
    """That a process serves on its host, or (an agent) on another one."""
    target = _target(host, what)
    alive, outcome, took_ms = stage.sign_of_life(target)
    if not alive and target.agent is not None:
        elsewhere = stage.serving(stage.agent(target.agent))
        if elsewhere != host:
            alive, outcome, took_ms = stage.sign_of_life(_target(elsewhere, what))
    view = stage.process(target)
    running = (view is not None and not view.stopped) or target.agent is not None
    return Proof(alive and running, (Measure("sign of life", outcome), Measure("took", took_ms, "ms")))


def _host_proof(stage: Stage, host: str, agents_up: int) -> Proof:
    """That a host runs with all its units, and that as many agents are served as before."""
    state = stage.substrate.inspect_host(host)
    if state is None or not state.running:
        return Proof(False, (Measure("host", "missing" if state is None else "down"),))
    units = [unit.name for unit in stage.plan.units if unit.host == host]
    silent = [name for name in units if not stage.sign_of_life(_target(host, name))[0]]
    if silent:
        return Proof(False, (Measure("not serving", ", ".join(silent)),))
    up = stage.agents_up()
    return Proof(
        up >= agents_up,
        (
            Measure("units that serve", float(len(units))),
            Measure("agents served", float(up)),
            Measure("before", float(agents_up)),
        ),
    )


def _round_trip(name: str, view: m.HandshakeView) -> Measure:
    return Measure(name, view.took_ms, "ms") if view.outcome == "ok" else Measure(name, view.outcome)


def failed(error: ChaosError | SubstrateError) -> Proof:
    """A measurement that could not be made: it holds nothing."""
    return Proof(False, (Measure(error.where, error.what),))
