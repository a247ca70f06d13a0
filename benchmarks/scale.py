"""Look-ups, publications and memory with 77, 1,000 and 10,000 agents: the baseline is the fleet of 77.

    python -m benchmarks.scale

The writer is a process of its own, as hostd is; the sizes take turns in one run.
"""

from __future__ import annotations

import contextlib
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.harness import Figure, figure, main, quantile
from benchmarks.registry_fixture import agent_name
from benchmarks.servers import memory_folder
from benchmarks.snapshot_publisher import Publisher, publisher
from services.registry.snapshot import SnapshotReader

SIZES = (77, 1_000, 10_000)
ROUNDS = 10
WARM_A_ROUND = 10_000
COLD_A_ROUND = 40
CHANGES_A_ROUND = 10
WORKING_SET = 10
"""Names that one agent keeps asking for: its dependencies."""


def timed_us(reader: SnapshotReader, name: str) -> float:
    start = time.perf_counter_ns()
    reader.resolve(name)
    return (time.perf_counter_ns() - start) / 1000


@dataclass
class Side:
    """A published fleet of one size, a reader that knows its working set, and what was measured."""

    size: int
    path: Path
    publisher: Publisher
    reader: SnapshotReader
    warm_us: list[float] = field(default_factory=list)
    changed_us: list[float] = field(default_factory=list)
    cold_us: list[float] = field(default_factory=list)
    publish_ms: list[float] = field(default_factory=list)

    def round(self, number: int) -> None:
        names = [agent_name(7919 * place % self.size) for place in range(WORKING_SET)]
        for turn in range(WARM_A_ROUND):
            self.warm_us.append(timed_us(self.reader, names[turn % WORKING_SET]))
        for turn in range(COLD_A_ROUND):
            with contextlib.closing(SnapshotReader(self.path, host="mainpc")) as stranger:
                self.cold_us.append(timed_us(stranger, agent_name(104_729 * turn % self.size)))
        for turn in range(CHANGES_A_ROUND):
            self.publish_ms.append(self.publisher.publish(number * CHANGES_A_ROUND + turn))
            self.changed_us += [timed_us(self.reader, name) for name in names]

    def samples(self) -> dict[str, tuple[str, list[float]]]:
        return {
            "warm look-up": ("us", self.warm_us),
            "look-up after a publication": ("us", self.changed_us),
            "first look-up of a new reader": ("us", self.cold_us),
            "publication": ("ms", self.publish_ms),
        }


def measure() -> list[Figure]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=memory_folder())))
        sides = []
        for size in SIZES:
            path = folder / f"{size}.snap"
            handle = stack.enter_context(publisher(path, size))
            reader = stack.enter_context(contextlib.closing(SnapshotReader(path, host="mainpc")))
            sides.append(Side(size, path, handle, reader))
        for number in range(ROUNDS):
            for side in sides:
                side.round(number)
        figures: list[Figure] = []
        base = sides[0].samples()
        for side in sides:
            for what, (unit, samples) in side.samples().items():
                for label, q in (("p50", 0.5), ("p99", 0.99)):
                    title = f"{side.size:,} agents: {what} {label}"
                    ours, small = quantile(samples, q), quantile(base[what][1], q)
                    if side is sides[0]:
                        figures.append(figure("scale", title, unit, ours))
                    else:
                        figures.append(figure("scale", title, unit, ours, small, "77 agents"))
            size_kib = side.path.stat().st_size / 1024
            figures.append(figure("scale", f"{side.size:,} agents: snapshot file", "KiB", size_kib))
        return figures


if __name__ == "__main__":
    sys.exit(main("scale", measure))
