"""A writer of a snapshot in a process of its own, as hostd is one; used by the benchmarks of look-ups.

    python -m benchmarks.snapshot_publisher PATH AGENTS

For every line NUMBER on standard input it changes every tenth agent (from NUMBER modulo 10 on), publishes,
and prints how many milliseconds the publication took.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import msgspec

from benchmarks.registry_fixture import fleet
from services.registry.model import Entry
from services.registry.snapshot import SnapshotWriter

FRESH_FOR_MS = 600_000


class Publisher:
    """The parent's handle."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def publish(self, number: int) -> float:
        """Milliseconds that the publication took; every tenth agent changes."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{number}\n")
        self._process.stdin.flush()
        return float(self._process.stdout.readline())


@contextlib.contextmanager
def publisher(path: Path, agents: int) -> Iterator[Publisher]:
    command = [sys.executable, "-m", "benchmarks.snapshot_publisher", str(path), str(agents)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            handle = Publisher(process)
            handle.publish(0)
            yield handle
        finally:
            process.kill()


def changed(entry: Entry, incarnation: int) -> Entry:
    first, *rest = entry.instances
    return Entry(name=entry.name, instances=(msgspec.structs.replace(first, incarnation=incarnation), *rest))


def main() -> int:
    path, agents = Path(sys.argv[1]), int(sys.argv[2])
    entries = fleet(agents)
    names = list(entries)
    with contextlib.closing(SnapshotWriter(path)) as writer:
        for line in sys.stdin:
            number = int(line)
            for name in names[number % 10 :: 10]:
                entries[name] = changed(entries[name], number)
            start = time.perf_counter_ns()
            writer.publish(entries, number, FRESH_FOR_MS)
            print((time.perf_counter_ns() - start) / 1e6, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
