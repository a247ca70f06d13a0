"""Soaks that never were: hosts that look at a made-up fleet by a made-up clock, through the real recorder."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Sequence

import msgspec

from loadtests.soak_lines import Life, Line, Look, Seen, Stretches
from tests.verification.evidence_runs import catalogue
from verification import soak
from verification.soak import Judged, SoakPlan
from verification.soak_history import Sampled, Started, history_of

EPOCH_S = 1_767_225_600
WEEK_S = 7 * 86_400
HOSTS = ("mainpc", "pc2")
AGENTS = 5
Span = tuple[float, float]
Story = Callable[[float], Sequence[str]]
"""Who is served by nobody at an instant (seconds since the story began)."""


def well(_: float) -> Sequence[str]:
    """A fleet without a fault."""
    return ()


def down(*spans: Span, agent: str = "memory") -> Story:
    """A fleet that lacks one agent from time to time."""
    return lambda at: (agent,) if any(a <= at < b for a, b in spans) else ()


def plan(**changes: object) -> SoakPlan:
    made = soak.make_plan("s", HOSTS, catalogue(), "2026-01-01T00:00:00Z")
    return msgspec.structs.replace(made, **changes)


@functools.lru_cache(maxsize=64)
def life(
    host: str,
    span: Span,
    story: Story = well,
    *,
    boot: str = "boot-1",
    booted_s: float = -1000.0,
    wall_off: Callable[[float], float] = lambda at: 0.0,
    look_s: float = 4.0,
    failed: int = 0,
    blind_s: float = 0.0,
) -> tuple[Line, ...]:
    """What one life of the program writes. `booted_s`: when its boot's clock stood at zero."""

    def ns(at: float) -> int:
        return round((at - booted_s) * 1e9)

    def wall_ns(at: float) -> int:
        return round((EPOCH_S + at + wall_off(at)) * 1e9)

    begin, end = span
    name = f"{host}-{begin:g}"
    record = Stretches(boot, name, ns(begin))
    lines: list[Line] = [
        Life(
            soak="s",
            host=host,
            boot=boot,
            life=name,
            at_ns=ns(begin),
            wall_ns=wall_ns(begin),
            agents=AGENTS,
        )
    ]
    number = 0
    while (at := begin + number * look_s) < end:
        missing = ("everybody",) if at < begin + blind_s else tuple(story(at))
        look = Look(missing, {host: AGENTS - len(missing)}, AGENTS, failed if number == 10 else 0)
        seen = record.look(look, ns(at), wall_ns(at), 2.0 * (at - begin))
        lines += [] if seen is None else [seen]
        number += 1
    last = record.end()
    return (*lines, *(() if last is None else (last,)))


def moved(lines: Iterable[Line]) -> list[Line]:
    """The same, with a hand-over in it."""
    found = list(lines)
    at = next(i for i, line in enumerate(found) if isinstance(line, Seen) and i > 3)
    found[at] = msgspec.structs.replace(found[at], moved=2)
    return found


def judged(
    *lives: Sequence[Line],
    prometheus: Sequence[Sampled] = (),
    starts: Sequence[Started] = (),
    made: SoakPlan | None = None,
) -> Judged:
    """The judge's word on what these lives wrote, each in the file of its host."""
    files: dict[str, list[Line]] = {host: [] for host in HOSTS}
    for lines in lives:
        first = next(line for line in lines if isinstance(line, Life))
        files[first.host] += lines
    history = history_of("s", files, {"mainpc": tuple(prometheus)}, starts)
    return soak.judge(made or plan(), history)
