"""The shape of the program, with the engine mocked: which resources, in which order, with which ties."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pulumi.runtime import mocks as pulumi_mocks
from pulumi.runtime.settings import set_root_resource
from pulumi.runtime.stack import run_in_stack

from infra.plan import Environment, Roster, StackPlan, UnitSpec, plan
from infra.program import deploy
from infra.synthetic import synthetic_fleet
from infra.topology import AgentSpec, load_fleet

ROOT = Path(__file__).resolve().parents[2]


class Answers(pulumi_mocks.Mocks):
    """Answers like the providers."""

    def new_resource(self, args: pulumi_mocks.MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        outputs = dict(args.inputs)
        if args.name.startswith("host-"):
            outputs |= {"address": f"address-of-{args.name}", "state": "up"}
        return f"{args.name}-id", outputs

    def call(self, args: pulumi_mocks.MockCallArgs) -> dict[Any, Any]:
        raise AssertionError(f"the program calls nothing: {args.token}")


class Monitor(pulumi_mocks.MockMonitor):
    """Remembers every registration as the engine would get it."""

    def __init__(self, answers: Answers) -> None:
        super().__init__(answers)
        self.seen: dict[str, Any] = {}
        self.outputs: dict[str, Any] = {}

    def RegisterResource(self, request: Any) -> Any:
        self.seen[request.name] = request
        return super().RegisterResource(request)

    def RegisterResourceOutputs(self, request: Any) -> Any:
        self.outputs = dict(request.outputs)
        return super().RegisterResourceOutputs(request)


def run(stack_plan: StackPlan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Registrations by name, and the stack's outputs."""
    answers = Answers()
    monitor = Monitor(answers)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        pulumi_mocks.set_mocks(answers, project="threenines", stack="local", preview=False, monitor=monitor)
        set_root_resource(None)  # set_mocks has put one there; the program brings its own
        loop.run_until_complete(run_in_stack(lambda: deploy(stack_plan)))
    finally:
        loop.close()
        asyncio.set_event_loop(None)
    outputs = {key: dict(value) for key, value in monitor.outputs.items()}
    return monitor.seen, outputs


def environment(**changes: Any) -> Environment:
    made = Environment(stack="local", fleet="/f.yaml", state_dir="/s", chaos=True)
    return msgspec.structs.replace(made, **changes)


def names(urns: Any) -> set[str]:
    return {urn.rpartition("::")[2] for urn in urns}


def test_reference_fleet() -> None:
    fleet = load_fleet(ROOT / "fleet.yaml")
    stack_plan = plan(fleet, environment())
    seen, outputs = run(stack_plan)
    resources = {
        name: request for name, request in seen.items() if name.partition("-")[0] in ("host", "unit", "agent")
    }
    assert len(resources) == len(stack_plan.hosts) + len(stack_plan.units) + 77
    assert seen["roster"].type == "pulumi-python:dynamic/threenines:Roster"
    hostds = {"unit-mainpc-hostd", "unit-pc2-hostd"}
    assert names(seen["roster"].dependencies) == hostds
    assert msgspec.json.decode(seen["roster"].object["spec"], type=Roster) == stack_plan.roster
    types = {request.type for request in resources.values()}
    assert types == {f"pulumi-python:dynamic/threenines:{kind}" for kind in ("Host", "Unit", "Agent")}
    etcd = {f"unit-{host.name}-etcd" for host in fleet.hosts}
    for unit in stack_plan.units:
        request = seen[f"unit-{unit.host}-{unit.name}"]
        ties = names(request.dependencies)
        assert f"host-{unit.host}" in ties
        assert names([request.deletedWith]) == {f"host-{unit.host}"}
        assert (etcd <= ties) == (unit.name == "hostd")
        assert msgspec.json.decode(request.object["spec"], type=UnitSpec) == unit
    for agent in fleet.agents:
        request = seen[f"agent-{agent.name}"]
        assert {f"unit-{agent.home}-hostd", f"unit-{agent.home}-zygote", "roster"} <= names(
            request.dependencies
        )
        assert names([request.deletedWith]) == {f"host-{agent.home}"}
        assert msgspec.json.decode(request.object["spec"], type=AgentSpec) == agent
    assert outputs["hosts"].keys() == {"mainpc", "pc2", "witness"}
    for key, port in (("hostd", 7701), ("prometheus", 9090), ("alertmanager", 9093)):
        assert outputs[key] == {
            host: f"https://{outputs['hosts'][host]}:{port}" for host in ("mainpc", "pc2")
        }


def test_nothing_above_the_substrate_knows_a_path_or_a_process() -> None:
    stack_plan = plan(load_fleet(ROOT / "fleet.yaml"), environment(state_dir="/some/where/state"))
    for unit in stack_plan.units:
        text = msgspec.json.encode(unit).decode()
        assert "/some/where" not in text
        assert "/run/" not in text.replace("{run}/", "")
        assert "127.0.0.1" not in text


@pytest.mark.parametrize("size", [1, 5, 77, 1000])
def test_any_size_plans(size: int) -> None:
    fleet = synthetic_fleet(size)
    stack_plan = plan(fleet, environment())
    assert stack_plan.agents == fleet.agents
    assert plan(fleet, environment()) == stack_plan
    keys = [(unit.host, unit.name) for unit in stack_plan.units]
    assert len(set(keys)) == len(keys)


def test_without_chaos_there_is_no_proxy() -> None:
    fleet = synthetic_fleet(5)
    with_chaos = {unit.name for unit in plan(fleet, environment()).units}
    without = {unit.name for unit in plan(fleet, environment(chaos=False)).units}
    assert with_chaos - without == {"toxiproxy"}
