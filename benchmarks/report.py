"""`report`: what judging and rendering a run with a million history records takes.

    python -m benchmarks.report [RUN]

Takes the newest stored run that has a history (or RUN), repeats the operations of its load in a copy until
the history has a million records (`BENCH_RECORDS`), and runs `threenines report` on it in another process.
Processor time and peak memory are that process'; wall time on a busy machine says more about the machine.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.harness import Figure, figure, main
from reports import store

RECORDS = int(os.environ.get("BENCH_RECORDS", "1000000"))
_PROCESS = re.compile(rb'("process":\s*")([^"]*)(")')


def measure() -> Sequence[Figure]:
    """The figures."""
    source = store.resolve(sys.argv[1], store.default_out()) if len(sys.argv) > 1 else _newest()
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / source.name
        shutil.copytree(
            source, copy, ignore=shutil.ignore_patterns("report.*", "verdicts.json", "series.json")
        )
        _unsealed(copy / "run.json")
        records = _repeat(copy / "history", RECORDS)
        began = time.perf_counter()
        child = subprocess.Popen(
            [sys.executable, "-m", "threenines", "report", str(copy)], stdout=subprocess.DEVNULL
        )
        _, status, used = os.wait4(child.pid, 0)
        wall_s = time.perf_counter() - began
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode not in {0, 1, 2}:
            raise SystemExit(f"threenines report ended with {child.returncode}")
        page_kib = (copy / "report.html").stat().st_size / 1024
    name = f"{records:,} records of {source.name}"
    return [
        figure("report", f"{name}: processor time", "s", used.ru_utime + used.ru_stime),
        figure("report", f"{name}: wall time", "s", wall_s),
        figure("report", f"{name}: peak memory", "MiB", used.ru_maxrss / 1024),
        figure("report", f"{name}: report.html", "KiB", page_kib),
    ]


def _newest() -> Path:
    out = store.default_out()
    for name in store.run_ids(out):
        if any((out / name / "history").glob("load-*.jsonl")) and (out / name / "report.json").is_file():
            return out / name
    raise SystemExit("no stored run: make one with `threenines verify --profile quick`")


def _unsealed(run: Path) -> None:
    """What follows is no longer what the run left, and does not say that it is."""
    told = json.loads(run.read_bytes())
    told.pop("seal_sha256", None)
    run.write_text(json.dumps(told))


def _repeat(history: Path, wanted: int) -> int:
    """Append copies of the load's operations, each as processes of its own; returns the number of records."""
    lines = {path: path.read_bytes().splitlines(keepends=True) for path in sorted(history.glob("*.jsonl"))}
    count = sum(map(len, lines.values()))
    loads = {
        path: [line for line in found if b'"load-plan"' not in line]
        for path, found in lines.items()
        if path.name.startswith("load-")
    }
    once = sum(map(len, loads.values()))
    for number in range(1, 1 + max(0, -(-(wanted - count) // max(once, 1)))):
        again = rb"\g<1>\g<2>~" + str(number).encode() + rb"\g<3>"
        for path, found in loads.items():
            with path.open("ab") as file:
                file.writelines(_PROCESS.sub(again, line, count=1) for line in found)
        count += once
    return count


if __name__ == "__main__":
    sys.exit(main("report", measure))
