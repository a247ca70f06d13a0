"""Files of made-up history: operations in the order of time, and the seconds of a load."""

from __future__ import annotations

import random
from collections import defaultdict
from pathlib import Path

from loadtests.histogram import Histogram
from loadtests.protocol import LoadKind, LoadPlan, LoadSecond
from loadtests.record import Kind, Record, encode_line, raw
from loadtests.workload import Workload

S = 1_000_000_000
NOTHING = raw(None)


class Files:
    """History below `folder`. What is written between two `flush` stands in the order of time."""

    def __init__(self, folder: Path) -> None:
        self.written = 0
        self._folder = folder
        self._lines: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
        folder.mkdir(parents=True, exist_ok=True)

    def pair(
        self,
        stem: str,
        process: str,
        f: str,
        key: str | None,
        host: str | None,
        begin_ns: int,
        end_ns: int,
        begun: object = None,
        ended: object = None,
        kind: Kind = Kind.OK,
        *,
        late: bool = False,
    ) -> None:
        """An operation with its end, for the file `stem.jsonl`; `late`: both were written at its end."""
        for which, value, at in ((Kind.INVOKE, begun, begin_ns), (kind, ended, end_ns)):
            record = Record(
                process=process,
                type=which,
                f=f,
                key=key,
                value=NOTHING if value is None else raw(value),
                time_ns=at,
                host=host,
            )
            self._lines[stem].append((end_ns if late else at, encode_line(record)))
        self.written += 2

    def flush(self) -> None:
        """Appends what is collected."""
        for stem, lines in self._lines.items():
            lines.sort(key=lambda line: line[0])
            with open(self._folder / f"{stem}.jsonl", "ab") as file:
                file.writelines(line for _, line in lines)
        self._lines.clear()


def load_seconds(files: Files, stem: str, host: str, begin_ns: int, end_ns: int, workload: Workload) -> None:
    """The seconds of a generator that did all that its workload planned."""
    chance = random.Random(f"{host}/{begin_ns}")
    plan = LoadPlan(per_s=workload.per_s, users=workload.users, begin_ns=begin_ns, workload=workload)
    files.pair(stem, f"load-{host}", "load-plan", host, host, begin_ns, end_ns, plan)
    for number in range(-(-(end_ns - begin_ns) // S)):
        planned = round(workload.profile.expected(number + 1)) - round(workload.profile.expected(number))
        calls = round(planned * 0.6)
        at = begin_ns + number * S
        told = LoadSecond(
            second=number,
            planned=planned,
            kinds=(
                _kind("load-lookup", planned - calls, 20_000, chance),
                _kind("load-call", calls, 900_000, chance),
            ),
            late=_histogram(planned, 60_000, chance),
        )
        process, over = f"load-{host}-seconds", at + S + S // 10
        files.pair(stem, process, "load-second", host, host, at, over, None, told, late=True)


def _kind(f: str, count: int, typical_ns: int, chance: random.Random) -> LoadKind:
    return LoadKind(f=f, ok=count, arrivals=count, latency=_histogram(count, typical_ns, chance))


def _histogram(count: int, typical_ns: int, chance: random.Random) -> str:
    made = Histogram()
    for _ in range(count):
        made.record(int(typical_ns * chance.lognormvariate(0.0, 0.5)))
    return made.encode()
