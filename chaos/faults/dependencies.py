"""Faults of what agents depend on: the database between hosts (Redis), other agents, models.

Agents misbehave by themselves when told (the reference agents' method `misbehave`), each time for a limited
while: nothing has to be undone for that to end.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from chaos import messages as m
from chaos.errors import BadFault, NotReached, Refused
from chaos.fault import Fault, Measure, Proof, Radius, Trial, register
from chaos.faults.links import LinkDown, LinkLatency
from chaos.stage import Stage, Target
from chaos.undo import AnyUndo, Behave, RedisSetting, Serve, ask_redis
from infra.topology import Port

_LONGEST_S = 120.0
_REFUSES_WRITES = "min-replicas-to-write"


@register
class DatabaseDown(LinkDown, frozen=True, kw_only=True):
    name = "database-down"
    group = "dependency"
    summary = "Refuse a host's connections to the database: link-down of a way redis-HOST."

    def check(self, stage: Stage) -> None:
        _must_be_database(self.name, self.to)
        super().check(stage)


@register
class DatabaseSlow(LinkLatency, frozen=True, kw_only=True):
    name = "database-slow"
    group = "dependency"
    summary = "Delay a host's database: link-latency of a way redis-HOST."

    latency_ms: Annotated[int, Meta(description="delay of each piece, each way", ge=1, le=60000)] = 500

    def check(self, stage: Stage) -> None:
        _must_be_database(self.name, self.to)
        super().check(stage)


@register
class DatabaseErrors(Fault, frozen=True, kw_only=True):
    name = "database-errors"
    group = "dependency"
    summary = "Let a host's Redis answer every write with an error."

    host: Annotated[str, Meta(description="whose Redis")]

    def check(self, stage: Stage) -> None:
        stage.host(self.host, worker=True)

    def targets(self, stage: Stage) -> frozenset[str]:
        return frozenset({f"database/{self.host}"})

    def radius(self, stage: Stage) -> Radius:
        return Radius(hosts=frozenset({self.host}))

    def undo(self, stage: Stage, trial: Trial) -> tuple[AnyUndo, ...]:
        found = ask_redis(stage, self.host, "CONFIG", "GET", _REFUSES_WRITES).split()
        if len(found) != 2:
            raise Refused(f"Redis on {self.host}", f"it has no {_REFUSES_WRITES}", "use Redis 5 or newer")
        return (RedisSetting(host=self.host, key=_REFUSES_WRITES, value=found[1]),)

    def inject(self, stage: Stage, trial: Trial) -> None:
        ask_redis(stage, self.host, "CONFIG", "SET", _REFUSES_WRITES, "64")

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        """A write is refused. The primary says NOREPLICAS, a replica READONLY (which it always does)."""
        request = m.Redis(
            address=stage.substrate.address(self.host),
            port=int(Port.REDIS),
            name=self.host,
            command=("SET", "threenines:chaos:probe", "1", "PX", "1000"),
        )
        text = stage.ask(self.host, request, m.RedisView).text
        return Proof(text.startswith("-NOREPLICAS"), (Measure("answer to a write", text[:60]),))


class AgentFault(Fault, frozen=True, kw_only=True):
    """Base of the faults that an agent commits itself."""

    group = "dependency"
    mode = ""
    asked = "recall"
    """The method by which its misbehaviour is proved."""

    agent: Annotated[str, Meta(description="which agent, where it serves now")]
    for_s: Annotated[float, Meta(description="when it ends by itself", gt=0, le=120)] = _LONGEST_S

    def check(self, stage: Stage) -> None:
        spec = stage.agent(self.agent)
        if spec.handler is None or not spec.handler.startswith("services.agent.reference:"):
            raise Refused(
                f"{self.name} {self.agent}",
                "it is no agent of ours, it cannot be told to misbehave",
                "use process-freeze or link-latency for it",
            )

    def targets(self, stage: Stage) -> frozenset[str]:
        return frozenset({f"process/{self._target(stage)}"})

    def radius(self, stage: Stage) -> Radius:
        return Radius(agents=frozenset({self.agent}))

    def undo(self, stage: Stage, trial: Trial) -> tuple[AnyUndo, ...]:
        target = self._target(stage)
        trial.words["host"] = target.host
        alive, outcome, _ = stage.sign_of_life(target)
        if not alive:
            raise Refused(f"{self.name} {target}", f"it gives no sign of life ({outcome})", "mend it first")
        return (
            Behave(host=target.host, agent=self.agent),
            Serve(host=target.host, what=target.what),
        )

    def inject(self, stage: Stage, trial: Trial) -> None:
        body = msgspec.json.encode({"mode": self.mode, "seconds": self.for_s}).decode()
        view = self._call(stage, trial, "misbehave", body, 2000)
        if view.outcome != "ok":
            raise Refused(f"{self.name} {self.agent}", f"it did not take it ({view.outcome})", "see its log")

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        body = '{"key":"chaos-probe"}' if self.asked == "recall" else '{"text":"chaos","depth":0}'
        view = self._call(stage, trial, self.asked, body, 700)
        return Proof(self.shows(view), (Measure("answer", view.outcome), Measure("took", view.took_ms, "ms")))

    def shows(self, view: m.CallView) -> bool:
        """Whether an answer shows the misbehaviour; one that was replaced for it shows nothing any more."""
        raise NotImplementedError

    def _target(self, stage: Stage) -> Target:
        return stage.target(f"agent/{self.agent}")

    def _call(self, stage: Stage, trial: Trial, method: str, body: str, timeout_ms: int) -> m.CallView:
        request = m.Call(agent=self.agent, method=method, body=body, timeout_ms=timeout_ms)
        return stage.ask(trial.words["host"], request, m.CallView)


@register
class AgentErrors(AgentFault, frozen=True, kw_only=True):
    name = "agent-errors"
    summary = "Let an agent fail every call."
    mode = "errors"

    def shows(self, view: m.CallView) -> bool:
        return view.outcome == "handler-error"


@register
class AgentSlow(AgentFault, frozen=True, kw_only=True):
    name = "agent-slow"
    summary = "Let an agent answer no call, while it still gives signs of life."
    mode = "slow"

    def shows(self, view: m.CallView) -> bool:
        return view.outcome in ("timeout", "deadline")


@register
class AgentWrong(AgentFault, frozen=True, kw_only=True):
    name = "agent-wrong"
    summary = "Let an agent answer with values that nobody stored."
    mode = "wrong"

    def shows(self, view: m.CallView) -> bool:
        if view.outcome != "ok":
            return False
        value = msgspec.json.decode(view.body, type=dict[str, object]).get("value")
        return isinstance(value, str) and value.startswith("wrong-")


@register
class AgentGarbage(AgentFault, frozen=True, kw_only=True):
    name = "agent-garbage"
    summary = "Let an agent answer with random bytes in place of what was asked for."
    mode = "garbage"

    def shows(self, view: m.CallView) -> bool:
        return view.outcome == "garbage" or (view.outcome == "ok" and not view.body.startswith("{"))


@register
class LoopStall(AgentFault, frozen=True, kw_only=True):
    name = "loop-stall"
    group = "resource"
    summary = "Let an agent's event loop stand still: nothing of it answers, signs of life neither."
    mode = "stall"

    for_s: Annotated[float, Meta(description="how long it stands still", gt=0, le=120)] = 10.0

    def effect(self, stage: Stage, trial: Trial) -> Proof:
        ping = m.Ping(target=f"agent/{self.agent}", timeout_ms=300)
        try:
            view = stage.ask(trial.words["host"], ping, m.PingView)
        except NotReached:
            return Proof(False)
        return Proof(view.outcome == "timeout", (Measure("sign of life", view.outcome),))


@register
class ModelLoadFailure(AgentFault, frozen=True, kw_only=True):
    name = "model-load-failure"
    summary = "Let the model of an agent fail to load: it answers, and generates nothing."
    mode = "no-model"
    asked = "generate"

    def check(self, stage: Stage) -> None:
        super().check(stage)
        if stage.agent(self.agent).model is None:
            raise BadFault(f"{self.name} {self.agent}", "it keeps no model", "name one that does")

    def shows(self, view: m.CallView) -> bool:
        return view.outcome == "handler-error"


def _must_be_database(fault: str, way: str) -> None:
    if not way.startswith("redis-"):
        raise BadFault(f"{fault} to", f"is {way}", "name a way to a database: redis-HOST")
