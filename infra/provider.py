"""Pulumi resources over a substrate: Host, Unit, Roster, Agent.

The engine runs these providers in a process of its own, `python -m pulumi.dynamic`, which finds them by
their module's name: they hold no state of their own, and everything that they need comes with a resource's
properties. Properties are text: JSON where they are structs, so that the engine neither rounds a number nor
drops a null, and shows differences key by key.

Drift: `read` says what it found, `diff` compares that with what is wanted, `update` mends it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import msgspec
import pulumi
from pulumi.dynamic import (
    CheckFailure,
    CheckResult,
    ConfigureRequest,
    CreateResult,
    DiffResult,
    ReadResult,
    Resource,
    ResourceProvider,
    UpdateResult,
)

from infra import substrates
from infra.hostd_api import HostdApi, HostdError, HostdUnavailable, HostdUnreachable
from infra.plan import Environment, Roster, UnitSpec
from infra.substrates.base import HostState, Substrate, SubstrateError, UnitState
from infra.topology import AgentSpec, HostSpec

Properties = dict[str, Any]
S = TypeVar("S", bound=msgspec.Struct)
T = TypeVar("T")

UP = "up"
AGENT_WAIT_S = 30.0
RETRY_S, RETRY_EVERY_S = 20.0, 0.5
IDENTITY = ("stack", "substrate", "state_dir", "network", "subnet_index")
"""What makes an environment another one: a change replaces every resource."""

_local = threading.local()


class Host(Resource, module="threenines", name="Host"):
    """A host of the substrate. `address` is its address on the link between hosts."""

    address: pulumi.Output[str]

    def __init__(self, host: HostSpec, environment: Environment, opts: pulumi.ResourceOptions) -> None:
        props = {"environment": to_text(environment), "spec": to_text(host), "address": None, "state": None}
        super().__init__(HostProvider(), f"host-{host.name}", props, opts)


class Unit(Resource, module="threenines", name="Unit"):
    """A server on a host.

    `instance` names the running process. A unit that was killed and started again by its supervisor shows as
    drift through it, and leaves nothing to mend.
    """

    state: pulumi.Output[str]

    def __init__(self, unit: UnitSpec, environment: Environment, opts: pulumi.ResourceOptions) -> None:
        props: Properties = {"environment": to_text(environment), "spec": to_text(unit)}
        props |= {"sha256": None, "state": None, "instance": None}
        super().__init__(UnitProvider(), f"unit-{unit.host}-{unit.name}", props, opts)


class AgentRoster(Resource, module="threenines", name="Roster"):
    """Which agents there are, and no others.

    etcd keeps definitions while a stack is down; one that its manifest names no more shows here as drift and
    goes before agents start, so that it cannot hold a port of theirs.
    """

    state: pulumi.Output[str]

    def __init__(self, roster: Roster, environment: Environment, opts: pulumi.ResourceOptions) -> None:
        props = {"environment": to_text(environment), "spec": to_text(roster), "state": None}
        super().__init__(RosterProvider(), "roster", props, opts)


class Agent(Resource, module="threenines", name="Agent"):
    """An agent, which hostd of its home runs."""

    state: pulumi.Output[str]

    def __init__(self, agent: AgentSpec, environment: Environment, opts: pulumi.ResourceOptions) -> None:
        props = {"environment": to_text(environment), "spec": to_text(agent), "state": None}
        super().__init__(AgentProvider(), f"agent-{agent.name}", props, opts)


def to_text(value: msgspec.Struct) -> str:
    """A struct as a property: JSON, the same text for the same value."""
    return msgspec.json.encode(value, order="deterministic").decode()


class _Provider(ResourceProvider):
    """What all of them have in common."""

    kind: type[msgspec.Struct]
    replacing: tuple[str, ...] = ()
    """Keys of the specification that cannot be changed in place."""

    def configure(self, req: ConfigureRequest) -> None:
        """Called once in the engine's provider process."""
        prepare_process()

    def check(self, _olds: Properties, news: Properties) -> CheckResult:
        """Refuses properties that are not of our structs: a program other than ours wrote them."""
        failures = []
        for key, kind in (("environment", Environment), ("spec", self.kind)):
            try:
                msgspec.json.decode(news.get(key) or "", type=kind)
            except (msgspec.DecodeError, TypeError) as error:
                failures.append(CheckFailure(key, f"{key}: {error}; deploy with infra/program.py"))
        return CheckResult(news, failures)

    def diff(self, _id: str, olds: Properties, news: Properties) -> DiffResult:
        """Nothing to do exactly when what is there is well and was made from the same specification."""
        replaces = []
        if any(_part(olds, "environment", key) != _part(news, "environment", key) for key in IDENTITY):
            replaces.append("environment")
        if any(_part(olds, "spec", key) != _part(news, "spec", key) for key in self.replacing):
            replaces.append("spec")
        changes = (
            bool(replaces)
            or olds.get("spec") != news.get("spec")
            or olds.get("environment") != news.get("environment")
            or self.drifted(olds)
        )
        return DiffResult(changes=changes, replaces=replaces, delete_before_replace=True)

    def drifted(self, olds: Properties) -> bool:
        """Whether what was read last is not as it was made."""
        return olds.get("state") != UP


