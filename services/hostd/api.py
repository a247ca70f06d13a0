"""The HTTP API of a host (docs/contracts.md, hostd): plain on the local port, else mutual TLS."""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import msgspec
from aiohttp import web

from infra.topology import AgentSpec
from services.agent.channel import open_unix
from services.agent.client import Client
from services.agent.errors import CallError, Code
from services.agent.wire import NIL, unpack_as
from services.control.agent_table import Phase
from services.hostd.access import ApiError, Right
from services.hostd.admission import MAX_BODY_BYTES, objection, read_spec
from services.hostd.agents import Supervisor
from services.hostd.config import HostConfig
from services.hostd.definitions import Definitions
from services.hostd.events import EventLog
from services.hostd.external import Externals, ExternalSpec
from services.hostd.failover import Failover
from services.hostd.health import SdkCheck
from services.hostd.http import (
    AgentAnswer,
    AgentsAnswer,
    DefinitionsAnswer,
    StartedAnswer,
    TargetGroup,
    as_json,
    as_text,
    errors_as_json,
    guarded,
    number,
    read_body,
    unknown,
    want_of,
)
from services.hostd.metrics import HostMetrics, program_metrics
from services.hostd.orders import SwitchOver
from services.hostd.runner import AgentRunner
from services.hostd.view import View
from services.registry.model import Instance, InstanceState, Resolution, Role
from services.registry.select import ANYONE, Want

BODY_LIMIT_S = 10.0
WAIT_DEFAULT_S = 10.0
WAIT_LIMIT_S = 120.0
METRICS_LIMIT_S = 1.0
CALL_LIMIT_BYTES = 1 << 20

log = logging.getLogger("threenines.hostd")
Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]

CALL_STATUS = {
    Code.NOT_FOUND: 404,
    Code.NO_METHOD: 404,
    Code.BAD_REQUEST: 422,
    Code.TOO_LARGE: 422,
    Code.DEADLINE: 504,
}


@dataclass(frozen=True, slots=True)
class Readiness:
    """`reason` None: everything works; `serving` False: not even old answers can be given."""

    serving: bool
    reason: str | None


