"""What the harness adds to a call: `python -m benchmarks.open_loop_overhead ROUNDS SECONDS PER_S FOLDER`.

One process, two ways in turns: the bare client called by a loop that keeps the same beat, and the whole of
the load generator (Locust's users, histograms, a record of every operation). Prints one JSON line of
nanoseconds: how long the calls took, and how long after they were due they had ended.
"""

from __future__ import annotations

import sys

import locust  # first: it patches what the rest uses
from locust.env import Environment

# isort: split
from argparse import Namespace
from pathlib import Path

import gevent
import msgspec

from benchmarks.open_loop_agent import NAME, TASKS
from loadtests import locustfile
from loadtests.alarm import Alarm
from loadtests.protocol import LoadCall
from loadtests.record import Kind, Record, now_ns
from services.agent.blocking import BlockingClient

USERS = 10


class Found(msgspec.Struct):
    """Nanoseconds, of the bare client and through the harness."""

    bare_call: list[int] = []
    bare_due: list[int] = []
    harness_call: list[int] = []
    harness_due: list[int] = []


def main() -> None:
    """The rounds, and what they found."""
    rounds, seconds, per_s, folder = (
        int(sys.argv[1]),
        float(sys.argv[2]),
        float(sys.argv[3]),
        Path(sys.argv[4]),
    )
    workload = folder / "overhead.yaml"
    workload.write_text(f"name: overhead\nper_s: {per_s}\nusers: {USERS}\ntimeout_s: 5\n{TASKS}\n")
    options = Namespace(
        workload=str(workload),
        history=str(folder / "overhead.jsonl"),
        raw="all",
        seed=1,
        end_with_input=False,
        num_users=USERS,
        spawn_rate=USERS,
        run_time=None,
    )
    environment = Environment(
        user_classes=[locustfile.AgentUser], events=locust.events, parsed_options=options
    )
    runner = environment.create_local_runner()
    environment.events.init.fire(environment=environment, runner=runner, web_ui=None)
    found = Found()
    for _ in range(rounds):
        bare(found, round(seconds * per_s), per_s)
        runner.start(USERS, USERS)
        gevent.sleep(seconds + 0.5)  # it measures itself first
        runner.stop()
    through_the_harness(found, folder / "overhead.jsonl")
    print(msgspec.json.encode(found).decode())


def bare(found: Found, number: int, per_s: float) -> None:
    """The client alone, on the beat."""
    alarm = Alarm()
    with BlockingClient() as client:
        client.call(NAME, NAME, {"text": "x" * 100})
        begin_ns = now_ns()
        for n in range(number):
            due_ns = begin_ns + round(n * 1e9 / per_s)
            alarm.wait_until(due_ns)
            begun_ns = now_ns()
            client.call(NAME, NAME, {"text": "x" * 100}, timeout_s=5)
            ended_ns = now_ns()
            found.bare_call.append(ended_ns - begun_ns)
            found.bare_due.append(ended_ns - due_ns)
    alarm.close()


def through_the_harness(found: Found, history: Path) -> None:
    """What its records say."""
    decoder = msgspec.json.Decoder(Record)
    begun: dict[str, tuple[int, int]] = {}
    for line in history.read_bytes().splitlines():
        record = decoder.decode(line)
        if record.f != "load-call":
            continue
        if record.type is Kind.INVOKE:
            call = msgspec.json.decode(record.value, type=LoadCall)
            begun[record.process] = (call.intended_ns, record.time_ns)
        else:
            due_ns, begun_ns = begun.pop(record.process)
            found.harness_call.append(record.time_ns - begun_ns)
            found.harness_due.append(record.time_ns - due_ns)


if __name__ == "__main__":
    main()
