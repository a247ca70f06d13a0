"""`python -m benchmarks [NAME …]`: runs the benchmarks and prints one table."""

from __future__ import annotations

import importlib
import sys
from typing import Final

from benchmarks.harness import Figure, report, write

NAMES: Final = ("lookup", "propagation", "start", "memory", "call", "scale", "open_loop")


def main() -> int:
    """0 when every benchmark ran, 3 when one could not, 64 for an unknown name."""
    if sys.argv[1:2] == ["peers"]:  # needs root, brings other systems and takes an hour: on demand only
        from benchmarks.peers.command import main as peers

        return peers(sys.argv[2:])
    wanted = sys.argv[1:] or list(NAMES)
    unknown = [name for name in wanted if name not in NAMES]
    if unknown:
        print(f"threenines: benchmarks: no {unknown[0]!r}; choose from {', '.join(NAMES)}", file=sys.stderr)
        return 64
    everything: list[Figure] = []
    status = 0
    for name in wanted:
        print(f"{name} …", file=sys.stderr, flush=True)
        try:
            figures = importlib.import_module(f"benchmarks.{name}").measure()
        except Exception as error:  # one benchmark that cannot run must not hide the figures of the others
            print(
                f"threenines: benchmarks.{name}: {type(error).__name__}: {error}; see the docs",
                file=sys.stderr,
            )
            status = 3
            continue
        write(figures)
        everything += figures
    report(everything)
    return status


if __name__ == "__main__":
    sys.exit(main())
