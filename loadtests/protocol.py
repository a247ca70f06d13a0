"""What the harness says to a probe and what a probe answers: JSON lines on its standard input and output.

Commands carry an `id`; the probe answers each with one `Done` of that `id`, when the work is over (or, for
work that goes on, when it has begun). Every other line of its output is a record of history.
"""

from __future__ import annotations

import msgspec

from loadtests.instrument import GeneratorError
from loadtests.workload import Workload

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


class Fleet(Command, frozen=True, kw_only=True, tag="fleet"):
    """Poll the answers for all of these names every `interval_ms` and record each change; () ends it."""

    names: tuple[str, ...]
    interval_ms: float = 5.0


class Registers(Command, frozen=True, kw_only=True, tag="registers"):
    """Write and read registers of these agents until told otherwise; () ends it.

    Each register `<writer>/<round>` of an agent is written by the probe of host `writer` alone, with
    0, 1, 2, …, and read by the probes of all `hosts`. `round` was never used before, or what is read may be
    another run's. One operation per agent every `interval_ms`. `writes` false: it is only read, because the
    probe that wrote it has ended.
    """

    agents: tuple[str, ...]
    hosts: tuple[str, ...] = ()
    round: str = ""
    interval_ms: float = 50.0
    timeout_ms: int = 400
    writes: bool = True


class Misbehave(Command, frozen=True, kw_only=True, tag="misbehave"):
    """Make the agent that serves here fail every call (`errors`) or answer none in time (`slow`)."""

    agent: str
    trial: str
    mode: str
    seconds: float = 30.0


class Exchange(Command, frozen=True, kw_only=True, tag="exchange"):
    """Ask the other host's gateway for a sign of life `n` times, at least `interval_ms` apart."""

    peer: str
    address: str
    port: int
    n: int
    interval_ms: float = 20.0
    timeout_ms: int = 1000


class ReadClock(Command, frozen=True, kw_only=True, tag="read-clock"):
    """Answer with this host's clock, at once."""


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
    | Fleet
    | Registers
    | Misbehave
    | Exchange
    | ReadClock
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
    clock_ns: int | None = None
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
    """Of a fault's invocation. `signal` is what was sent: a signal's name, or `call` for a method."""

    trial: str
    fault: str
    signal: str
    home: str
    incarnation: int
    pid: int


class Picture(msgspec.Struct, frozen=True, kw_only=True):
    """Of a look at the whole fleet: how many agents each host serves, and who is served by nobody.

    `missing` are the first few of the `unserved`. `reads` and `longest_gap_ms` are since the last record.
    """

    serving: dict[str, int]
    unserved: int = 0
    missing: tuple[str, ...] = ()
    stale: bool = False
    reads: int = 0
    longest_gap_ms: float = 0.0


class RegisterWish(msgspec.Struct, frozen=True, kw_only=True):
    """Of a register operation's invocation: the value to be written, None for a read."""

    value: int | None = None


class Acted(msgspec.Struct, frozen=True, kw_only=True):
    """Of a register operation that was answered: the value, and who acted at which epoch.

    `value` None: the register was never written. `epoch` 0: no other host ever serves this agent.
    """

    value: int | None
    host: str
    epoch: int
    incarnation: int


class HostFault(msgspec.Struct, frozen=True, kw_only=True):
    """Of a fault on a whole host (`host-fault`), its healing (`host-heal`) and its proof (`host-proof`).

    `served` is the number of agents that the victim served just before, `led` the host whose member of etcd
    led then; empty: not asked, or no member said that it leads.
    """

    trial: str
    fault: str
    victim: str
    served: int = 0
    led: str = ""
    detail: str = ""


class SwitchOver(msgspec.Struct, frozen=True, kw_only=True):
    """Of a planned switch-over: the domain and the host that takes it."""

    home: str
    to: str
    detail: str = ""


class Targets(msgspec.Struct, frozen=True, kw_only=True):
    """Of one question to Prometheus: agents whose target is up, and the others with the scrape's error."""

    up: tuple[str, ...]
    down: dict[str, str] = {}


class LoadCall(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Of an operation of the load generator: when it should have begun, the kind of agent asked.

    `task` and `turn` say which of the workload's tasks it is and how often that user had asked before: the
    body follows from them. `follows`: the next step of a caller that thinks in between, no arrival.
    """

    intended_ns: int
    category: str = ""
    method: str = ""
    task: int = 0
    turn: int = 0
    size_bytes: int = 0
    follows: bool = False


class LoadPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Of the load generator's own first record: what it means to do.

    `place` of `places` generators on that host; each takes its part of the arrivals. `begin_ns` is the
    instant from which the schedule counts.
    """

    per_s: float
    users: int
    begin_ns: int = 0
    seed: int = 0
    place: int = 0
    places: int = 1
    workload: Workload | None = None
    generator: GeneratorError | None = None


class LoadKind(msgspec.Struct, frozen=True, kw_only=True):
    """One kind of operation in one second: how many ended how, and their latency from the intended start.

    `f` as in the raw history (`load-call`, ...). `latency` is an HdrHistogram of nanoseconds (1 ns to 1 h,
    three digits, V2 encoding with compression, base64); `arrivals` of them were due by the schedule.
    """

    f: str
    ok: int = 0
    fail: int = 0
    info: int = 0
    arrivals: int = 0
    latency: str = ""


class LoadSecond(msgspec.Struct, frozen=True, kw_only=True):
    """What was due in one second of the schedule. Several records of one second add up.

    `planned` arrivals were due; `late` is the generator's own delay in beginning them while it had a free
    user, an HdrHistogram as above.
    """

    second: int
    planned: int = 0
    kinds: tuple[LoadKind, ...] = ()
    late: str = ""
