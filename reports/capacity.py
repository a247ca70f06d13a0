"""How figures grow with the fleet: from the scale benchmark's file and the targets of the history. Pure.

The benchmark (`python -m benchmarks.scale`) writes a line a figure into `benchmarks/out/latest.jsonl`, its
measures named `10,000 agents: publication p99`. Growth is the exponent of a power law, fitted by least
squares to the logarithms; where it would reach a limit is an extrapolation and is called one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np

from reports.ledger import CriterionRecord
from reports.store import RunError

_MEASURE = re.compile(r"([\d,]+) agents: (.+)")
_TO_MS = {"us": 0.001, "ms": 1.0, "s": 1000.0}
_LIMITS = (("look-up", "SD-2"), ("publication", "SD-4"))
"""Which criterion's target a measure of that name would break."""
_FLAT = 0.05
FARTHEST = 100
"""How many times the largest size measured an extrapolation may reach and still be told."""


class _Line(msgspec.Struct):
    bench: str
    measure: str
    unit: str
    ours: float


@dataclass(frozen=True)
class Growth:
    """A figure over sizes of the fleet; `points` are (agents, value in `unit`), rising in agents."""

    measure: str
    unit: str
    points: tuple[tuple[int, float], ...]
    exponent: float
    """0: does not grow, 1: in proportion to the fleet."""
    limit_name: str | None = None
    limit: float | None = None
    """The target that it must keep, in `unit`."""
    reaches: float | None = None
    """Agents at which it would meet the limit; `None` where it has none, does not grow, or is too far off."""

    @property
    def headroom(self) -> float | None:
        """Share of the limit that is left at the largest size measured."""
        return None if self.limit is None else 1 - self.points[-1][1] / self.limit


def read_scale(path: Path) -> tuple[Growth, ...]:
    """The growths in a benchmark's file. Raises `RunError` naming the line that cannot be read."""
    try:
        lines = path.read_bytes().splitlines()
    except OSError as error:
        raise RunError(
            str(path), f"cannot be read ({error.strerror})", "make it with `python -m benchmarks.scale`"
        ) from None
    found = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            found.append(msgspec.json.decode(line, type=_Line))
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise RunError(
                f"{path}:{number}", f"is no figure ({error})", "make it with `python -m benchmarks.scale`"
            ) from None
    return growths(found)


def growths(lines: Iterable[_Line]) -> tuple[Growth, ...]:
    """Growth of every measure of the scale benchmark that was taken at two sizes at least."""
    sizes: dict[tuple[str, str], dict[int, float]] = {}
    for line in lines:
        match = _MEASURE.fullmatch(line.measure)
        if line.bench == "scale" and match and line.ours > 0 and math.isfinite(line.ours):
            agents = int(match[1].replace(",", ""))
            sizes.setdefault((match[2], line.unit), {})[agents] = line.ours
    found = []
    for (measure, unit), by_size in sizes.items():
        points = tuple(sorted(by_size.items()))
        if len(points) >= 2:
            at, values = np.log([p[0] for p in points]), np.log([p[1] for p in points])
            found.append(Growth(measure, unit, points, float(np.polyfit(at, values, 1)[0])))
    return tuple(found)


def with_limits(found: Sequence[Growth], criteria: Sequence[CriterionRecord]) -> tuple[Growth, ...]:
    """The growths with the targets that the history's criteria set for them."""
    targets = {c.id: c for c in criteria if c.target is not None and c.unit in _TO_MS}
    told = []
    for growth in found:
        name = next((row for word, row in _LIMITS if word in growth.measure), None)
        criterion = targets.get(name or "")
        if criterion is None or criterion.target is None or growth.unit not in _TO_MS:
            told.append(growth)
            continue
        limit = criterion.target * _TO_MS[criterion.unit or "ms"] / _TO_MS[growth.unit]
        reaches = _reaches(growth, limit)
        told.append(replace(growth, limit_name=f"the target of {criterion.id}", limit=limit, reaches=reaches))
    return tuple(told)


def _reaches(growth: Growth, limit: float) -> float | None:
    size, value = growth.points[-1]
    if growth.exponent <= _FLAT or value >= limit:
        return None
    times = math.log(limit / value) / growth.exponent
    return size * math.exp(times) if times <= math.log(FARTHEST) else None
