"""Load on the agents of a host, by Locust: `locust -f loadtests/locustfile.py --workload reference -t 60`.

Runs on a host of the stack (it needs `THREENINES_RUN` and `THREENINES_HOST`), alone, with Locust's web page,
`--headless`, or as one `--master` and `--worker`s on the hosts. The workload says what is due when; the users
take what is due, and its time counts from then, so that a stall of the stack shows in full. Locust's page
shows what happens; what is judged are the histograms and records of `--history` (`docs/load.md`).
"""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field

import gevent
from gevent.event import AsyncResult
from gevent.socket import wait_read
from locust import User, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment
from locust.exception import StopUser
from locust.runners import MasterRunner, WorkerRunner

from loadtests.outcome import Outcome
from loadtests.raw import Raw
from loadtests.recorder import DescriptorSink, Sink, Sinks
from loadtests.session import Ended, Place, Session
from loadtests.team import Master, Worker
from loadtests.workload import WorkloadError, load_workload
from services.agent.errors import CallError

READY_S = 60.0
VOID_STATUS = 2


@dataclass
class Process:
    """What this Locust is: alone, master or worker, and its load while there is one."""

    environment: Environment
    write: Sink
    raw: Raw
    master: Master | None = None
    worker: Worker | None = None
    session: Session | None = None
    prepared: AsyncResult = field(default_factory=AsyncResult)
    outcome: Outcome = field(default_factory=Outcome)

    def begin(self) -> None:
        """A load begins."""
        self.prepared = AsyncResult()
        if self.master is not None:
            self.master.start()
        elif self.worker is not None:
            gevent.spawn(self._prepare)  # its place comes by the greenlet that called this
        else:
            self._prepare()

    def _prepare(self) -> None:
        """Sets `prepared`: to the session, or to None when there is none."""
        options = self.environment.parsed_options
        assert options is not None
        try:
            workload = load_workload(options.workload)
            place = _here()
            if self.worker is not None:
                given = self.worker.place(place.host)
                if given is None:
                    sys.stderr.write("threenines: load: came when it had begun; takes part in the next\n")
                    self.prepared.set(None)
                    return
                place = Place(place.host, place.local, *given)
            self.outcome = Outcome()
            sink = self.worker.send if self.worker is not None else self.outcome.take
            self.session = Session(workload, place, options.seed, self.raw, Sinks((self.write, sink)))
            self.session.prepare()
            self.prepared.set(self.session)
        except WorkloadError as error:
            self.fail(str(error), error.exit_status)
        except CallError as error:
            self.fail(f"load: the agents of this host cannot be asked for ({error}); is the stack up?", 3)
        except (OSError, TimeoutError) as error:
            self.fail(f"load: cannot begin ({error}); see `threenines status`", 3)

    def stop(self) -> None:
        """Nothing new begins."""
        if self.session is not None:
            self.session.stop()

    def end(self) -> None:
        """The users have ended."""
        session, self.session = self.session, None
        if session is not None:
            session.end()
        if self.worker is not None:
            self.worker.ended()
            return
        if self.master is not None:
            self.master.finish()
            self.outcome = self.master.outcome
        self._tell()

    def fail(self, line: str, status: int) -> None:
        """This load cannot be: one line, and an end to it."""
        self.prepared.set(None)
        if self.worker is not None:
            self.worker.trouble(line, status)
        sys.stderr.write(f"threenines: {line}\n")
        self.environment.process_exit_code = status
        runner = self.environment.runner
        if runner is not None and self.worker is None:
            gevent.spawn(runner.stop if self.environment.web_ui is not None else runner.quit)

    def _tell(self) -> None:
        if not self.outcome.hosts:
            return
        for line in self.outcome.summary():
            sys.stderr.write(f"{line}\n")
        if self.outcome.shortfall() is not None and self.environment.process_exit_code is None:
            self.environment.process_exit_code = VOID_STATUS


