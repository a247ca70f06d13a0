"""Load on the agents of a host, by Locust: `locust -f loadtests/locustfile.py --headless -u 20 -r 20 -t 60`.

Runs on a host of the stack (it needs `THREENINES_RUN` and `THREENINES_HOST`). Each user has its own fixed
beat: an operation is due at its instant whatever the last one did, and its time counts from that instant, so
that a stall of the stack shows in full. Statistics stand per kind of operation and category of agent;
`--history` writes every operation for the judge (`-`: to standard output).
"""

from __future__ import annotations

import http.client
import itertools
import os
import random
import sys
from collections.abc import Mapping
from dataclasses import dataclass

import gevent
import msgspec
from locust import User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from infra.topology import Port
from loadtests.load_history import LoadHistory
from loadtests.protocol import LoadCall, LoadPlan, Trouble
from loadtests.record import Kind, now_ns
from loadtests.workload import Operation, Task, Workload, load_workload
from services.agent.blocking import BlockingClient
from services.agent.errors import CallError

FLUSH_S = 0.5
AGENTS_TIMEOUT_S = 5.0


class Known(msgspec.Struct, frozen=True):
    """What the load needs of an instance."""

    name: str
    category: str = ""
    methods: tuple[str, ...] = ()


class Listing(msgspec.Struct, frozen=True):
    """The answer of `GET /v1/agents`."""

    agents: tuple[Known, ...]


@dataclass
class Session:
    """What all users of this process share."""

    workload: Workload
    history: LoadHistory
    client: BlockingClient
    agents: tuple[Known, ...]
    seed: int
    numbers: itertools.count[int]

    def candidates(self, chosen: Task) -> list[Known]:
        """Agents that this kind of operation may go to."""
        found = [
            agent for agent in self.agents if not chosen.categories or agent.category in chosen.categories
        ]
        if chosen.operation is Operation.LOOK_UP:
            return found
        return [agent for agent in found if any(method in agent.methods for method in chosen.bodies)]


_session: Session | None = None


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # as below
def _arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--workload", default="reference", help="name of a workload, or a file")
    parser.add_argument("--history", default="", help="file for the raw history; -: standard output")
    parser.add_argument(
        "--end-with-input", action="store_true", help="end when standard input does: with whoever holds it"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of the choice of agents and operations")


@events.test_start.add_listener  # type: ignore[untyped-decorator]  # Locust has no types for its events
def _begin(environment: Environment, **_: object) -> None:
    global _session
    options = environment.parsed_options
    workload = load_workload(options.workload if options else "reference")
    host = os.environ["THREENINES_HOST"]
    history = LoadHistory(_descriptor(options.history if options else ""), host)
    _session = Session(
        workload=workload,
        history=history,
        client=BlockingClient(),
        agents=_agents(),
        seed=options.seed if options else 1,
        numbers=itertools.count(),
    )
    history.mark(Kind.INVOKE, "load-plan", LoadPlan(per_s=workload.per_s, users=workload.users))
    gevent.spawn(_write, history)
    if options is not None and options.end_with_input:
        gevent.spawn(_end_with_input, environment)


@events.quit.add_listener  # type: ignore[untyped-decorator]  # as above
def _end(**_: object) -> None:
    """The users have ended by now, so that no call is cut off by the closing of their client."""
    if _session is not None:
        _session.history.mark(Kind.OK, "load-plan", None)
        _session.history.flush()
        _session.client.close()


class AgentUser(User):
    """One caller with a fixed beat."""

    def on_start(self) -> None:
        """Takes a number, which decides the user's place in the beat and its choices."""
        assert _session is not None
        self._number = next(_session.numbers)
        self._chance = random.Random(f"{_session.seed}/{_session.history.host}/{self._number}")
        self._beat_ns = round(1e9 * _session.workload.users / _session.workload.per_s)
        self._due_ns = now_ns() + self._beat_ns * self._number // _session.workload.users
        self._life = 0
        self._turn = 0
        gevent.sleep(self._until_due_s())

    def wait_time(self) -> float:
        """Seconds until the next operation is due; none when it is overdue."""
        self._due_ns += self._beat_ns
        return self._until_due_s()

    def _until_due_s(self) -> float:
        return max(0, self._due_ns - now_ns()) / 1e9

    @task
    def operate(self) -> None:
        """One operation of the workload's mix."""
        assert _session is not None
        tasks = _session.workload.tasks
        chosen = self._chance.choices(tasks, [one.share for one in tasks])[0]
        candidates = _session.candidates(chosen)
        if not candidates:
            return
        agent = self._chance.choice(candidates)
        self._turn += 1
        if chosen.operation is Operation.LOOK_UP:
            self._run("load-lookup", agent, "", lambda: _session.client.resolve(agent.name))
            return
        method, body = self._request(chosen, agent)
        timeout_s = _session.workload.timeout_s
        self._run(
            "load-call",
            agent,
            method,
            lambda: _session.client.call(agent.name, method, body, timeout_s=timeout_s),
        )

    def _request(self, chosen: Task, agent: Known) -> tuple[str, Mapping[str, object]]:
        method = next(name for name in chosen.bodies if name in agent.methods)
        filled = {
            key: value.format(n=self._turn, agent=agent.name) if isinstance(value, str) else value
            for key, value in chosen.bodies[method].items()
        }
        return method, filled

    def _run(self, f: str, agent: Known, method: str, operation: object) -> None:
        assert _session is not None
        assert callable(operation)
        begun_ns = now_ns()
        intended_ns = min(self._due_ns, begun_ns)
        kind, trouble, error = Kind.OK, None, None
        try:
            operation()
        except CallError as failure:
            error = failure
            kind = Kind.FAIL if failure.definite else Kind.INFO
            trouble = Trouble(error=failure.message, code=failure.code)
        ended_ns = now_ns()
        begun = LoadCall(intended_ns=intended_ns, category=agent.category, method=method)
        process = f"load-{_session.history.host}-{self._number}.{self._life}"
        _session.history.pair(process, f, agent.name, begun, begun_ns, kind, trouble, ended_ns)
        if kind is Kind.INFO:
            self._life += 1
        self.environment.events.request.fire(
            request_type=f.removeprefix("load-"),
            name=agent.category or "uncategorised",
            response_time=(ended_ns - intended_ns) / 1e6,
            response_length=0,
            exception=error,
            context={},
        )


def _write(history: LoadHistory) -> None:
    while True:
        gevent.sleep(FLUSH_S)
        history.flush()


def _end_with_input(environment: Environment) -> None:
    """A harness that was killed must not leave a load behind."""
    gevent.get_hub().threadpool.spawn(sys.stdin.buffer.read).get()
    if environment.runner is not None:
        environment.runner.quit()


def _descriptor(name: str) -> int:
    if name == "":
        return os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    if name == "-":
        kept = os.dup(1)
        os.dup2(2, 1)  # whatever else is printed must not stand in the history
        return kept
    return os.open(name, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _agents() -> tuple[Known, ...]:
    """The agents that the host's daemon knows of, each once."""
    local = os.environ.get("THREENINES_LOCAL", "127.0.0.1")
    connection = http.client.HTTPConnection(local, int(Port.HOSTD_LOCAL), timeout=AGENTS_TIMEOUT_S)
    try:
        connection.request("GET", "/v1/agents")
        listing = msgspec.json.decode(connection.getresponse().read(), type=Listing)
    finally:
        connection.close()
    by_name = {agent.name: agent for agent in listing.agents}
    return tuple(by_name[name] for name in sorted(by_name))