class HostProvider(_Provider):
    """Hosts."""

    kind = HostSpec
    replacing = ("name", "role")

    def create(self, props: Properties) -> CreateResult:
        """Makes the host."""
        host = _spec(props, HostSpec)
        return CreateResult(host.name, _host_outs(props, _substrate(props).create_host(host)))

    def read(self, id_: str, props: Properties) -> ReadResult:
        """The host as it is; a blank id says that it is gone."""
        state = _substrate(props).inspect_host(_spec(props, HostSpec).name)
        return _gone() if state is None else ReadResult(id_, _host_outs(props, state))

    def update(self, _id: str, _olds: Properties, news: Properties) -> UpdateResult:
        """Starts a host that is down, makes one that is gone."""
        host, substrate = _spec(news, HostSpec), _substrate(news)
        state = substrate.inspect_host(host.name)
        if state is not None and not state.running:
            substrate.restart_host(host.name)
            state = substrate.inspect_host(host.name)
        if state is None or not state.running:
            state = substrate.create_host(host)
        return UpdateResult(_host_outs(news, state))

    def delete(self, _id: str, props: Properties) -> None:
        """Removes the host and everything on it."""
        _substrate(props).delete_host(_spec(props, HostSpec).name)


class UnitProvider(_Provider):
    """Units."""

    kind = UnitSpec
    replacing = ("host", "name")

    def drifted(self, olds: Properties) -> bool:
        """A unit also drifts when another specification runs than the one recorded."""
        wanted = msgspec.json.decode(olds["spec"], type=UnitSpec).sha256 if olds.get("spec") else None
        return super().drifted(olds) or olds.get("sha256") != wanted

    def create(self, props: Properties) -> CreateResult:
        """Starts the unit; answers when it is ready."""
        unit = _spec(props, UnitSpec)
        outs = _unit_outs(props, _substrate(props).create_unit(unit))
        return CreateResult(f"{unit.host}/{unit.name}", outs)

    def read(self, id_: str, props: Properties) -> ReadResult:
        """The unit as it is; a blank id says that it is gone."""
        unit = _spec(props, UnitSpec)
        state = _substrate(props).inspect_unit(unit.host, unit.name)
        return _gone() if state is None else ReadResult(id_, _unit_outs(props, state))

    def update(self, _id: str, _olds: Properties, news: Properties) -> UpdateResult:
        """Starts a stopped unit, replaces one of another specification; answers when it is ready."""
        unit, substrate = _spec(news, UnitSpec), _substrate(news)
        found = substrate.inspect_unit(unit.host, unit.name)
        if found is not None and not found.running and found.spec_sha256 == unit.sha256:
            substrate.start_unit(unit.host, unit.name)
            state = substrate.inspect_unit(unit.host, unit.name) or substrate.create_unit(unit)
        else:
            state = substrate.create_unit(unit)
        return UpdateResult(_unit_outs(news, state))

    def delete(self, _id: str, props: Properties) -> None:
        """Stops the unit and forgets it."""
        unit = _spec(props, UnitSpec)
        _substrate(props).delete_unit(unit.host, unit.name)


class AgentProvider(_Provider):
    """Agents, through hostd of their home."""

    kind = AgentSpec
    replacing = ("name", "home")

    def create(self, props: Properties) -> CreateResult:
        """Defines the agent; answers when it is up."""
        return CreateResult(_spec(props, AgentSpec).name, self._put(props))

    def read(self, id_: str, props: Properties) -> ReadResult:
        """The agent as its home sees it; while hostd does not answer, the agent is not known to be up."""
        agent = _spec(props, AgentSpec)
        try:
            view = _hostd(props, agent.home).agent(agent.name)
        except HostdUnreachable:
            return ReadResult(id_, _outs(props, state="unknown"))
        if view is None:
            return _gone()
        state = served_state({i.host: i.state for i in view.instances}, agent.home)
        spec = to_text(view.definition) if view.definition is not None else props["spec"]
        return ReadResult(id_, _outs(props, spec=spec, state=state))

    def update(self, _id: str, _olds: Properties, news: Properties) -> UpdateResult:
        """Replaces the agent when its definition changed; answers when it is up."""
        return UpdateResult(self._put(news))

    def delete(self, _id: str, props: Properties) -> None:
        """Stops the agent and removes its definition."""
        agent = _spec(props, AgentSpec)
        _hostd(props, agent.home).delete_agent(agent.name)

    def _put(self, props: Properties) -> Properties:
        agent = _spec(props, AgentSpec)
        started = _persist(lambda: _hostd(props, agent.home).put_agent(agent, AGENT_WAIT_S))
        if started.state != UP:
            raise HostdError(
                f"agent {agent.name}",
                f"is {started.state} on {agent.home}, not up",
                f"see `threenines status` and the log of hostd on {agent.home}",
            )
        return _outs(props, state=started.state)


