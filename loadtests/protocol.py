"""What the harness says to a probe and what a probe answers: JSON lines on its standard input and output.

Commands carry an `id`; the probe answers each with one `Done` of that `id`, when the work is over (or, for
work that goes on, when it has begun). Every other line of its output is a record of history.
"""

from __future__ import annotations

import msgspec

CONTROL_PREFIX = b'{"probe":'
"""How an answer begins; a record of history begins otherwise."""


class Command(msgspec.Struct, frozen=True, kw_only=True, tag_field="do"):
    """Base of all commands; the link that sends one gives it its `id`."""

    id: int = 0


class Calibrate(Command, frozen=True, kw_only=True, tag="calibrate"):
    """Measure the clock's resolution and how late this process is woken, for `seconds`."""

    seconds: float = 1.0


class Census(Command, frozen=True, kw_only=True, tag="census"):
    """Resolve each name once."""

    names: tuple[str, ...]


class LookUps(Command, frozen=True, kw_only=True, tag="look-ups"):
    """Resolve the names in this order, evenly at `per_s` a second, in a process that is warm."""

    names: tuple[str, ...]
    per_s: float


class Cold(Command, frozen=True, kw_only=True, tag="cold"):
    """Resolve each name in a fresh interpreter, one after the other, at least `pause_s` apart."""

    names: tuple[str, ...]
    pause_s: float = 0.0
    timeout_s: float = 5.0


class Watch(Command, frozen=True, kw_only=True, tag="watch"):
    """Poll the answers for this agent every `interval_ms` and record each change."""

    agent: str
    interval_ms: float = 2.0


class Call(Command, frozen=True, kw_only=True, tag="call"):
    """Call this agent every `interval_ms` from now on. `bodies`: method -> body, best method first."""

    agent: str
    bodies: dict[str, msgspec.Raw]
    interval_ms: float = 10.0
    timeout_ms: int = 250


class Release(Command, frozen=True, kw_only=True, tag="release"):
    """Stop watching, calling and proving this agent."""

    agent: str


class Arm(Command, frozen=True, kw_only=True, tag="arm"):
    """Hold on to the agent's process on this host, so that its freezing and its death can be proved."""

    agent: str
    trial: str


class Events(Command, frozen=True, kw_only=True, tag="events"):
    """Follow the events of this host's daemon from now on."""

    interval_ms: float = 25.0


class Await(Command, frozen=True, kw_only=True, tag="await"):
    """Poll until this name has a usable answer. Done when it polls; the outcome is in the history."""

    name: str
    timeout_s: float = 5.0
    interval_ms: float = 1.0


class Register(Command, frozen=True, kw_only=True, tag="register"):
    """Register a temporary program of this probe with this host's daemon."""

    name: str


class Deregister(Command, frozen=True, kw_only=True, tag="deregister"):
    """Take that registration back."""

    name: str


class Stop(Command, frozen=True, kw_only=True, tag="stop"):
    """End everything and leave."""


AnyCommand = (
    Calibrate
    | Census
    | LookUps
    | Cold
    | Watch
    | Call
    | Release
    | Arm
    | Events
    | Await
    | Register
    | Deregister
    | Stop
)


class Calibration(msgspec.Struct, frozen=True, kw_only=True):
    """Errors of the instrument itself."""

    clock_step_ns: int
    wake_late_p50_ms: float
    wake_late_p99_ms: float
    wake_late_max_ms: float
    samples: int


class Armed(msgspec.Struct, frozen=True, kw_only=True):
    """The process that is held."""

    pid: int
    incarnation: int


class Done(msgspec.Struct, frozen=True, kw_only=True, tag_field="probe", tag="done"):
    """The answer to the command `id`; `error` is one line when it failed."""

    id: int
    error: str | None = None
    calibration: Calibration | None = None
    armed: Armed | None = None


class Hello(msgspec.Struct, frozen=True, kw_only=True, tag_field="probe", tag="hello"):
    """The first line: the probe is ready."""

    host: str
    pid: int


AnyAnswer = Done | Hello


# What stands in the records' `value`.


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """Of a look-up: how many instances may be used, and how old the answer is."""

    usable: int
    stale: bool = False
    age_ms: float = 0.0


class Trouble(msgspec.Struct, frozen=True, kw_only=True):
    """Of an operation that failed or whose outcome is unknown."""

    error: str
    code: str | None = None


class Serving(msgspec.Struct, frozen=True, array_like=True):
    """One instance that stands in the answers as usable."""

    host: str
    incarnation: int


class View(msgspec.Struct, frozen=True, kw_only=True):
    """Of a watch: who stands in the answers now, and what was read since the last record."""

    serving: tuple[Serving, ...]
    stale: bool = False
    reads: int = 0
    failures: int = 0
    longest_gap_ms: float = 0.0


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """Of a call's invocation: the method, and when it should have begun."""

    method: str
    intended_ns: int


class Proof(msgspec.Struct, frozen=True, kw_only=True):
    """Of the held process: `fact` is `frozen`, `exited`, or `none` when it was let go before either."""

    trial: str
    pid: int
    incarnation: int
    fact: str = "none"


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """One event of a host's daemon, as it told it."""

    seq: int
    time_ns: int
    event: str
    agent: str = ""
    incarnation: int = 0
    detail: str = ""


class FaultPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Of a fault's invocation."""

    trial: str
    fault: str
    signal: str
    home: str
    incarnation: int
    pid: int


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    """Of one question to Prometheus: agents whose target is up, and the others with the scrape's error."""

    up: tuple[str, ...]
    down: dict[str, str] = {}


class LoadCall(msgspec.Struct, frozen=True, kw_only=True):
    """Of an operation of the load generator: when it should have begun, the kind of agent asked."""

    intended_ns: int
    category: str = ""
    method: str = ""


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Of the load generator's own first record: what it means to do."""

    per_s: float
    users: int
