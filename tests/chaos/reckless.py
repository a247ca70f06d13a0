"""A harness that breaks what it can until somebody kills it: `-m tests.chaos.reckless SEED < charge`.

With `holding` as a second word it stops a server, takes the lock of its host, and stands still.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import threading

import msgspec

from chaos.errors import ChaosError, LeaseLost
from chaos.fault import Fault
from chaos.guard import Charge
from chaos.parameters import make_fault
from chaos.session import Session
from chaos.stage import Stage
from infra.substrates.base import Capability
from infra.substrates.files import locked
from infra.substrates.layout import Layout
from tests.chaos.conftest import small

CHOICE: tuple[tuple[str, dict[str, object]], ...] = (
    ("link-latency", {"host": "a", "to": "etcd-b", "latency_ms": 100}),
    ("link-timeout", {"host": "b", "to": "etcd-a"}),
    ("link-down", {"host": "a", "to": "redis-b"}),
    ("link-cut", {"host": "w", "peer": "a"}),
    ("process-freeze", {"target": "b/redis"}),
    ("process-stop", {"target": "b/redis"}),
    ("process-open-files", {"target": "a/redis"}),
    ("database-errors", {"host": "a"}),
    ("agent-wrong", {"agent": "one"}),
    ("cpu-burn", {"host": "w", "processes": 1}),
    ("memory-fill", {"host": "b", "memory_mb": 32}),
    ("host-freeze", {"host": "w"}),
    ("host-kill", {"host": "w"}),
)


def main() -> None:
    """Begins faults, two at a time, for ever."""
    charge = msgspec.json.decode(sys.stdin.buffer.read(), type=Charge)
    stage = small(Stage(charge.environment, fleet=charge.fleet))
    seeds = random.Random(int(sys.argv[1]))
    with Session.open(charge.environment, fleet=charge.fleet, stage=stage) as session:
        if sys.argv[2:] == ["holding"]:
            _hold(session)
        cuts = Capability.CUT_LINKS in stage.substrate.capabilities()
        faults = [make_fault(name, given) for name, given in CHOICE if cuts or name != "link-cut"]
        threads = [
            threading.Thread(target=_work, args=(session, random.Random(seeds.random()), faults))
            for _ in range(2)
        ]
        for thread in threads:
            thread.start()
        print("at work", flush=True)
        for thread in threads:
            thread.join()


def _hold(session: Session) -> None:
    session.begin(make_fault("process-stop", {"target": "b/redis"}))
    with locked(Layout(session.stage.environment).host("b").lock):
        print("at work", flush=True)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(9)


def _work(session: Session, choice: random.Random, faults: list[Fault]) -> None:
    while True:
        try:
            session.run(choice.choice(faults), choice.uniform(0.0, 0.5))
        except LeaseLost:
            os._exit(9)
        except ChaosError as error:  # two on one target, or one on what the other has broken
            print(error, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