class RosterProvider(_Provider):
    """Agents that nobody asked for."""

    kind = Roster

    def create(self, props: Properties) -> CreateResult:
        """Removes strangers."""
        return CreateResult("roster", self._enforce(props))

    def read(self, id_: str, props: Properties) -> ReadResult:
        """Who is there besides; while hostd does not answer, nobody knows."""
        try:
            found = sorted(_strangers(props))
        except HostdError:
            return ReadResult(id_, _outs(props, state="unknown"))
        return ReadResult(id_, _outs(props, state="also there: " + ", ".join(found) if found else UP))

    def update(self, _id: str, _olds: Properties, news: Properties) -> UpdateResult:
        """Removes strangers."""
        return UpdateResult(self._enforce(news))

    def delete(self, _id: str, props: Properties) -> None:
        """Nothing: agents are resources of their own."""

    def _enforce(self, props: Properties) -> Properties:
        for name, home in sorted(_persist(lambda: _strangers(props)).items()):
            _persist(partial(self._remove, props, name, home))
        return _outs(props, state=UP)

    def _remove(self, props: Properties, name: str, home: str) -> None:
        _hostd(props, home).delete_agent(name)


def _strangers(props: Properties) -> dict[str, str]:
    """Agents that are defined and not on the roster, each with the host to ask for its removal.

    Raises HostdError when no hostd answers.
    """
    roster = _spec(props, Roster)
    refusal: HostdError | None = None
    for host in roster.hosts:
        try:
            homes = _hostd(props, host).definitions().homes
        except (HostdUnreachable, HostdUnavailable) as error:
            refusal = error
            continue
        return {
            name: home if home in roster.hosts else host
            for name, home in homes.items()
            if name not in roster.agents
        }
    raise refusal or HostdUnreachable("roster", "no host runs hostd", "see the manifest's hosts")


def served_state(states: Mapping[str, str], home: str) -> str:
    """The state of an agent whose instances are in these states, by host: an agent that its standby host
    serves is no drift."""
    return UP if UP in states.values() else states.get(home, "down")


def prepare_process() -> None:
    """Keeps the provider's process from printing tracebacks, and from outliving the engine.

    The engine leaves its providers behind when it is killed; a provider whose parent has gone is of no
    use to anybody.
    """
    logging.getLogger("grpc").setLevel(logging.CRITICAL)
    if not getattr(prepare_process, "done", False):
        prepare_process.done = True  # type: ignore[attr-defined]
        threading.Thread(target=_leave_with_parent, args=(os.getppid(),), daemon=True).start()


def _leave_with_parent(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1.0)  # a parent that is not ours to wait for can only be polled
    os._exit(0)


def _spec(props: Properties, kind: type[S]) -> S:
    return msgspec.json.decode(props["spec"], type=kind)


def _part(props: Properties, key: str, part: str) -> object:
    text = props.get(key)
    return msgspec.json.decode(text).get(part) if isinstance(text, str) and text else None


def _persist(ask: Callable[[], T]) -> T:
    """Asks again while hostd or its etcd is away for a moment; asking twice is safe."""
    deadline = time.monotonic() + RETRY_S
    while True:
        try:
            return ask()
        except (HostdUnavailable, HostdUnreachable):
            if time.monotonic() >= deadline:
                raise
            time.sleep(RETRY_EVERY_S)  # nothing tells us when an election ends


def _outs(props: Properties, **found: str) -> Properties:
    return {"environment": props["environment"], "spec": props["spec"], **found}


def _host_outs(props: Properties, state: HostState) -> Properties:
    return _outs(props, address=state.address, state=UP if state.running else "down")


def _unit_outs(props: Properties, state: UnitState) -> Properties:
    state_name = UP if state.running else "down"
    return _outs(props, sha256=state.spec_sha256, state=state_name, instance=state.instance)


def _gone() -> ReadResult:
    return ReadResult("", {})


def _substrate(props: Properties) -> Substrate:
    """The substrate of a resource: one for each thread, because the protocol is synchronous."""
    text: str = props["environment"]
    opened: dict[str, Substrate] = _local.__dict__.setdefault("substrates", {})
    if text not in opened:
        opened[text] = substrates.open_substrate(msgspec.json.decode(text, type=Environment))
    return opened[text]


def _hostd(props: Properties, host: str) -> HostdApi:
    """A kept connection to the hostd of a host: one for each thread."""
    substrate = _substrate(props)
    try:
        address = substrate.address(host)
    except SubstrateError as error:
        raise HostdUnreachable(error.where, error.what, error.mend) from None
    credentials = substrate.credentials()
    key = (props["environment"], host, address)
    kept: dict[tuple[str, str, str], HostdApi] = _local.__dict__.setdefault("hostds", {})
    if key not in kept:
        kept[key] = HostdApi(host, address, credentials, timeout_s=AGENT_WAIT_S + 10.0)
    return kept[key]
