"""What a scenario looks at: each look is data, and says from measurements whether what it claims is so now.

`within_s` is the time that the system has for it: before a fault, how long the harness waits for it; during,
from the beginning of the last fault until it must hold, and hold until the first fault ends; after, from
the last undo until it must hold. `LoadHolds` is judged from the load's own history, not by looking.
"""

from __future__ import annotations

import math
import urllib.parse
from typing import Annotated, ClassVar

import msgspec
from msgspec import Meta

from chaos.errors import BadFault
from chaos.fault import Measure, Proof
from chaos.stage import Stage
from infra.hostd_api import HostdApi, HostdError
from infra.substrates.base import SubstrateError
from infra.topology import HostRole, Port

ASK_TIMEOUT_S = 2.0
PROMETHEUS_TRIES = 3
"""It gives way to everybody else on a busy host: one question without an answer says nothing yet."""
Share = Annotated[float, Meta(ge=0, le=1)]
Seconds = Annotated[float, Meta(ge=0, le=600)]


class Look(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="look"):
    """Base of all looks."""

    live: ClassVar[bool] = True
    """Whether it is looked at while the scenario runs."""

    within_s: Seconds = 10.0

    def check(self, stage: Stage) -> None:
        """Raises BadFault for a host, agent or process that the fleet does not have."""

    def now(self, stage: Stage) -> Proof:
        """Whether it is so now. Nobody who answers: it is not so."""
        raise NotImplementedError

    def __str__(self) -> str:
        raise NotImplementedError


class Served(Look, frozen=True, kw_only=True, tag="served"):
    """At least this share of the fleet's agents is served by somebody."""

    share: Share = 1.0

    def now(self, stage: Stage) -> Proof:
        up, least = stage.agents_up(), math.ceil(self.share * len(stage.fleet.agents))
        return Proof(up >= least, (Measure("agents served", float(up)), Measure("at least", float(least))))

    def __str__(self) -> str:
        return "every agent is served" if self.share == 1 else f"{self.share:.0%} of the agents are served"


class ServedBy(Look, frozen=True, kw_only=True, tag="served-by"):
    """At least this share of the fleet's agents is served by one host."""

    host: str
    share: Share = 1.0

    def check(self, stage: Stage) -> None:
        stage.host(self.host, worker=True)

    def now(self, stage: Stage) -> Proof:
        up, least = stage.agents_up(self.host), math.ceil(self.share * len(stage.fleet.agents))
        measured = Measure(f"agents served by {self.host}", float(up))
        return Proof(up >= least, (measured, Measure("at least", float(least))))

    def __str__(self) -> str:
        share = "every agent is" if self.share == 1 else f"{self.share:.0%} of the agents are"
        return f"{share} served by {self.host}"


class Alive(Look, frozen=True, kw_only=True, tag="alive"):
    """A process gives a sign of life; `target` is agent/NAME or HOST/UNIT."""

    target: str

    def check(self, stage: Stage) -> None:
        stage.target(self.target)

    def now(self, stage: Stage) -> Proof:
        alive, outcome, took_ms = stage.sign_of_life(stage.target(self.target))
        return Proof(
            alive, (Measure(f"sign of life of {self.target}", outcome), Measure("took", took_ms, "ms"))
        )

    def __str__(self) -> str:
        return f"{self.target} gives signs of life"


class Answers(Look, frozen=True, kw_only=True, tag="answers"):
    """An agent answers a call that goes through the daemon of a host, wherever it is served."""

    agent: str
    host: str
    method: str = "recall"
    body: dict[str, str | int | float | bool] = msgspec.field(default_factory=lambda: {"key": "chaos"})

    def check(self, stage: Stage) -> None:
        stage.agent(self.agent)
        stage.host(self.host, worker=True)

    def now(self, stage: Stage) -> Proof:
        path, body = f"/v1/call/{self.agent}/{self.method}", msgspec.json.encode(self.body)
        try:
            status, _ = _ask(stage, self.host, int(Port.HOSTD), "POST", path, body)
        except (HostdError, SubstrateError) as error:
            return Proof(False, (Measure(f"call of {self.agent} by {self.host}", error.what[:120]),))
        return Proof(status == 200, (Measure(f"call of {self.agent} by {self.host}, status", float(status)),))

    def __str__(self) -> str:
        return f"{self.agent} answers calls from {self.host}"