class Api:
    """The routes. `status` and `ready` are asked of the daemon."""

    def __init__(
        self,
        config: HostConfig,
        *,
        view: View,
        supervisor: Supervisor,
        definitions: Definitions,
        externals: Externals,
        events: EventLog,
        metrics: HostMetrics,
        client: Client,
        status: Callable[[], msgspec.Struct],
        ready: Callable[[], Readiness],
        failover: Failover | None = None,
    ) -> None:
        self._config = config
        self._view = view
        self._supervisor = supervisor
        self._definitions = definitions
        self._externals = externals
        self._events = events
        self._metrics = metrics
        self._client = client
        self._status = status
        self._ready = ready
        self._failover = failover
        self._roles = {host.name: host.role for host in config.hosts}
        self._runners: list[web.AppRunner] = []

    async def start(self, tls: ssl.SSLContext) -> None:
        """Listens on both ports. Raises OSError when one is taken."""
        ports = self._config.ports
        for address, port, context in (
            (self._config.local, ports.hostd_local, None),
            (self._config.address, ports.hostd, tls),
        ):
            runner = web.AppRunner(self._app(), access_log=None, keepalive_timeout=75.0, shutdown_timeout=0.5)
            await runner.setup()
            self._runners.append(runner)
            await web.TCPSite(runner, address, port, ssl_context=context, backlog=1024).start()

    async def stop(self) -> None:
        """Closes both ports."""
        for runner in self._runners:
            await runner.cleanup()
        self._runners.clear()

    def _app(self) -> web.Application:
        app = web.Application(middlewares=[errors_as_json], client_max_size=CALL_LIMIT_BYTES)
        read, call, register, admin = Right.READ, Right.CALL, Right.REGISTER, Right.ADMINISTER
        for method, path, right, handler in (
            ("GET", "/v1/ready", read, self._get_ready),
            ("GET", "/v1/status", read, self._get_status),
            ("GET", "/v1/agents", read, self._get_agents),
            ("GET", "/v1/agents/{name}", read, self._get_agent),
            ("GET", "/v1/definitions", read, self._get_definitions),
            ("PUT", "/v1/agents/{name}", admin, self._put_agent),
            ("DELETE", "/v1/agents/{name}", admin, self._delete_agent),
            ("GET", "/v1/agents/{name}/metrics", read, self._get_agent_metrics),
            ("GET", "/v1/resolve/{name}", read, self._get_resolution),
            ("POST", "/v1/call/{name}/{method}", call, self._post_call),
            ("POST", "/v1/registrations", register, self._post_registration),
            ("DELETE", "/v1/registrations/{name}", register, self._delete_registration),
            ("GET", "/v1/metrics", read, self._get_metrics),
            ("GET", "/v1/prometheus/targets", read, self._get_targets),
            ("GET", "/v1/events", read, self._get_events),
            ("POST", "/v1/drain", admin, self._post_drain),
            ("DELETE", "/v1/drain", admin, self._delete_drain),
            ("GET", "/v1/domains", read, self._get_domains),
            ("POST", "/v1/switchover", admin, self._post_switchover),
        ):
            app.router.add_route(method, path, guarded(right, handler))
        return app

    # About the host.

    async def _get_ready(self, request: web.Request) -> web.Response:
        ready = self._ready()
        if not ready.serving:
            raise ApiError(503, "not-ready", ready.reason or "starting")
        return as_json({} if ready.reason is None else {"degraded": ready.reason})

    async def _get_status(self, request: web.Request) -> web.Response:
        return as_json(self._status())

    async def _get_events(self, request: web.Request) -> web.Response:
        since = number(request, "since", 0, 0, float("inf"))
        lines = msgspec.json.Encoder().encode_lines(self._events.since(int(since)))
        return web.Response(body=lines, content_type="application/x-ndjson")

    async def _get_metrics(self, request: web.Request) -> web.Response:
        own = self._metrics.text()
        try:
            channel = await open_unix(
                self._config.run_folder / "gateway.sock", self._supervisor.scratch, timeout_s=METRICS_LIMIT_S
            )
            try:
                body = await channel.request("gateway", "_metrics", NIL, timeout_s=METRICS_LIMIT_S)
            finally:
                channel.close()
            gateway = unpack_as(body, str)
        except CallError as error:
            gateway = f"# no gateway: {error.code}\n"
        return as_text(own + gateway)

    async def _get_targets(self, request: web.Request) -> web.Response:
        groups: list[TargetGroup] = []
        for name, spec in sorted(self._definitions.effective().items()):
            hosts = {spec.home} | {one.host for one in self._view.of(name)}
            groups += [self._target(name, host, spec.category, spec.criticality) for host in sorted(hosts)]
        defined = self._definitions.effective()
        for one in self._view.instances():
            if one.name not in defined:
                groups.append(self._target(one.name, one.host, one.category, one.criticality))
        return as_json(groups)

    def _target(self, name: str, host: str, category: str, criticality: str) -> TargetGroup:
        address = self._config.address_of(host) or host
        return TargetGroup(
            targets=(f"{address}:{self._config.ports.hostd}",),
            labels={
                "__metrics_path__": f"/v1/agents/{name}/metrics",
                "agent": name,
                "host": host,
                "category": category,
                "criticality": criticality,
            },
        )

    async def _post_drain(self, request: web.Request) -> web.Response:
        if self._failover is not None:
            wait_s = number(request, "wait_s", WAIT_DEFAULT_S, 0.001, WAIT_LIMIT_S)
            return as_json(await self._failover.orders.drain(wait_s))
        await self._definitions.drain()
        return as_json({"draining": True})

    async def _delete_drain(self, request: web.Request) -> web.Response:
        if self._failover is not None:
            return as_json(await self._failover.orders.end_drain())
        self._definitions.resume()
        return as_json({"draining": False})

    # About agents.

    async def _get_agents(self, request: web.Request) -> web.Response:
        want = want_of(request, ANYONE, "state")
        host = request.query.get("host")
        found = [
            one for one in self._view.instances() if want.accepts(one) and (host is None or one.host == host)
        ]
        return as_json(AgentsAnswer(found, self._view.revision, self._view.stale))

    async def _get_definitions(self, request: web.Request) -> web.Response:
        if self._view.stale:
            raise ApiError(503, "stale", "etcd does not confirm what this host knows")
        effective = self._definitions.effective()
        return as_json(DefinitionsAnswer({name: spec.home for name, spec in sorted(effective.items())}))

    async def _get_agent(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        definition = self._definitions.effective().get(name)
        instances = self._view.of(name)
        if definition is None and not instances:
            raise unknown(name)
        return as_json(AgentAnswer(definition, instances))

    async def _put_agent(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        wait_s = number(request, "wait_s", WAIT_DEFAULT_S, 0, WAIT_LIMIT_S)
        try:
            spec = read_spec(await read_body(request, MAX_BODY_BYTES), name)
        except ValueError as error:
            raise ApiError(422, "bad-request", str(error)) from None
        wrong = objection(spec, self._roles)
        if wrong is not None:
            raise ApiError(422, "bad-request", f"{name}: {wrong}")
        if self._config.host not in (spec.home, spec.standby):
            raise ApiError(421, "misdirected", f"{name} is at home on {spec.home}; put it there")
        if self._externals.get(name) is not None:
            raise ApiError(409, "conflict", f"a program registered itself as {name} on this host")
        deadline = asyncio.get_running_loop().time() + wait_s
        runner = await self._definitions.put(spec)
        try:
            if runner is not None:
                started = await self._started(runner, deadline)
                if self._failover is None:
                    return as_json(started)
                # Its process is there; it counts as started once somebody serves it.
            return as_json(await self._served(spec, deadline))
        except TimeoutError:
            states = ", ".join(f"{one.state} on {one.host}" for one in self._view.of(name)) or "nowhere yet"
            log = f" (its log: {runner.log_path})" if runner is not None else ""
            raise ApiError(
                504, "deadline", f"{name} is defined, and after {wait_s:g} s it is {states}{log}"
            ) from None

    async def _started(self, runner: AgentRunner, deadline: float) -> StartedAnswer:
        left_s = max(0.001, deadline - asyncio.get_running_loop().time())
        state = await runner.wait_until_up(left_s)
        return StartedAnswer(runner.name, self._config.host, state.incarnation, state.published)

    async def _served(self, spec: AgentSpec, deadline: float) -> StartedAnswer:
        def primaries() -> list[Instance]:
            return [
                one
                for one in self._view.of(spec.name)
                if (one.host == spec.home or self._failover is not None)
                and one.role is Role.PRIMARY
                and one.state is InstanceState.UP
                and one.tags == spec.tags
            ]

        left_s = max(0.001, deadline - asyncio.get_running_loop().time())
        await self._view.wait_for(lambda: bool(primaries()), left_s)
        one = primaries()[0]
        return StartedAnswer(one.name, one.host, one.incarnation, one.state)

    async def _delete_agent(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if name not in self._definitions.effective() and name not in self._supervisor.runners:
            raise unknown(name)
        await self._definitions.delete(name)
        return as_json({"name": name, "deleted": True})

    async def _get_resolution(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        try:
            resolution: Resolution = self._view.resolve(name, want_of(request, Want(), "health"))
        except KeyError:
            raise unknown(name) from None
        return as_json(resolution)

    async def _get_agent_metrics(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        external = self._externals.get(name)
        if external is not None:
            return as_text(program_metrics(None, external.state is InstanceState.UP))
        runner = self._supervisor.runners.get(name)
        if runner is None:
            raise ApiError(404, "not-found", f"{name} does not run on this host")
        up = runner.state.phase is Phase.UP
        if runner.spec.command is not None and runner.process is not None:
            return as_text(await asyncio.to_thread(program_metrics, runner.process.pid, up))
        link = runner.check.link if isinstance(runner.check, SdkCheck) else None
        if link is None:
            raise ApiError(503, "unavailable", f"{name} is {runner.state.published}")
        try:
            body = await link.request(name, "_metrics", NIL, timeout_s=METRICS_LIMIT_S)
            return as_text(unpack_as(body, str))
        except CallError as error:
            # An honest failure: Prometheus then counts the target as down.
            raise ApiError(503, "unavailable", f"{name} is {runner.state.published}: {error}") from None

    async def _post_call(self, request: web.Request) -> web.Response:
        name, method = request.match_info["name"], request.match_info["method"]
        timeout_s = number(request, "timeout_s", 5.0, 0.001, WAIT_LIMIT_S)
        text = await read_body(request, CALL_LIMIT_BYTES)
        try:
            body = msgspec.json.decode(text) if text.strip() else None
        except (msgspec.DecodeError, RecursionError) as error:
            raise ApiError(422, Code.BAD_REQUEST, f"body is not JSON: {error}") from None
        try:
            return as_json(await self._client.call(name, method, body, timeout_s=timeout_s))
        except CallError as error:
            status = next((value for code, value in CALL_STATUS.items() if code == error.code), 502)
            raise ApiError(status, error.code, error.message) from None

    # About who serves.

    def _with_failover(self) -> Failover:
        if self._failover is None:
            raise ApiError(
                404, "not-found", "agents of this stack stay on their home hosts (failover is off)"
            )
        return self._failover

    async def _get_domains(self, request: web.Request) -> web.Response:
        return as_json({"domains": await self._with_failover().orders.domains()})

    async def _post_switchover(self, request: web.Request) -> web.Response:
        failover = self._with_failover()
        wait_s = number(request, "wait_s", WAIT_DEFAULT_S, 0.001, WAIT_LIMIT_S)
        try:
            wanted = msgspec.json.decode(await read_body(request, MAX_BODY_BYTES), type=SwitchOver)
        except msgspec.DecodeError as error:
            raise ApiError(422, "bad-request", f"not a switch-over, {{home, to, stay}}: {error}") from None
        return as_json(await failover.orders.switch_over(wanted, wait_s))

    # About programs that hostd did not start.

    async def _post_registration(self, request: web.Request) -> web.Response:
        try:
            spec = msgspec.json.decode(await read_body(request, MAX_BODY_BYTES), type=ExternalSpec)
        except msgspec.DecodeError as error:
            raise ApiError(422, "bad-request", f"not a registration: {error}") from None
        if spec.name in self._definitions.effective():
            raise ApiError(409, "conflict", f"{spec.name} is an agent with a definition")
        try:
            external = self._externals.register(spec)
        except ValueError as error:
            raise ApiError(429, "overloaded", str(error)) from None
        except OSError as error:
            raise ApiError(507, "unavailable", f"cannot be kept on disk: {error.strerror}") from None
        return as_json(
            StartedAnswer(spec.name, self._config.host, external.incarnation, external.state), status=201
        )

    async def _delete_registration(self, request: web.Request) -> web.Response:
        name = request.match_info["name"]
        if not self._externals.remove(name):
            raise unknown(name)
        return as_json({"name": name, "deleted": True})
