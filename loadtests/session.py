"""The load of one process from its begin to its end: what its users share."""

from __future__ import annotations

import itertools
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import gevent

from infra.topology import Port
from loadtests.alarm import Alarm
from loadtests.callers import Caller, HttpCaller, SdkCaller
from loadtests.instrument import GeneratorError
from loadtests.mix import Mix, Step
from loadtests.open_loop import Arrival, OpenLoop, measure_generator
from loadtests.protocol import LoadPlan, Trouble
from loadtests.raw import Raw
from loadtests.record import Kind, now_ns
from loadtests.recorder import Recorder, Sink
from loadtests.replay import replayed
from loadtests.schedule import arrivals
from loadtests.workload import Loop, Workload
from services.agent.errors import CallError

FLUSH_S = 0.5


@dataclass(frozen=True)
class Place:
    """Generator `number` of `of` on `host`, whose local address is `local`."""

    host: str
    local: str = "127.0.0.1"
    number: int = 0
    of: int = 1

    @classmethod
    def here(cls) -> Place:
        """From the environment that the stack gives its programs. Raises KeyError outside of a host."""
        return cls(os.environ["THREENINES_HOST"], os.environ.get("THREENINES_LOCAL", "127.0.0.1"))


@dataclass(frozen=True, slots=True)
class Ended:
    """An operation that is over, for whoever shows it."""

    step: Step
    latency_ms: float
    error: CallError | None


class Session:
    """One load. `prepare` asks for the agents and measures the generator, `begin` starts the schedule."""

    def __init__(self, workload: Workload, place: Place, seed: int, raw: Raw, write: Sink) -> None:
        self.workload = workload
        self.stopped = False
        self._place = place
        self._seed = seed
        self._recorder = Recorder(place.host, write, raw, place.number)
        self._numbers = itertools.count()
        self._sdk: Caller | None = None
        self._http: Caller | None = None
        self._mix: Mix | None = None
        self._alarm: Alarm | None = None
        self._loop: OpenLoop | None = None
        self._generator: GeneratorError | None = None
        self._greenlets: list[gevent.Greenlet] = []
        self._begun = False

    def prepare(self) -> None:
        """Raises WorkloadError when the workload does not fit the fleet, CallError without an answer."""
        self._alarm = Alarm()
        self._generator = measure_generator(self._alarm)
        workload, place = self.workload, self._place
        self._sdk = SdkCaller(workload.timeout_s)
        http = HttpCaller(place.local, workload.timeout_s, workload.users, int(Port.HOSTD_LOCAL))
        self._http = http
        if workload.replay is None:
            self._mix = Mix(workload, http.agents(), place.host, self._chance("mix"))
            schedule = self._drawn(self._mix)
        else:
            schedule = replayed(Path(workload.replay), place.host, place.number, place.of)
            first = next(schedule)  # so that a file that does not fit is told before the load begins
            schedule = itertools.chain((first,), schedule)
        if workload.loop is Loop.OPEN:
            self._loop = OpenLoop(schedule, 0, self._recorder, self._alarm)

    def begin(self) -> None:
        """Starts the schedule now, once; for the first user that is there."""
        if self._begun:
            return
        self._begun = True
        begin_ns = now_ns()
        self._recorder.begin(
            LoadPlan(
                per_s=self.workload.per_s,
                users=self.workload.users,
                begin_ns=begin_ns,
                seed=self._seed,
                place=self._place.number,
                places=self._place.of,
                workload=self.workload,
                generator=self._generator,
            )
        )
        self._recorder.flush()
        if self._loop is not None:
            self._loop.begin_ns = begin_ns
            self._greenlets.append(gevent.spawn(self._loop.run))
        self._greenlets.append(gevent.spawn(self._flush))

    def user(self) -> UserNumber:
        """A number for one more user."""
        return UserNumber(f"{self._recorder.process}-{next(self._numbers)}")

    def take(self) -> Arrival | None:
        """What is due next, waiting for it; with a closed loop at once. None when the load is over."""
        if self.stopped:
            return None
        if self._loop is not None:
            return self._loop.take()
        assert self._mix is not None
        return Arrival(now_ns(), self._mix.draw(), free=False)

    def pause_s(self) -> float:
        """What a user waits before it takes again."""
        if self.stopped:
            return 0.05
        return 0.0 if self._loop is not None or self._mix is None else self._mix.think_s()

    def perform(self, user: UserNumber, arrival: Arrival) -> Iterator[Ended]:
        """Does what is due, and what its caller does after it."""
        yield self._operate(user, arrival.step, arrival.due_ns, follows=False)
        if self._mix is None or not self._mix.repeats(arrival.step):
            return
        for think_s, step in self._mix.following(arrival.step):
            due_ns = now_ns() + round(think_s * 1e9)
            gevent.sleep(think_s)
            if self.stopped:
                return
            yield self._operate(user, step, due_ns, follows=True)

    def stop(self) -> None:
        """Nothing new begins; users that wait are let go."""
        self.stopped = True
        if self._loop is not None:
            self._loop.stop()

    def end(self) -> None:
        """The users have ended: writes what is left and gives everything back."""
        self.stop()
        gevent.killall(self._greenlets)
        self._recorder.end()
        for part in (self._sdk, self._http, self._alarm):
            if part is not None:
                part.close()
        self._sdk = self._http = self._alarm = None

    def _operate(self, user: UserNumber, step: Step, due_ns: int, *, follows: bool) -> Ended:
        caller = self._http if step.f.startswith("load-http") else self._sdk
        assert caller is not None
        kind, trouble, error = Kind.OK, None, None
        begun_ns = now_ns()
        try:
            caller.perform(step)
        except CallError as failure:
            error = failure
            kind = Kind.FAIL if failure.definite else Kind.INFO
            trouble = Trouble(error=failure.message, code=failure.code)
        ended_ns = now_ns()
        self._recorder.ended(user.process, step, due_ns, begun_ns, ended_ns, kind, trouble, follows=follows)
        if kind is Kind.INFO:
            user.retire()
        return Ended(step, (ended_ns - due_ns) / 1e6, error)

    def _drawn(self, mix: Mix) -> Iterator[tuple[float, Step]]:
        due = arrivals(
            self.workload.profile,
            self.workload.arrivals,
            self._chance("arrivals"),
            place=self._place.number,
            places=self._place.of,
        )
        return ((due_s, mix.draw()) for due_s in due)

    def _chance(self, what: str) -> random.Random:
        return random.Random(f"{self._seed}/{self._place.host}/{self._place.number}/{what}")

    def _flush(self) -> None:
        while True:
            gevent.sleep(FLUSH_S)
            self._recorder.flush()


class UserNumber:
    """A user's name in the history; it takes another after an outcome that nobody knows."""

    def __init__(self, stem: str) -> None:
        self._stem = stem
        self._life = 0

    @property
    def process(self) -> str:
        """The name."""
        return f"{self._stem}.{self._life}"

    def retire(self) -> None:
        """Goes on under another name."""
        self._life += 1
