"""How long and with how much memory a run with a million history records is judged.

    python -m benchmarks.judging [RECORDS]

Writes a made-up history of that size to a temporary folder (load of two hosts, look-ups, watches and calls of
probes), judges it in a process of its own, and prints processor seconds, wall seconds and the most memory.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import BinaryIO

import msgspec

from infra.topology import AgentSpec, Fleet, HostRole, HostSpec
from loadtests.protocol import Answer, LoadPlan, Serving, View
from loadtests.record import Kind, Record, encode_line, raw
from reports import model
from reports.model import Run
from verification.catalogue import load_catalogue
from verification.plan import Load, make_plan

HOSTS = ("mainpc", "pc2")
AGENTS = 77
PER_S = 100.0
NOTHING = msgspec.Raw(b"null")
CHILD = """
import json, resource, sys, time
from pathlib import Path
from verification.judge import judge_run
begun = time.monotonic()
verdicts = judge_run(Path(sys.argv[1]))
used = resource.getrusage(resource.RUSAGE_SELF)
print(json.dumps({"wall_s": time.monotonic() - begun, "cpu_s": used.ru_utime + used.ru_stime,
                  "peak_mb": used.ru_maxrss / 1024, "criteria": len(verdicts.criteria)}))
"""


def main() -> None:
    """Measures once and prints one line of JSON."""
    records = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    with tempfile.TemporaryDirectory(prefix="threenines-judging-") as folder:
        written = write_run(Path(folder), records)
        done = subprocess.run(
            [sys.executable, "-c", CHILD, folder], check=True, stdout=subprocess.PIPE, text=True
        )
        print(json.dumps({"records": written, **json.loads(done.stdout)}))


def write_run(folder: Path, records: int) -> int:
    """A run's folder with about so many records; answers with how many there are."""
    plan = make_plan(
        profile="quick",
        seed=1,
        fleet=_fleet(),
        catalogue=load_catalogue(),
        load=Load(workload="reference", per_s=PER_S, users=20),
        created="2026-01-31T12:00:00Z",
    )
    encoded = plan.encode()
    (folder / "history").mkdir()
    (folder / "plan.json").write_bytes(encoded)
    run = Run(
        id="judging",
        started="2026-01-31T12:00:00Z",
        profile="quick",
        environment="local",
        seed=1,
        plan_sha256=hashlib.sha256(encoded).hexdigest(),
    )
    (folder / "run.json").write_bytes(model.encode(run))
    written = 0
    for host in HOSTS:
        written += _load(folder / "history" / f"load-{host}.jsonl", host, int(records * 0.4))
        written += _probe(folder / "history" / f"probe-{host}.jsonl", host, records // 2 - int(records * 0.4))
    return written


def _fleet() -> Fleet:
    return Fleet(
        name="made-up",
        hosts=(*(HostSpec(name=host) for host in HOSTS), HostSpec(name="witness", role=HostRole.WITNESS)),
        agents=tuple(
            AgentSpec(name=f"agent-{i}", home=HOSTS[i % 2], category="core", handler="module:Class")
            for i in range(AGENTS)
        ),
    )


def _load(path: Path, host: str, records: int) -> int:
    at = 10**12
    with open(path, "wb") as file:
        plan = raw(LoadPlan(per_s=PER_S, users=20))
        _pair(file, f"load-{host}", "load-plan", host, host, at, 1, begun=plan)
        for i in range(records // 2):
            at += int(1e9 / PER_S)
            f = "load-lookup" if i % 2 else "load-call"
            value = raw({"intended_ns": at, "category": "core", "method": "ask"})
            _pair(file, f"load-{host}-{i % 20}", f, f"agent-{i % AGENTS}", host, at, 900_000, value)
    return 2 * (records // 2) + 2


def _probe(path: Path, host: str, records: int) -> int:
    at = 10**12
    answer = raw(Answer(usable=1))
    view = raw(View(serving=(Serving(host=host, incarnation=1),), reads=10, failures=0))
    with open(path, "wb") as file:
        for i in range(records // 2):
            at += 2_000_000
            f, ended = (("lookup", answer), ("watch", view), ("call", NOTHING))[i % 3]
            _pair(file, f"probe-{host}-{i % 3}", f, f"agent-{i % AGENTS}", host, at, 20_000, ended=ended)
    return 2 * (records // 2)


def _pair(
    file: BinaryIO,
    process: str,
    f: str,
    key: str,
    host: str,
    at_ns: int,
    took_ns: int,
    begun: msgspec.Raw = NOTHING,
    ended: msgspec.Raw = NOTHING,
) -> None:
    for kind, value, time_ns in ((Kind.INVOKE, begun, at_ns), (Kind.OK, ended, at_ns + took_ns)):
        record = Record(process=process, type=kind, f=f, key=key, value=value, time_ns=time_ns, host=host)
        file.write(encode_line(record))


if __name__ == "__main__":
    main()
