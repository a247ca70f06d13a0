"""What the benchmarks share: one figure's form, a table on the terminal, `benchmarks/out/latest.jsonl`."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Final

import msgspec
from rich.console import Console
from rich.table import Table

OUT: Final = Path(__file__).parent / "out"


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One line of `latest.jsonl`.

    `ratio` is baseline / ours: more than 1 is better where small is good. None without a baseline.
    """

    bench: str
    measure: str
    unit: str
    ours: float
    baseline: float | None = None
    baseline_name: str | None = None
    ratio: float | None = None


def figure(
    bench: str,
    measure: str,
    unit: str,
    ours: float,
    baseline: float | None = None,
    baseline_name: str | None = None,
) -> Figure:
    """A figure with its ratio."""
    ratio = None if baseline is None or ours == 0 else baseline / ours
    return Figure(
        bench=bench,
        measure=measure,
        unit=unit,
        ours=ours,
        baseline=baseline,
        baseline_name=baseline_name,
        ratio=ratio,
    )


def quantile(samples: Sequence[float], q: float) -> float:
    """The nearest-rank quantile: an observed value, never an interpolation."""
    ordered = sorted(samples)
    if not ordered:
        raise ValueError("no samples")
    return ordered[min(len(ordered) - 1, max(0, -(-int(q * 1_000_000) * len(ordered) // 1_000_000) - 1))]


def cpu_s(pid: int) -> float:
    """User and system time of a process so far, in seconds (10 ms steps, so measure for seconds)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        fields = file.read().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def precise_cpu_s(pid: int) -> float:
    """As `cpu_s`, to the nanosecond, of the main thread alone (`/proc/PID/schedstat`)."""
    with open(f"/proc/{pid}/schedstat", "rb") as file:
        return int(file.read().split()[0]) / 1e9


def pss_kb(pid: int) -> int:
    """Proportional set size of a process in KiB (`/proc/PID/smaps_rollup`)."""
    with open(f"/proc/{pid}/smaps_rollup", "rb") as file:
        for line in file:
            if line.startswith(b"Pss:"):
                return int(line.split()[1])
    raise OSError(f"no Pss for process {pid}")


def report(figures: Iterable[Figure], console: Console | None = None) -> None:
    """Prints figures as a table."""
    table = Table("benchmark", "measure", "ours", "baseline", "ratio", "unit")
    for one in figures:
        baseline = "" if one.baseline is None else f"{one.baseline:,.4g} ({one.baseline_name})"
        ratio = "" if one.ratio is None else f"{one.ratio:,.1f}×"
        table.add_row(one.bench, one.measure, f"{one.ours:,.4g}", baseline, ratio, one.unit)
    (console or Console()).print(table)


def write(figures: Iterable[Figure], path: Path = OUT / "latest.jsonl") -> None:
    """Replaces the lines of the same benchmarks in `path`, keeps those of the others."""
    fresh = list(figures)
    names = {one.bench for one in fresh}
    kept: list[Figure] = []
    if path.exists():
        for line in path.read_bytes().splitlines():
            old = msgspec.json.decode(line, type=Figure)
            if old.bench not in names:
                kept.append(old)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(b"".join(msgspec.json.encode(one) + b"\n" for one in [*kept, *fresh]))
    temporary.rename(path)


def main(name: str, measure: Callable[[], Sequence[Figure]]) -> int:
    """The body of `python -m benchmarks.NAME`."""
    print(f"{name} …", file=sys.stderr, flush=True)
    figures = measure()
    report(figures)
    write(figures)
    return 0
