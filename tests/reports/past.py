"""A made-up past: many rendered runs of one profile, for the ledger, the reviews and comparisons.

python -m tests.reports.past OUT     thirty nightly runs of November 2026, marked as real
"""

from __future__ import annotations

import random
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from reports import assemble, history, render
from reports.model import Criterion, Report, Verdict
from tests.reports.synthetic import write_run


@cache
def template() -> Report:
    """The report of a passing made-up run."""
    with TemporaryDirectory() as out:
        folder = write_run(Path(out), "run-1", kind="passing", plots=False)
        render.render(folder)
        return history.read(folder)


def remember(
    out: Path,
    day: str,
    *,
    verdict: Verdict = Verdict.PASS,
    commit: str | None = None,
    changes: Mapping[str, Mapping[str, object]] = {},
    profile: str = "nightly",
    agents: int = 77,
) -> Path:
    """Write the folder of a rendered run of `day`; `changes` are fields of its criteria by id."""
    found = template()
    name = f"{day}T030000Z-{profile}"
    run = msgspec.structs.replace(
        found.run,
        id=name,
        started=f"{day}T03:00:00Z",
        ended=f"{day}T03:40:00Z",
        profile=profile,
        commit=commit or day.replace("-", "") * 5,
        synthetic=False,
        configuration={"agents": str(agents)},
    )
    criteria = tuple(_changed(c, changes.get(c.id, {})) for c in found.criteria)
    report = msgspec.structs.replace(found, run=run, verdict=verdict, criteria=criteria)
    folder = out / name
    folder.mkdir(parents=True)
    (folder / "run.json").write_bytes(msgspec.json.encode(run))
    (folder / "report.json").write_bytes(assemble.encode(report))
    return folder


def _changed(criterion: Criterion, change: Mapping[str, object]) -> Criterion:
    return msgspec.structs.replace(criterion, **change) if change else criterion


def november(out: Path, seed: int = 5) -> None:
    """Thirty nights: SD-4 gets slower, SD-6 flips, RL-3.failover breaks on the 20th and stays broken."""
    rng = random.Random(seed)
    remember(out, "2026-10-30")
    for day in range(1, 31):
        slow = 300 + 14 * day + rng.uniform(-40, 40)
        torn = Verdict.PASS if day % 4 else Verdict.INCONCLUSIVE
        broken = day >= 20
        remember(
            out,
            f"2026-11-{day:02}",
            verdict=Verdict.FAIL if broken else Verdict.PASS,
            commit=f"{day:040x}",
            changes={
                "SD-4": {"bound": slow, "estimate": slow * 0.8},
                "SD-6": {"verdict": torn},
                "SD-1": {
                    "unit": "%",
                    "bound": 0.01 * day,
                    "target": 0.1,
                    "direction": "at most",
                    "n": 1000,
                    "exceedances": day // 9,
                },
                "RL-3.failover": {"verdict": Verdict.FAIL if broken else Verdict.PASS},
            },
        )


if __name__ == "__main__":
    november(Path(sys.argv[1]))
