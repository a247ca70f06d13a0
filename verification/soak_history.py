"""The raw lines of a soak, put on one axis of time and read with suspicion. Pure but for `read`.

The axis is seconds since 1970, but only each boot's first line sets it by the wall clock: within a boot
CLOCK_BOOTTIME counts, which nobody sets back. What speaks against the lines is a *doubt*: with one of those
nothing passes, and what failed still fails.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from loadtests.soak_lines import GAP_S, Life, Line, Seen

T = TypeVar("T")

FOLDER = "soak"
CLOCK_STEP_S = 1.0
"""Steps of the wall clock up to this are its being kept right."""


class Sampled(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of Prometheus' samples (seconds since 1970) in which `down` agents were up nowhere."""

    from_s: float
    to_s: float
    down: int


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """A line of `journal.jsonl`: the soak was started, for the first time or again, from this source."""

    at: str
    commit: str | None
    dirty: bool
    fleet_sha256: str | None


@dataclass(frozen=True)
class Stretch:
    """What a host saw, in seconds of the common axis. `since_s` as of a probe."""

    host: str
    start_s: float
    end_s: float
    seen: Seen

    @property
    def since_s(self) -> float | None:
        """The last good answer of what does not answer."""
        since_ns = self.seen.since_ns
        return None if since_ns is None else self.end_s - (self.seen.end_ns - since_ns) / 1e9


@dataclass(frozen=True)
class Begun:
    """A start of the program on a host, on the common axis."""

    host: str
    at_s: float
    life: str


@dataclass(frozen=True)
class SoakHistory:
    """All that was written. `notes` are odd and harmless, `doubts` are not."""

    stretches: tuple[Stretch, ...] = ()
    lives: tuple[Begun, ...] = ()
    prometheus: Mapping[str, tuple[Sampled, ...]] = field(default_factory=dict)
    starts: tuple[Started, ...] = ()
    notes: tuple[tuple[str, str], ...] = ()
    """Where, and what."""
    doubts: tuple[str, ...] = ()


def read(run_folder: Path, soak: str, hosts: Iterable[str]) -> SoakHistory:
    """The history of a soak's folder. A file that is missing has no lines. Raises OSError."""
    notes: list[tuple[str, str]] = []
    lines: dict[str, list[Line]] = {}
    sampled: dict[str, tuple[Sampled, ...]] = {}
    for host in hosts:
        lines[host] = _decoded(run_folder, f"{FOLDER}/{host}.jsonl", msgspec.json.Decoder(Line), notes)
        samples = _decoded(
            run_folder, f"{FOLDER}/prometheus-{host}.jsonl", msgspec.json.Decoder(Sampled), notes
        )
        sampled[host] = tuple(sorted(samples, key=lambda one: one.from_s))
    starts = _decoded(run_folder, "journal.jsonl", msgspec.json.Decoder(Started), notes)
    return history_of(soak, lines, sampled, starts, notes)


def history_of(
    soak: str,
    lines: Mapping[str, Iterable[Line]],
    prometheus: Mapping[str, tuple[Sampled, ...]] = {},
    starts: Iterable[Started] = (),
    notes: Iterable[tuple[str, str]] = (),
) -> SoakHistory:
    """Lines by host, in the order in which they were written, as a history. A line may stand twice."""
    told, doubts = list(notes), list[str]()
    lives: dict[tuple[str, str, str], Life] = {}
    seen: dict[tuple[str, str, str, int], Seen] = {}
    for host, written in lines.items():
        for line in written:
            known: Line
            if isinstance(line, Life):
                if (line.soak, line.host) != (soak, host):
                    doubts.append(f"{host}: its file holds lines of {line.host} in {line.soak}")
                known = lives.setdefault((host, line.boot, line.life), line)
            else:
                known = seen.setdefault((host, line.boot, line.life, line.n), line)
            if known != line:
                doubts.append(f"{host}: two lines tell different things of the same time")
    offsets = _offsets(lives.values(), seen.values(), told, doubts)
    stretches = [
        Stretch(host, (offsets[boot] + one.start_ns) / 1e9, (offsets[boot] + one.end_ns) / 1e9, one)
        for (host, boot, _, _), one in seen.items()
    ]
    order = {key: number for number, key in enumerate(dict.fromkeys(key[:3] for key in seen))}
    for host in lines:
        mine = [one for one in stretches if one.host == host]
        mine.sort(key=lambda one: (order[one.host, one.seen.boot, one.seen.life], one.seen.n))
        doubts += _doubts_of(host, mine, lives)
    stretches.sort(key=lambda one: (one.start_s, one.end_s))
    return SoakHistory(
        stretches=tuple(stretches),
        lives=tuple(
            Begun(host, (offsets[boot] + life.at_ns) / 1e9, life.life)
            for (host, boot, _), life in lives.items()
        ),
        prometheus=prometheus,
        starts=tuple(starts),
        notes=tuple(told),
        doubts=tuple(dict.fromkeys(doubts)),
    )


