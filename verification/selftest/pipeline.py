"""Made-up trials through the whole of the judge: history file, reader, checker, estimator, verdict."""

from __future__ import annotations

import tempfile
from collections.abc import Iterable
from pathlib import Path

import msgspec

from loadtests.record import Kind, Record, encode_line
from reports.model import Category, PlannedCriterion, Verdict
from verification.catalogue import Catalogue, CatalogueEntry, ProfilePlan
from verification.history import History
from verification.judge import judge
from verification.plan import Load, RegistrationTrial, RunPlan

PROFILE = "selftest"
HOSTS = ("mainpc", "pc2")
APART_NS = 20_000_000_000


class Pipeline:
    """Registrations on one host, awaited on the other, that take as long as they are told to."""

    def __init__(self, entry: CatalogueEntry, plan: ProfilePlan) -> None:
        self._entry = entry
        self._folder = tempfile.TemporaryDirectory(prefix="threenines-selftest-")
        Path(self._folder.name, "history").mkdir()
        size = plan.most or 0
        self._plan = RunPlan(
            profile=PROFILE,
            seed=0,
            categories=(Category(id=entry.category, title="synthetic", threshold=1.0),),
            criteria=(
                PlannedCriterion(
                    id=entry.id, claim=entry.claim, population=plan.population, method="", n=plan.n
                ),
            ),
            hosts=HOSTS,
            agents=(),
            load=Load(workload="none", per_s=0.0, users=0),
            catalogue=Catalogue(categories=(), criteria=(_planned(entry, plan),)),
            registrations=tuple(
                RegistrationTrial(id=f"r-{i}", name=f"n-{i}", origin=HOSTS[i % 2], other=HOSTS[1 - i % 2])
                for i in range(size)
            ),
        )

    def verdict(self, values_ms: Iterable[float]) -> Verdict:
        """The verdict over trials that took so many milliseconds each."""
        folder = Path(self._folder.name)
        (folder / "history" / "made-up.jsonl").write_bytes(
            b"".join(self._lines(i, float(value)) for i, value in enumerate(values_ms))
        )
        found = judge(self._plan, History.read(folder))
        return next(result.verdict for result in found.verdicts.criteria if result.id == self._entry.id)

    def _lines(self, number: int, value_ms: float) -> bytes:
        trial = self._plan.registrations[number]
        begin = number * APART_NS
        end = begin + round(value_ms * 1e6)

        def line(process: str, kind: Kind, f: str, host: str, time_ns: int) -> bytes:
            return encode_line(
                Record(process=process, type=kind, f=f, key=trial.name, time_ns=time_ns, host=host)
            )

        return b"".join(
            (
                line(f"w-{number}", Kind.INVOKE, "await", trial.other, begin),
                line(f"g-{number}", Kind.INVOKE, "register", trial.origin, begin),
                line(f"g-{number}", Kind.OK, "register", trial.origin, begin + 1),
                line(f"w-{number}", Kind.OK, "await", trial.other, max(end, begin)),
            )
        )


def _planned(entry: CatalogueEntry, plan: ProfilePlan) -> CatalogueEntry:
    return msgspec.structs.replace(entry, plans={PROFILE: plan})
