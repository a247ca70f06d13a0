"""Where faults happen: one stack, with the ways to look at it and to reach its hosts."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property
from typing import TypeVar

import msgspec

from chaos import messages as m
from chaos.errors import BadFault, NotReached, Refused
from chaos.fault import Fault, Measure, Proof
from chaos.reach import ANSWER_S, Reach
from infra import substrates
from infra.hostd_api import HostdApi, HostdError, InstanceView
from infra.plan import Environment, StackPlan, plan
from infra.substrates.base import Capability, ProcessView, Substrate, SubstrateError
from infra.topology import AgentSpec, Fleet, HostRole, Port, ProxiedPort, load_fleet

V = TypeVar("V")

LOOK_S = 0.05
_SOCKETS = ("hostd", "zygote", "gateway")
_SERVERS = {"etcd": Port.ETCD_CLIENT, "redis": Port.REDIS, "prometheus": Port.PROMETHEUS}
_SERVERS["alertmanager"] = Port.ALERTMANAGER


class Way(msgspec.Struct, frozen=True):
    """A proxied way on a host: its name, the local port, and the host at its other end."""

    name: str
    port: int
    there: str


class Target(msgspec.Struct, frozen=True):
    """A process by what it is: `what` is a unit's name or "agent/<name>"."""

    host: str
    what: str

    @property
    def agent(self) -> str | None:
        """The agent's name, None for a unit."""
        return self.what.removeprefix("agent/") if self.what.startswith("agent/") else None

    def __str__(self) -> str:
        return f"{self.host}/{self.what}"