_process: Process | None = None


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # as below
def _arguments(parser: LocustArgumentParser) -> None:
    parser.add_argument("--workload", default="reference", help="name of a workload, or a file")
    parser.add_argument("--seed", type=int, default=1, help="seed of arrivals, agents and operations")
    parser.add_argument(
        "--history", default="", include_in_web_ui=False, help="file for the history; -: standard output"
    )
    parser.add_argument(
        "--raw",
        choices=[one.value for one in Raw],
        default=Raw.ALL.value,
        include_in_web_ui=False,
        help="which operations the history holds one by one, beside the histograms of each second",
    )
    parser.add_argument(
        "--end-with-input",
        action="store_true",
        include_in_web_ui=False,
        help="end when standard input does: with whoever holds it",
    )


@events.init.add_listener  # type: ignore[untyped-decorator]  # Locust has no types for its events
def _initialise(environment: Environment, **_: object) -> None:
    global _process
    options, runner = environment.parsed_options, environment.runner
    assert options is not None
    try:
        workload = load_workload(options.workload)
        if not isinstance(runner, MasterRunner):
            _here()
        write = DescriptorSink(_descriptor(options.history))
    except WorkloadError as error:
        sys.stderr.write(f"threenines: {error}\n")
        raise SystemExit(error.exit_status) from None
    except OSError as error:
        sys.stderr.write(f"threenines: --history {options.history}: {error.strerror}; name another file\n")
        raise SystemExit(64) from None
    _process = Process(environment, write, Raw(options.raw))
    if isinstance(runner, MasterRunner):
        _process.master = Master(environment, runner, write, _process.fail)
        _process.master.listen()
    elif isinstance(runner, WorkerRunner):
        _process.worker = Worker(runner)
        _process.worker.listen()
    if options.num_users is None:
        options.num_users = workload.users
    if options.spawn_rate is None:
        options.spawn_rate = min(options.num_users, 100)
    if options.run_time is None and workload.shape.lasts_s is not None:
        options.run_time = round(workload.shape.lasts_s)
    environment.stop_timeout = environment.stop_timeout or workload.timeout_s + 1
    if options.end_with_input:
        gevent.spawn(_end_with_input, environment)


@events.test_start.add_listener  # type: ignore[untyped-decorator]  # as above
def _begin(**_: object) -> None:
    assert _process is not None
    _process.begin()


@events.test_stopping.add_listener  # type: ignore[untyped-decorator]  # as above
def _stop(**_: object) -> None:
    if _process is not None:
        _process.stop()


@events.test_stop.add_listener  # type: ignore[untyped-decorator]  # as above
def _end(**_: object) -> None:
    if _process is not None:
        _process.end()


@events.quitting.add_listener  # type: ignore[untyped-decorator]  # as above
def _quit(environment: Environment, **_: object) -> None:
    """Ends the load before Locust settles its exit status, so that a void one shows in it."""
    if environment.runner is not None and not isinstance(environment.runner, WorkerRunner):
        environment.runner.stop()


class AgentUser(User):
    """One caller: takes what is due, or with a closed loop asks, waits and thinks."""

    def on_start(self) -> None:
        """Waits until the load is prepared; the first one that is there begins it."""
        assert _process is not None
        session: Session | None = _process.prepared.get(timeout=READY_S)
        self._session = session
        if session is not None:
            session.begin()
            self._number = session.user()

    def wait_time(self) -> float:
        """Seconds until it takes again."""
        return self._session.pause_s() if self._session is not None else 0.0

    @task
    def operate(self) -> None:
        """One arrival, and what its caller does after it."""
        if self._session is None:
            raise StopUser  # why was told
        arrival = self._session.take()
        if arrival is None:
            return
        for ended in self._session.perform(self._number, arrival):
            self._show(ended)

    def _show(self, ended: Ended) -> None:
        self.environment.events.request.fire(
            request_type=ended.step.f.removeprefix("load-"),
            name=ended.step.category or "uncategorised",
            response_time=ended.latency_ms,
            response_length=0,
            exception=ended.error,
            context={},
        )


def _here() -> Place:
    try:
        return Place.here()
    except KeyError as error:
        raise WorkloadError(
            "load", f"{error.args[0]} is not set", "run it on a host of the stack (docs/load.md says how)"
        ) from None


def _end_with_input(environment: Environment) -> None:
    """A harness that was killed must not leave a load behind."""
    descriptor = sys.stdin.fileno()  # no thread reads it: one that still does cannot be ended
    while True:
        wait_read(descriptor)
        if not os.read(descriptor, 1 << 16):
            break
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