class PromQL(Look, frozen=True, kw_only=True, tag="promql"):
    """Every value that a host's Prometheus gives for a query lies within the limits; there is one."""

    host: str
    query: Annotated[str, Meta(min_length=1)]
    at_least: float | None = None
    at_most: float | None = None

    def check(self, stage: Stage) -> None:
        stage.host(self.host, worker=True)
        if self.at_least is None and self.at_most is None:
            raise BadFault(f"promql {self.query}", "has no limit", "give at_least or at_most")

    def now(self, stage: Stage) -> Proof:
        path = (
            f"/api/v1/query?{urllib.parse.urlencode({'query': self.query, 'timeout': f'{ASK_TIMEOUT_S:g}s'})}"
        )
        name = f"Prometheus on {self.host}"
        for left in reversed(range(PROMETHEUS_TRIES)):
            try:
                status, body = _ask(stage, self.host, int(Port.PROMETHEUS), "GET", path)
                answer = msgspec.json.decode(body, type=_Answer)
                break
            except (HostdError, SubstrateError, msgspec.MsgspecError, UnicodeDecodeError) as error:
                if not left:
                    return Proof(False, (Measure(name, f"no answer ({type(error).__name__})"),))
        if status != 200 or answer.data is None:
            return Proof(False, (Measure(name, answer.error[:120] or f"status {status}"),))
        values = tuple(float(one.value[1]) for one in answer.data.result)
        if not values:
            return Proof(False, (Measure(name, "no value"),))
        least, most = min(values), max(values)
        holds = (self.at_least is None or least >= self.at_least) and (
            self.at_most is None or most <= self.at_most
        )
        finite = all(math.isfinite(value) for value in values)
        return Proof(holds and finite, (Measure("least", least), Measure("most", most)))

    def __str__(self) -> str:
        limits = [] if self.at_least is None else [f"≥ {self.at_least:g}"]
        limits += [] if self.at_most is None else [f"≤ {self.at_most:g}"]
        return f"{self.query} is {' and '.join(limits)} on {self.host}"


class LoadHolds(Look, frozen=True, kw_only=True, tag="load"):
    """The load's operations: which share may fail, how late the answers come, over the whole window.

    The window leaves out the first `within_s` of the phase (not before a fault). `kinds` empty: all.
    """

    live: ClassVar[bool] = False

    failed_share: Share | None = None
    p99_ms: Annotated[float, Meta(gt=0)] | None = None
    kinds: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()

    def check(self, stage: Stage) -> None:
        for host in self.hosts:
            stage.host(host, worker=True)
        if self.failed_share is None and self.p99_ms is None:
            raise BadFault("load", "has no limit", "give failed_share or p99_ms")

    def now(self, stage: Stage) -> Proof:
        raise NotImplementedError("it is judged from the history")

    def __str__(self) -> str:
        what = " and ".join(kind.removeprefix("load-") for kind in self.kinds) or "operations"
        limits = []
        if self.failed_share is not None:
            limits.append("none fails" if self.failed_share == 0 else f"at most {self.failed_share:.2%} fail")
        if self.p99_ms is not None:
            limits.append(f"p99 at most {self.p99_ms:g} ms")
        return f"of the load's {what}, {' and '.join(limits)}"


AnyLook = Served | ServedBy | Alive | Answers | PromQL | LoadHolds


class _Sample(msgspec.Struct, frozen=True):
    value: tuple[float, str]


class _Result(msgspec.Struct, frozen=True):
    result: tuple[_Sample, ...] = ()


class _Answer(msgspec.Struct, frozen=True):
    data: _Result | None = None
    error: str = ""


def workers(stage: Stage) -> tuple[str, ...]:
    """The hosts that serve agents."""
    return tuple(host.name for host in stage.fleet.hosts if host.role is HostRole.WORKER)


def _ask(
    stage: Stage, host: str, port: int, method: str, path: str, body: bytes | None = None
) -> tuple[int, bytes]:
    address, credentials = stage.substrate.address(host), stage.substrate.credentials()
    with HostdApi(host, address, credentials, port=port, timeout_s=ASK_TIMEOUT_S) as api:
        return api.ask(method, path, body)
