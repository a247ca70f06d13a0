"""The run: blocks in their order, a start of a system for each, every trial written down when it is over."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.peers.records import Kind, Trial, append_trials, read_trials
from benchmarks.peers.schedule import Block, Planned, remaining, schedule
from benchmarks.peers.site import Site
from benchmarks.peers.systems import System, systems
from benchmarks.peers.trial import Spoilt, perform
from infra.hostd_api import HostdError
from infra.substrates.base import SubstrateError

EXPECTED_S = {"patroni": 60.0}
"""What a trial takes, its share of the system's start included: rough, to end a piece in time."""
OTHERWISE_S = 15.0


@dataclass(frozen=True, slots=True)
class Wish:
    """What is to be run. `run` names the run in the file; the same name, wish and seed go on with it."""

    run: str
    systems: tuple[str, ...]
    kinds: tuple[Kind, ...]
    trials: int
    rounds: int
    seed: int

    def blocks(self) -> tuple[Block, ...]:
        """Everything, in its order."""
        return schedule(self.systems, self.kinds, self.trials, self.rounds, self.seed)


def expected_s(planned: Sequence[Planned]) -> float:
    """How long these trials take, roughly."""
    return sum(EXPECTED_S.get(one.system, OTHERWISE_S) for one in planned)


class Campaign:
    """Works through a wish on a site, up to `limit_s` of time."""

    def __init__(self, site: Site, wish: Wish, out: Path, limit_s: float | None) -> None:
        self._site, self._wish, self._out = site, wish, out
        self._end = None if limit_s is None else time.monotonic() + limit_s

    def work(self) -> None:
        """Until nothing is left or the time is over. Ctrl-C and the like leave what was done in the file."""
        while left := remaining(self._wish.blocks(), read_trials(self._out, self._wish.run)):
            if not self._time_for(left[0].trials[:1]):
                return
            self._block(left[0])

    def _block(self, block: Block) -> None:
        """One start of a system and its trials; ends early when one was spoilt, or the time is over."""
        made = systems(self._site)[block.system]
        try:
            self._site.make()
            system = made()
            _say(f"{block.system}: starting")
            system.start()
        except (SubstrateError, HostdError, OSError) as error:
            # A void for every trial of the block: a system that cannot be started must not be tried for ever.
            self._keep(*(self._void(one, f"no start: {error}") for one in block.trials))
            self._site.clear()
            return
        try:
            for planned in block.trials:
                if not self._time_for((planned,)):
                    return
                if not self._trial(system, planned):
                    return
        finally:
            self._site.clear()

    def _trial(self, system: System, planned: Planned) -> bool:
        """False when the system needs a new start."""
        try:
            trial = perform(self._site, system, planned, self._wish.run)
        except Spoilt as spoilt:
            logs = self._out.parent / "peers-logs" / f"{self._wish.run}-{planned.system}-{planned.kind}"
            self._site.keep_logs(logs)
            self._keep(self._void(planned, f"{spoilt} (logs: {logs.name})"))
            return False
        self._keep(trial)
        return True

    def _time_for(self, planned: Sequence[Planned]) -> bool:
        return self._end is None or time.monotonic() + expected_s(planned) < self._end

    def _void(self, planned: Planned, why: str) -> Trial:
        return Trial(
            run=self._wish.run,
            system=planned.system,
            kind=planned.kind,
            number=planned.number,
            primary="",
            serve_ms=None,
            acknowledged=0,
            split_writes=0,
            lost=None,
            void=" ".join(why.split())[:300],
        )

    def _keep(self, *trials: Trial) -> None:
        append_trials(self._out, trials)
        for one in trials:
            served = "not served" if one.serve_ms is None else f"{one.serve_ms:.0f} ms"
            told = one.void and f"void: {one.void}"
            counts = f"{served}, split {one.split_writes}, lost {one.lost} of {one.acknowledged}"
            _say(f"{one.system} {one.kind} {one.number} (on {one.primary}): {told or counts}")


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
