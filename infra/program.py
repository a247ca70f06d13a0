"""The Pulumi program: one resource for each host, unit and agent of the plan, and the roster.

`infra/__main__.py` runs it for a literal `pulumi up`, `infra.automation` runs it inline.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import pulumi
from pulumi.runtime.config import CONFIG

from infra.environment import PROJECT, PROJECT_FOLDER, environment_from
from infra.plan import Environment, StackPlan, UnitSpec, plan
from infra.project import record_deployed
from infra.provider import Agent, AgentRoster, Host, Unit
from infra.topology import Port, TopologyError, load_fleet

START_TIMEOUT = pulumi.CustomTimeouts(create="5m", update="5m", delete="2m")
_AFTER_ETCD = ("hostd",)
_BEFORE_AGENTS = ("hostd", "zygote", "gateway")


def program() -> None:
    """Deploys the fleet that the stack's configuration names. Every problem is a line, no traceback."""
    try:
        environment = configured_environment()
        stack_plan = plan(load_fleet(environment.fleet), environment)
    except TopologyError as error:
        raise pulumi.RunError("\n".join(f"{PROJECT}: {problem}" for problem in error.problems)) from None
    if not pulumi.runtime.is_dry_run():
        record_deployed(environment)
    deploy(stack_plan)


def configured_environment() -> Environment:
    """The environment that the engine's configuration describes. Raises ConfigError."""
    stack = pulumi.get_stack()
    return environment_from(
        _configuration(), stack, base=PROJECT_FOLDER, source=f"configuration of stack {stack}"
    )


def deploy(stack_plan: StackPlan) -> None:
    """Registers every resource of the plan and exports where to find things."""
    environment = stack_plan.environment
    hosts = {
        host.name: Host(host, environment, pulumi.ResourceOptions(custom_timeouts=START_TIMEOUT))
        for host in stack_plan.hosts
    }
    units: dict[tuple[str, str], Unit] = {}
    for spec in stack_plan.units:
        host = hosts[spec.host]
        needed: list[pulumi.Resource] = [host]
        if spec.name in _AFTER_ETCD:
            needed += [unit for (_, name), unit in units.items() if name == "etcd"]
        options = pulumi.ResourceOptions(
            parent=host, depends_on=needed, deleted_with=host, custom_timeouts=START_TIMEOUT
        )
        units[spec.host, spec.name] = Unit(spec, environment, options)
    hostds = [unit for (_, name), unit in units.items() if name == "hostd"]
    roster = AgentRoster(
        stack_plan.roster,
        environment,
        pulumi.ResourceOptions(depends_on=hostds, custom_timeouts=START_TIMEOUT),
    )
    for agent in stack_plan.agents:
        host = hosts[agent.home]
        before: list[pulumi.Resource] = [
            roster,
            *(units[agent.home, name] for name in _BEFORE_AGENTS if (agent.home, name) in units),
        ]
        options = pulumi.ResourceOptions(
            parent=host, depends_on=before, deleted_with=host, custom_timeouts=START_TIMEOUT
        )
        Agent(agent, environment, options)
    _export(stack_plan.units, hosts)


def _export(units: tuple[UnitSpec, ...], hosts: Mapping[str, Host]) -> None:
    def urls(unit: str, port: Port) -> dict[str, pulumi.Output[str]]:
        return {
            spec.host: hosts[spec.host].address.apply(lambda address: f"https://{address}:{int(port)}")
            for spec in units
            if spec.name == unit
        }

    pulumi.export("hosts", {name: host.address for name, host in hosts.items()})
    pulumi.export("prometheus", urls("prometheus", Port.PROMETHEUS))
    pulumi.export("alertmanager", urls("alertmanager", Port.ALERTMANAGER))
    pulumi.export("hostd", urls("hostd", Port.HOSTD))


def _configuration() -> dict[str, str]:
    """Every value of our own namespace, known or not: `pulumi.Config` only answers for known keys."""
    given = CONFIG.get() or json.loads(_environment_config())
    prefix = f"{PROJECT}:"
    return {key.removeprefix(prefix): str(value) for key, value in given.items() if key.startswith(prefix)}


def _environment_config() -> str:
    import os

    return os.environ.get("PULUMI_CONFIG", "{}")
