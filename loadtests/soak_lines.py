"""What a soak writes down: stretches of time in which a host saw the fleet the same way. Pure.

A line a stretch, not a line a look: it ends when something changes, when twenty seconds have passed, or when
the looks were too far apart to vouch for the time between them. Instants are CLOCK_BOOTTIME of one boot,
which no operator and no time server can set back; the wall clock stands beside it to place boots in order.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

SCHEMA = "threenines.soak/1"
LOOK_S = 1.0
GAP_S = 5.0
"""Looks further apart leave a gap: nobody knows what was between them."""
STRETCH_S = 20.0
STARTING_S = 30.0
"""For so long after its start a host may not know of everybody yet; till it does, its word is `blind`."""
NAMED = 8
"""So many agents are named in a line; the others are counted."""
WHY_SIGNS = 120


class State(StrEnum):
    """How the fleet is served, as seen from a host. `blind`: it has just started and knows too little."""

    UP = "up"
    DOWN = "down"
    BLIND = "blind"


class Life(msgspec.Struct, frozen=True, kw_only=True, tag="life", tag_field="kind"):
    """The program started. `boot` is the kernel's, `life` is unlike that of any other start in it."""

    soak: str
    host: str
    boot: str
    life: str
    at_ns: int
    wall_ns: int
    agents: int
    schema: str = SCHEMA


class Seen(
    msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, gc=False, tag="seen", tag_field="kind"
):
    """One stretch, from its first look to its last. `n` counts the lines of a life from 1.

    `wall_ns` is the wall clock at `end_ns`; `since_ns` the last good answer of what does not answer calls;
    `missing` is served by nobody, `failing` does not answer; `wrong` is how many there are of both.
    `moved` counts agents that serve elsewhere or anew, `cpu_ms` the program's CPU time since its start.
    """

    boot: str
    life: str
    n: int
    start_ns: int
    end_ns: int
    wall_ns: int
    state: State
    looks: int
    longest_ms: float
    cpu_ms: float
    since_ns: int | None = None
    wrong: int = 0
    missing: tuple[str, ...] = ()
    failing: tuple[str, ...] = ()
    why: str = ""
    serving: dict[str, int] = {}
    moved: int = 0
    lookups: int = 0
    lookups_failed: int = 0
    calls: int = 0
    calls_failed: int = 0


Line = Life | Seen
_ENCODER = msgspec.json.Encoder()


def encode(line: Line) -> bytes:
    """A line with its newline."""
    return _ENCODER.encode(line) + b"\n"


@dataclass(frozen=True)
class Look:
    """One look at every name. `missing`: served by nobody, or no answer; `failed` look-ups had none."""

    missing: tuple[str, ...]
    serving: Mapping[str, int]
    lookups: int
    failed: int = 0
    moved: int = 0
    why: str = ""


@dataclass
class _Open:
    """The stretch that goes on."""

    key: tuple[State, tuple[str, ...], tuple[str, ...]]
    start_ns: int
    end_ns: int
    wall_ns: int
    why: str
    since_ns: int | None
    serving: Mapping[str, int]
    cpu_ms: float
    looks: int = 1
    longest_ns: int = 0
    moved: int = 0
    lookups: int = 0
    failed: int = 0
    calls: int = 0
    calls_failed: int = 0


@dataclass
class Stretches:
    """Turns looks and outcomes of calls into lines. `start_ns`: when the program started."""

    boot: str
    life: str
    start_ns: int
    _n: int = 0
    _open: _Open | None = None
    _sighted: bool = False
    _last_ns: int = 0
    _missing: frozenset[str] = frozenset()
    _good_ns: dict[str, int] = field(default_factory=dict)
    _gone_ns: dict[str, int] = field(default_factory=dict)
    _failing: dict[str, tuple[int, str]] = field(default_factory=dict)
    _calls: int = 0
    _calls_failed: int = 0

    def called(self, agent: str, at_ns: int, trouble: str | None) -> None:
        """A call ended: well, or with `trouble`."""
        self._calls += 1
        if trouble is None:
            self._good_ns[agent] = at_ns
            self._gone_ns.pop(agent, None)
            self._failing.pop(agent, None)
            return
        self._calls_failed += 1
        if agent not in self._failing:
            # Where nobody served it, look-ups knew since when; else only its last good answer is known.
            good_ns = max(self._good_ns.get(agent, self.start_ns), self._gone_ns.get(agent, 0))
            self._failing[agent] = good_ns, trouble

    def failing(self, agent: str) -> bool:
        """Whether its last call ended badly."""
        return agent in self._failing

    def look(self, look: Look, at_ns: int, wall_ns: int, cpu_ms: float) -> Seen | None:
        """Takes a look in; the stretch that it ended, if it ended one. Looks come in order of time."""
        for name in set(look.missing) - self._missing:
            self._gone_ns[name] = self._last_ns or at_ns
        self._last_ns, self._missing = at_ns, frozenset(look.missing)
        state = self._state(look, at_ns)
        failing = tuple(sorted(self._failing))
        key = (state, look.missing, failing)
        ended: Seen | None = None
        now = self._open
        if now is not None and (
            key != now.key or at_ns - now.end_ns > GAP_S * 1e9 or at_ns - now.start_ns >= STRETCH_S * 1e9
        ):
            ended, now = self.end(), None
        if now is None:
            now = self._open = _Open(key, at_ns, at_ns, wall_ns, "", None, {}, cpu_ms)
            now.why = look.why
            if failing:
                now.since_ns = min(self._failing[name][0] for name in failing)
                now.why = now.why or self._failing[failing[0]][1]
        else:
            now.looks += 1
            now.longest_ns = max(now.longest_ns, at_ns - now.end_ns)
        now.end_ns, now.wall_ns, now.serving, now.cpu_ms = at_ns, wall_ns, look.serving, cpu_ms
        if state is not State.BLIND:
            now.lookups += look.lookups
            now.failed += look.failed
            now.moved += look.moved
            now.calls += self._calls
            now.calls_failed += self._calls_failed
        self._calls = self._calls_failed = 0
        return ended

    def end(self) -> Seen | None:
        """Ends the stretch that goes on; None when there is none."""
        now, self._open = self._open, None
        if now is None:
            return None
        self._n += 1
        state, missing, failing = now.key
        return Seen(
            boot=self.boot,
            life=self.life,
            n=self._n,
            start_ns=now.start_ns,
            end_ns=now.end_ns,
            wall_ns=now.wall_ns,
            state=state,
            looks=now.looks,
            longest_ms=round(now.longest_ns / 1e6, 1),
            cpu_ms=round(now.cpu_ms, 1),
            since_ns=now.since_ns,
            wrong=len({*missing, *failing}),
            missing=missing[:NAMED],
            failing=failing[:NAMED],
            why=now.why[:WHY_SIGNS],
            serving=dict(sorted(now.serving.items())),
            moved=now.moved,
            lookups=now.lookups,
            lookups_failed=now.failed,
            calls=now.calls,
            calls_failed=now.calls_failed,
        )

    def _state(self, look: Look, at_ns: int) -> State:
        wrong = bool(look.missing or self._failing)
        if not self._sighted:
            self._sighted = not wrong or at_ns - self.start_ns > STARTING_S * 1e9
            if not self._sighted:
                return State.BLIND
        return State.DOWN if wrong else State.UP
