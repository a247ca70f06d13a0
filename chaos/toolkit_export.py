"""A scenario as an experiment of Chaos Toolkit."""

from __future__ import annotations

from typing import Any

import msgspec

from chaos.errors import ChaosError
from chaos.scenario import Scenario
from chaos.scenario_looks import AnyLook
from chaos.toolkit import DEFAULT_STACK, MODULE


def experiment_of(scenario: Scenario, stack: str = DEFAULT_STACK) -> dict[str, Any]:
    """The experiment; it names the stack only when that is not the default one.

    Looks before and after become the steady-state hypothesis (the toolkit asks it before the method, and
    again when the last fault is over), steps actions in the background, looks during probes that must hold.
    The load and the looks at it are left out. Raises ChaosError for a scenario without steps.
    """
    if not scenario.steps:
        raise ChaosError(
            f"scenario {scenario.name}", "has no steps of its own", "run it; its folder has those drawn"
        )
    about = {} if stack == DEFAULT_STACK else {"stack": stack}
    method: list[dict[str, Any]] = []
    for number, step in enumerate(sorted(scenario.steps, key=lambda step: step.at_s), 1):
        arguments = {"fault": step.fault, "parameters": step.with_, "for_s": step.for_s, **about}
        action = _activity("action", f"{number}: {step.make()}", "fault", arguments)
        action["background"] = True
        if step.at_s > 0:  # in the background the pause is the action's own: all count from the same moment
            action["pauses"] = {"before": step.at_s}
        method.append(action)
    during = {**about, "must": True, "faults": len(scenario.steps)}
    method += [_probe("during", one, during) for one in scenario.during if one.live]
    steady = _widest(tuple(one for one in (*scenario.before, *scenario.after) if one.live))
    experiment: dict[str, Any] = {
        "version": "1.0.0",
        "title": scenario.title,
        "description": " ".join(scenario.expected.split()),
        "tags": list(scenario.rows),
        "method": method,
        "rollbacks": [_activity("action", "end every fault", "panic", {**about})],
    }
    if steady:
        probes = [{**_probe("steady", one, about), "tolerance": True} for one in steady]
        experiment["steady-state-hypothesis"] = {"title": "The steady state", "probes": probes}
    return experiment


def _widest(looks: tuple[AnyLook, ...]) -> tuple[AnyLook, ...]:
    """Each look once, with the longest time that it is given."""
    found: dict[str, AnyLook] = {}
    for one in looks:
        key = str(msgspec.to_builtins(msgspec.structs.replace(one, within_s=0.0)))
        if key not in found or one.within_s > found[key].within_s:
            found[key] = one
    return tuple(found.values())


def _probe(phase: str, one: AnyLook, more: dict[str, Any]) -> dict[str, Any]:
    return _activity("probe", f"{phase}: {one}", "look", {"look": msgspec.to_builtins(one), **more})


def _activity(kind: str, name: str, func: str, arguments: dict[str, Any]) -> dict[str, Any]:
    provider = {"type": "python", "module": MODULE, "func": func, "arguments": arguments}
    return {"type": kind, "name": name, "provider": provider}