def _offsets(
    lives: Iterable[Life], seen: Iterable[Seen], notes: list[tuple[str, str]], doubts: list[str]
) -> dict[str, int]:
    """What to add to a boot's CLOCK_BOOTTIME, in nanoseconds: its wall clock at its first line."""
    by_boot: dict[str, list[tuple[int, int]]] = {}
    for life in lives:
        by_boot.setdefault(life.boot, []).append((life.at_ns, life.wall_ns))
    for one in seen:
        by_boot.setdefault(one.boot, []).append((one.end_ns, one.wall_ns))
    offsets: dict[str, int] = {}
    for boot, pairs in by_boot.items():
        pairs.sort()
        last = offsets[boot] = pairs[0][1] - pairs[0][0]
        for at_ns, wall_ns in pairs[1:]:
            step_s = (wall_ns - at_ns - last) / 1e9
            last = wall_ns - at_ns
            if step_s < -CLOCK_STEP_S:
                doubts.append(f"the clock went back by {-step_s:.0f} s")
            elif step_s > CLOCK_STEP_S:
                notes.append(("the wall clock", f"was set forward by {step_s:.0f} s; time counts without it"))
    return offsets


def _doubts_of(host: str, mine: list[Stretch], lives: Mapping[tuple[str, str, str], Life]) -> Iterable[str]:
    """`mine` are a host's stretches, life by life."""
    last: dict[tuple[str, str], Seen] = {}
    ends: dict[str, float] = {}
    for one in mine:
        seen = one.seen
        key = (seen.boot, seen.life)
        before = last.get(key)
        if before is None and (host, *key) not in lives:
            yield f"{host}: the first line of a life is missing"
        if seen.n != (1 if before is None else before.n + 1):
            yield f"{host}: lines are missing in the middle"
        length_s = (seen.end_ns - seen.start_ns) / 1e9
        if length_s < 0 or (before is not None and seen.start_ns < before.end_ns):
            yield f"{host}: a stretch begins before the one before it ends"
        elif length_s > (seen.looks - 1) * GAP_S or seen.longest_ms > GAP_S * 1e3:
            yield f"{host}: a stretch claims time in which nobody looked"
        if before is None:
            others = max((end for boot, end in ends.items() if boot != seen.boot), default=one.start_s)
            if one.start_s < others - CLOCK_STEP_S:
                yield f"the clock of {host} went back by {others - one.start_s:.0f} s over a restart"
        last[key] = seen
        ends[seen.boot] = max(ends.get(seen.boot, one.end_s), one.end_s)


def _decoded(
    run_folder: Path, name: str, decoder: msgspec.json.Decoder[T], notes: list[tuple[str, str]]
) -> list[T]:
    """The whole lines of a file; what is cut or damaged goes to `notes`."""
    found: list[T] = []
    damaged = 0
    try:
        data = (run_folder / name).read_bytes()
    except FileNotFoundError:
        return found
    *whole, rest = data.split(b"\n")
    for line in whole:
        try:
            found.append(decoder.decode(line))
        except msgspec.MsgspecError:
            damaged += bool(line)
    if rest:
        notes.append((name, f"the last line is cut short ({len(rest)} bytes)"))
    if damaged:
        notes.append((name, f"{damaged} lines are damaged"))
    return found
