"""A substrate that only writes down what is asked of it, and a stage around it."""

from __future__ import annotations

from pathlib import Path

from chaos.stage import Stage
from infra.substrates.base import Capability, Cut, HostState, SubstrateError
from tests.chaos.conftest import FLEET, make_environment


class Recorder:
    """Every host runs; `broken` names the calls that fail, `there` the hosts that exist."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.broken: set[str] = set()
        self.there = {"a", "b", "w"}
        self.running = {"a", "b", "w"}
        self.frozen: set[str] = set()
        self.cut_hosts: set[str] = set()

    def capabilities(self) -> frozenset[Capability]:
        return frozenset({Capability.KILL_HOST, Capability.FREEZE_HOST, Capability.CUT_LINKS})

    def inspect_host(self, name: str) -> HostState | None:
        if name not in self.there:
            return None
        frozen = name in self.frozen
        return HostState(name=name, address="", running=name in self.running and not frozen, frozen=frozen)

    def thaw_host(self, name: str) -> None:
        self._called("thaw_host", name)
        self.frozen.discard(name)

    def mend_links(self, host: str | None = None) -> None:
        self._called("mend_links", str(host))
        self.cut_hosts.discard(str(host))

    def cuts(self, host: str) -> tuple[Cut, ...]:
        return (Cut(peer=None, direction="incoming"),) if host in self.cut_hosts else ()  # type: ignore[arg-type]

    def step_clock(self, host: str, offset_ms: float, drift_ppm: float = 0.0) -> None:
        self._called("step_clock", host)

    def spawn(self, host: str, *_: object, **__: object) -> None:
        raise SubstrateError(f"host {host}", "nothing can be started there", "mend it")

    def signal(self, host: str, target: str, signal: str) -> None:
        self._called(f"signal {target} {signal}", host)

    def start_unit(self, host: str, name: str) -> None:
        self._called(f"start_unit {name}", host)

    def close(self) -> None:
        self.calls.append("close")

    def _called(self, name: str, host: str) -> None:
        self.calls.append(f"{name} {host}")
        if name in self.broken:
            raise SubstrateError(f"host {host}", "it is broken", "mend it")


def make_stage(folder: Path, **limits: object) -> tuple[Stage, Recorder]:
    """A stage whose time passes only when somebody sleeps."""
    recorder = Recorder()
    stage = Stage(
        make_environment(folder, **limits),
        substrate=recorder,  # type: ignore[arg-type]  # as much of one as is asked for here
        fleet=FLEET,
    )
    now = [0.0]
    stage.clock = lambda: now[0]

    def sleep(seconds: float) -> None:
        now[0] += seconds

    stage.sleep = sleep
    return stage, recorder
