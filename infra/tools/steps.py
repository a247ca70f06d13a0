"""Steps of the set-up: done ones are skipped, independent ones run side by side, the first error ends all."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass

from infra.tools.children import Children, Stopped

TICK_S = 30.0
"""How often a line says which steps are still at work."""


@dataclass(frozen=True, slots=True)
class Step:
    """One thing to bring.

    `ready` says without side effects, in milliseconds, whether it is there already; `bring` does it and
    returns in a few words what came. `after` names the steps that must have ended before. A step whose
    `needed_for` are all ready is not run at all (a fetch that only serves a build).
    """

    name: str
    ready: Callable[[], bool]
    bring: Callable[[], str]
    after: tuple[str, ...] = ()
    needed_for: tuple[str, ...] = ()


def pending_steps(steps: Sequence[Step]) -> tuple[Step, ...]:
    """The steps to run, in order: not ready, and if they only serve others, those are not ready either."""
    waiting = {step.name for step in steps if not step.needed_for and not step.ready()}
    for step in reversed(steps):
        if step.needed_for and waiting.intersection(step.needed_for) and not step.ready():
            waiting.add(step.name)
    return tuple(step for step in steps if step.name in waiting)


class Progress:
    """Prints a line per event with the seconds since the start."""

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._start = clock()
        self._since: dict[str, float] = {}
        self._lock = threading.Lock()

    def elapsed_s(self) -> float:
        """Seconds since this was made."""
        return self._clock() - self._start

    def begin(self, name: str) -> None:
        """A step starts."""
        with self._lock:
            self._since[name] = self._clock()
            self._line(f"{name} …")

    def end(self, name: str, outcome: str) -> None:
        """A step has ended well."""
        with self._lock:
            took_s = self._clock() - self._since.pop(name, self._clock())
            self._line(f"{name}: {outcome} ({took_s:.1f} s)")

    def tick(self) -> None:
        """Say who is still at work."""
        with self._lock:
            if self._since:
                now = self._clock()
                self._line("still: " + ", ".join(f"{n} ({now - t:.0f} s)" for n, t in self._since.items()))

    def _line(self, text: str) -> None:
        self._say(f"[{self.elapsed_s():6.1f} s] {text}")


def run_steps(steps: Sequence[Step], children: Children, progress: Progress, tick_s: float = TICK_S) -> None:
    """Run the steps, each as soon as those it comes after have ended.

    A name in `after` that is not among `steps` counts as ended. Raises the first error of a step; the
    children of the others are ended before, so nothing goes on behind the caller's back.
    """
    names = {step.name for step in steps}
    waiting = list(steps)
    ended: set[str] = set()
    running: dict[Future[str], Step] = {}
    with ThreadPoolExecutor(max_workers=max(1, len(steps)), thread_name_prefix="setup") as pool:
        try:
            while waiting or running:
                for step in [s for s in waiting if all(a in ended or a not in names for a in s.after)]:
                    waiting.remove(step)
                    progress.begin(step.name)
                    running[pool.submit(step.bring)] = step
                if not running:
                    raise ValueError(f"steps wait for one another: {', '.join(s.name for s in waiting)}")
                done, _ = wait(running, timeout=tick_s, return_when=FIRST_COMPLETED)
                if not done:
                    progress.tick()
                for future in sorted(done, key=lambda f: isinstance(f.exception(), Stopped)):
                    step = running.pop(future)
                    progress.end(step.name, future.result())
                    ended.add(step.name)
        except BaseException:
            children.stop()
            raise