class Stage:
    """One stack. Opening it changes nothing; `close` ends what it started on hosts. Safe between threads."""

    def __init__(
        self, environment: Environment, *, substrate: Substrate | None = None, fleet: Fleet | None = None
    ) -> None:
        self.environment = environment
        self.substrate = substrate or substrates.open_substrate(environment)
        self._fleet = fleet
        self.reach = Reach(self.substrate)
        self.clock: Callable[[], float] = time.monotonic
        self.sleep: Callable[[float], None] = time.sleep

    @cached_property
    def fleet(self) -> Fleet:
        """The stack's manifest. Raises TopologyError."""
        return self._fleet or load_fleet(self.environment.fleet)

    @cached_property
    def plan(self) -> StackPlan:
        """What should run."""
        return plan(self.fleet, self.environment)

    def close(self) -> None:
        """Ends the programs on the hosts and all that they hold."""
        self.reach.close()
        self.substrate.close()

    # -- names

    def host(self, name: str, *, worker: bool = False) -> str:
        """`name`, when the fleet has such a host. Raises BadFault."""
        known = [h.name for h in self.fleet.hosts if not worker or h.role is HostRole.WORKER]
        if name not in known:
            kind = "worker" if worker else "host"
            raise BadFault(f"host {name!r}", f"the fleet has no such {kind}", f"choose {' or '.join(known)}")
        return name

    def agent(self, name: str) -> AgentSpec:
        """The agent called `name`. Raises BadFault."""
        try:
            return self.fleet.agent(name)
        except KeyError:
            import difflib

            near = difflib.get_close_matches(name, [a.name for a in self.fleet.agents], n=1)
            mend = f"did you mean {near[0]}?" if near else "see threenines status"
            raise BadFault(f"agent {name!r}", "the fleet has no such agent", mend) from None

    def target(self, text: str) -> Target:
        """A process: "agent/<name>" where it serves now, or "<host>/<unit>". Raises BadFault, Refused."""
        first, slash, second = text.partition("/")
        if not slash or not second:
            raise BadFault(f"target {text!r}", "it names no process", "write agent/NAME or HOST/UNIT")
        if first == "agent":
            return Target(self.serving(self.agent(second)), text)
        self.host(first)
        units = [unit.name for unit in self.plan.units if unit.host == first]
        if second.startswith("agent/"):
            self.agent(second.removeprefix("agent/"))
        elif second not in units:
            raise BadFault(f"target {text!r}", f"{first} has no such unit", f"choose {', '.join(units)}")
        return Target(first, second)

    def ways(self, host: str) -> dict[str, Way]:
        """The proxied ways of a worker, as `infra.units` lays them."""
        unit = next((u for u in self.plan.units if (u.host, u.name) == (host, "toxiproxy")), None)
        if unit is None:
            return {}
        names = [str(p["name"]) for p in msgspec.json.decode(unit.files["toxiproxy.json"])]
        found = {}
        for name in names:
            service, _, there = name.partition("-")
            port = self.fleet.proxied_port(ProxiedPort[service.upper()], there)
            found[name] = Way(name, port, there)
        return found

    def way(self, host: str, name: str) -> Way:
        """The way called `name` of a host. Raises BadFault."""
        ways = self.ways(self.host(host))
        if name not in ways:
            mend = f"choose {', '.join(ways)}" if ways else "only workers of a stack with chaos have some"
            raise BadFault(f"way {name!r}", f"{host} has no such proxied way", mend)
        return ways[name]

    def homed(self, host: str) -> frozenset[str]:
        """The agents whose home a host is."""
        return frozenset(agent.name for agent in self.fleet.agents if agent.home == host)

    def lacks(self, needs: frozenset[Capability]) -> tuple[Capability, ...]:
        """What of that the substrate cannot do here."""
        return tuple(sorted(needs - self.substrate.capabilities())) if needs else ()

    def require(self, fault: Fault) -> None:
        """Raises Refused when the substrate cannot do what the fault needs."""
        lacks = self.lacks(fault.needs)
        if lacks:
            raise Refused(
                fault.name,
                f"the substrate {self.environment.substrate} of stack {self.environment.stack} "
                f"has no {', '.join(lacks)}",
                "run it on a stack whose hosts can do that",
            )

    # -- looks

    def ask(self, host: str, request: m.AnyRequest, kind: type[V], timeout_s: float = ANSWER_S) -> V:
        """Asks on a host. Raises NotReached, Refused."""
        return self.reach.ask(host, request, kind, timeout_s)

    def handshake(
        self,
        host: str,
        way: Way | None = None,
        *,
        there: str = "",
        port: int = 0,
        timeout_ms: int = 2000,
        close: bool = False,
    ) -> m.HandshakeView:
        """Begins TLS from `host` through a way, or directly with a port of host `there`."""
        if way is not None:
            request = m.Handshake(port=way.port, name=way.there, timeout_ms=timeout_ms, close=close)
        else:
            address = self.substrate.address(there)
            request = m.Handshake(port=port, address=address, name=there, timeout_ms=timeout_ms, close=close)
        return self.ask(host, request, m.HandshakeView, timeout_ms / 1000 + 1)

    def round_trip_ms(self, host: str, way: Way) -> float:
        """The quickest of three handshakes through a way. Raises Refused when it does not work now."""
        views = [self.handshake(host, way) for _ in range(3)]
        good = [view.took_ms for view in views if view.outcome == "ok"]
        if not good:
            raise Refused(
                f"way {way.name} of {host}", f"it does not work now ({views[-1].outcome})", "mend it first"
            )
        return min(good)

    def sign_of_life(self, target: Target, timeout_ms: int = 1000) -> tuple[bool, str, float]:
        """Whether a process serves, in which words it does not, and how long the answer took in ms."""
        try:
            if target.agent is not None and self.agent(target.agent).handler is None:
                running = self.process(target) is not None
                return running, "ok" if running else "no process", 0.0
            if target.agent is not None or target.what in _SOCKETS:
                seen = self.ask(
                    target.host, m.Ping(target=target.what, timeout_ms=timeout_ms), m.PingView, ANSWER_S
                )
                # hostd and the zygote answer what they know; any answer at all is a sign of life.
                alive = seen.outcome in ("ok", "no-method", "not-found")
                return alive, seen.outcome, seen.took_ms
            if target.what in _SERVERS:
                port = int(_SERVERS[target.what])
                shaken = self.handshake(target.host, there=target.host, port=port, timeout_ms=timeout_ms)
                return shaken.outcome == "ok", shaken.outcome, shaken.took_ms
            self.ask(target.host, m.Proxies(), list[m.ProxyView])
            return True, "ok", 0.0
        except (NotReached, Refused) as error:
            return False, error.what, 0.0

    def process(self, target: Target) -> ProcessView | None:
        """The process of a target, None while none runs (or its host does not)."""
        try:
            return self.substrate.process(target.host, target.what)
        except SubstrateError:
            return None

    def serving(self, agent: AgentSpec) -> str:
        """The host that serves an agent now, as a hostd knows it; its home when none does."""
        for instance in self._instances():
            if (instance.name, instance.state, instance.role) == (agent.name, "up", "primary"):
                return instance.host
        return agent.home

    def agents_up(self, host: str | None = None) -> int:
        """How many agents of the fleet are served (by `host`), as a hostd knows it; 0 when none answers."""
        names = {a.name for a in self.fleet.agents}
        up = (i for i in self._instances() if i.state == "up" and i.role == "primary")
        return len({i.name for i in up if host in (None, i.host)} & names)

    def until(self, look: Callable[[], Proof], within_s: float) -> Proof:
        """The first proof that holds, or the last one that does not."""
        end = self.clock() + within_s
        while True:
            proof = look()
            if proof.holds or self.clock() >= end:
                return proof
            self.sleep(LOOK_S)

    def _instances(self) -> tuple[InstanceView, ...]:
        for host in self.fleet.workers:
            try:
                address, credentials = self.substrate.address(host.name), self.substrate.credentials()
                with HostdApi(host.name, address, credentials, timeout_s=1.5) as api:
                    view = api.agents()
            except (HostdError, SubstrateError):
                continue  # the next host's hostd knows the whole stack as well
            if not view.stale:
                return view.agents
        return ()


def census_proof(stage: Stage, least: int) -> Proof:
    """That as many agents are served as before."""
    up = stage.agents_up()
    return Proof(up >= least, (Measure("agents served", float(up)), Measure("before", float(least))))
