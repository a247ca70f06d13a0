"""From a soak's lines to outages with their causes: both hosts, and Prometheus beside them. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import msgspec

from loadtests.soak_lines import GAP_S, STRETCH_S, State
from reports.model import OutageEpisode
from verification import availability
from verification.availability import Probe, Watched
from verification.soak_history import Begun, Sampled, SoakHistory, Stretch

PROMETHEUS = "prometheus"
PROMETHEUS_LATE_S = 30.0
"""Prometheus learns of an agent's new place with its next scrapes: only what lasts longer is an outage."""
UNWRITTEN_S = STRETCH_S + GAP_S
"""What a host saw last is lost with it: its word ends so long before it does."""
AROUND_S = 2.0
"""A host that tells of an outage up to its last second or so was not lost in it."""
NAMED = 3


def watched_by(history: SoakHistory, hosts: Sequence[str], gap_s: float) -> Watched | None:
    """What all of them together saw, None when nobody looked. `gap_s`: looks further apart leave a gap."""
    seen = availability.watch(_probes(history, hosts, gap_s), gap_s=gap_s)
    return None if seen is None else _explained(seen, history, hosts, gap_s)


def _probes(history: SoakHistory, hosts: Sequence[str], gap_s: float) -> dict[str, list[Probe]]:
    """Both hosts and both Prometheus servers as probes.

    A host that has just started knows too little to say `down` against another's word. Where it is the only
    one that watches, what it cannot see is an outage.
    """
    probes: dict[str, list[Probe]] = {host: [] for host in hosts}
    for one in history.stretches:
        if one.seen.state is not State.BLIND:
            probes[one.host].append(
                Probe(one.start_s, one.start_s, one.seen.state is State.UP, one.end_s, one.since_s)
            )
    known = union([(one.start_s, one.until_s or one.end_s) for p in probes.values() for one in p], gap_s)
    blind = [one for one in history.stretches if one.seen.state is State.BLIND]
    follows = {(one.host, one.seen.boot, one.seen.life, one.seen.n): one for one in history.stretches}
    for one in blind:
        after = follows.get((one.host, one.seen.boot, one.seen.life, one.seen.n + 1))
        until_s = one.end_s if after is None or after.start_s - one.end_s > gap_s else after.start_s
        for start_s, end_s in _without(one.start_s, until_s, known):
            probes.setdefault(_starting(one.host), []).append(Probe(start_s, start_s, False, end_s))
    for host, sampled in history.prometheus.items():
        probes[f"{PROMETHEUS} on {host}"] = list(_of_prometheus(sampled, known))
    return probes


def _starting(host: str) -> str:
    return f"{host}, starting"


def _of_prometheus(sampled: Sequence[Sampled], known: Sequence[tuple[float, float]]) -> Iterable[Probe]:
    """What Prometheus misses for longer than it may be late. It fills no gap of the hosts' probes."""
    down: tuple[float, float] | None = None
    for one in (*sampled, Sampled(from_s=math.inf, to_s=math.inf, down=0)):
        if one.down:
            down = (one.from_s if down is None else down[0], one.to_s)
        elif down is not None:
            start_s, end_s = down
            if end_s - start_s >= PROMETHEUS_LATE_S:
                yield from (Probe(a, a, False, b) for a, b in _within(start_s, end_s, known))
            down = None


def union(stretches: Iterable[tuple[float, float]], gap_s: float) -> list[tuple[float, float]]:
    """Stretches that lie no further apart than looks may lie, as one."""
    found: list[tuple[float, float]] = []
    for start_s, end_s in sorted(stretches):
        if found and start_s - found[-1][1] <= gap_s:
            found[-1] = (found[-1][0], max(found[-1][1], end_s))
        else:
            found.append((start_s, end_s))
    return found


def _within(
    start_s: float, end_s: float, known: Iterable[tuple[float, float]]
) -> Iterable[tuple[float, float]]:
    for a, b in known:
        if a < end_s and start_s < b:
            yield max(a, start_s), min(b, end_s)


def _without(
    start_s: float, end_s: float, known: Iterable[tuple[float, float]]
) -> Iterable[tuple[float, float]]:
    """The parts of a stretch, an instant perhaps, that none of `known` (in order) covers."""
    if start_s == end_s and not any(a <= start_s <= b for a, b in known):
        yield start_s, end_s
    for a, b in known:
        if b <= start_s or a >= end_s:
            continue
        if a > start_s:
            yield start_s, a
        start_s = max(start_s, b)
    if start_s < end_s:
        yield start_s, end_s


# ----------------------------------------------------------------------------------------------- causes


def _explained(watched: Watched, history: SoakHistory, hosts: Sequence[str], gap_s: float) -> Watched:
    """Episodes with what is known of their cause."""
    down = [one for one in history.stretches if one.seen.state is not State.UP]
    spans = {
        host: union([(one.start_s, one.end_s) for one in history.stretches if one.host == host], gap_s)
        for host in hosts
    }
    return Watched(
        watched.start_s,
        watched.end_s,
        tuple(
            msgspec.structs.replace(one, cause=_cause(one, down, spans, history.lives))
            for one in watched.episodes
        ),
        watched.gaps,
    )


def _cause(
    episode: OutageEpisode,
    down: Sequence[Stretch],
    spans: Mapping[str, Sequence[tuple[float, float]]],
    lives: Sequence[Begun],
) -> str:
    start_s, end_s = episode.start_s, episode.start_s + episode.length_s
    seen = [
        one.seen
        for one in down
        if one.start_s <= end_s
        and start_s <= one.end_s
        and (one.host in episode.seen_by or _starting(one.host) in episode.seen_by)
    ]
    parts = [
        f"{host} was lost"
        for host, known in spans.items()
        if any(start_s - UNWRITTEN_S <= b <= end_s - AROUND_S for b in _ends(host, known, lives, end_s))
    ]
    parts += [
        f"{one.host} started"
        for one in lives
        if start_s <= one.at_s <= end_s
        and _starting(one.host) in episode.seen_by
        and f"{one.host} was lost" not in parts
    ]
    unserved = {name for one in seen for name in one.missing}
    missing = _names(unserved, [one.wrong for one in seen])
    failing = _names([name for one in seen for name in one.failing if name not in unserved], [])
    if missing:
        parts.append(f"nobody served {missing}")
    if failing:
        parts.append(f"no answer from {failing}")
    why = next((one.why for one in seen if one.why), "")
    if why and not missing:
        parts.append(why)
    return "; ".join(dict.fromkeys(parts)) or availability.UNKNOWN


def _ends(
    host: str, known: Sequence[tuple[float, float]], lives: Sequence[Begun], now_s: float
) -> Iterable[float]:
    """When a host stopped telling: before each gap, and at last if it started anew or is silent for long."""
    yield from (end_s for _, end_s in known[:-1])
    for _, end_s in known[-1:]:
        if end_s <= now_s - UNWRITTEN_S or any(one.host == host and one.at_s > end_s for one in lives):
            yield end_s


def _names(names: Iterable[str], counts: Iterable[int]) -> str:
    known = sorted(set(names))
    more = max(max(counts, default=0), len(known)) - min(len(known), NAMED)
    return ", ".join(known[:NAMED]) + (f" and {more} more" if known and more > 0 else "")
