"""How long and with how much memory a night with a million history records is judged and rendered.

    python -m benchmarks.judging [RECORDS] [--keep FOLDER]

Makes up a night of that size (`benchmarks.made_up_night`) in a temporary folder, or in FOLDER, where it
stays; judges and renders it in a process of its own as `threenines report` does, and prints processor
seconds, wall seconds, the most memory, and a hash of what was written: the same records give the same bytes.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.made_up_night import WHOLE, write_night

CHILD = """
import hashlib, json, resource, sys, time
from pathlib import Path
folder = Path(sys.argv[1])
def used():
    self, others = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return self.ru_utime + self.ru_stime, others.ru_utime + others.ru_stime
begun = time.monotonic()
from verification.judge import judge_run
verdicts = judge_run(folder)
judged = time.monotonic()
judged_cpu = sum(used())
from reports import render
report = render.render(folder)
names = ("verdicts.json", "series.json", "report.json", "report.html", "report.md", "junit.xml")
digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in names)).hexdigest()
own, porcupine = used()
print(json.dumps({
    "cpu_s": round(own + porcupine, 2), "wall_s": round(time.monotonic() - begun, 2),
    "judging_cpu_s": round(judged_cpu, 2), "judging_wall_s": round(judged - begun, 2),
    "porcupine_cpu_s": round(porcupine, 2),
    "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1),
    "criteria": len(verdicts.criteria), "scenarios": len(report.scenarios), "digest": digest[:16],
}))
"""


def main() -> None:
    """Measures once and prints one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("records", type=int, nargs="?", default=WHOLE)
    parser.add_argument("--keep", type=Path)
    wish = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="threenines-judging-") as temporary:
        folder = wish.keep or Path(temporary) / "night"
        folder.mkdir(parents=True)
        written = write_night(folder, wish.records)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, folder], check=True, stdout=subprocess.PIPE, text=True
        )
        print(json.dumps({"records": written, **json.loads(done.stdout)}))


if __name__ == "__main__":
    main()
