"""Chaos Toolkit's way to our faults and looks: a module of actions and probes for its provider `python`.

    {"type": "action", "name": "…", "provider": {"type": "python", "module": "chaos.toolkit", "func": "fault",
     "arguments": {"fault": "process-kill", "parameters": {"target": "agent/asr-0"}, "for_s": 5}}}

Faults of one process share one session, so that actions may run in the background beside each other. What
cannot be done raises; the toolkit then says that the activity has failed. Its format: chaostoolkit.org,
"Concepts and vocabulary" (experiment, steady-state hypothesis, method, rollbacks, controls).
"""

from __future__ import annotations

import threading
from typing import Any

import msgspec

from chaos.clearing import panic as heal_everything
from chaos.errors import ChaosError
from chaos.parameters import make_fault
from chaos.scenario import Scenario, Value
from chaos.scenario_looks import AnyLook
from chaos.session import Session
from chaos.stage import Stage

MODULE = "chaos.toolkit"

_lock = threading.Lock()
_sessions: dict[str, tuple[Session, int]] = {}


def fault(
    fault: str, parameters: dict[str, Value] | None = None, for_s: float = 5.0, stack: str = "local"
) -> dict[str, Any]:
    """An action: one fault from its beginning to its proved end. Raises ChaosError, also when it is void."""
    made = make_fault(fault, parameters or {})
    session = _enter(stack)
    try:
        outcome = session.run(made, for_s)
    finally:
        _leave(stack)
    if outcome.void or not outcome.whole:
        what = (
            f"no proof of effect ({outcome.effect})" if outcome.void else f"not as before: {outcome.trouble}"
        )
        raise ChaosError(str(made), what, "see the journal of the stack's chaos")
    found: dict[str, Any] = msgspec.to_builtins(outcome)
    return found


def look(look: dict[str, Any], stack: str = "local") -> bool:
    """A probe: whether one of our looks holds, or comes to hold within its `within_s`; tolerance `true`."""
    wanted: AnyLook = msgspec.convert(look, AnyLook)
    stage = _stage(stack)
    try:
        wanted.check(stage)
        return stage.until(lambda: wanted.now(stage), wanted.within_s).holds
    finally:
        stage.close()


def panic(stack: str = "local") -> list[str]:
    """A rollback: ends every fault of the stack now."""
    stage = _stage(stack)
    try:
        return list(heal_everything(stage))
    finally:
        stage.close()


def experiment_of(scenario: Scenario, stack: str = "local") -> dict[str, Any]:
    """A scenario as an experiment of Chaos Toolkit.

    Looks before and after become the steady-state hypothesis and probes, steps actions in the background,
    looks during probes among them. The load is not part of it: `contributions` names the rows.
    """
    if not scenario.steps:
        raise ChaosError(
            f"scenario {scenario.name}", "has no steps of its own", "run it; its folder has those drawn"
        )
    steps = sorted(scenario.steps, key=lambda step: step.at_s)
    method: list[dict[str, Any]] = []
    last_s = 0.0
    for number, step in enumerate(steps, 1):
        arguments = {"fault": step.fault, "parameters": step.with_, "for_s": step.for_s, "stack": stack}
        action = _activity("action", f"{number}: {step.make()}", "fault", arguments)
        action["background"] = True
        if step.at_s > last_s:
            action["pauses"] = {"before": step.at_s - last_s}
        method.append(action)
        last_s = step.at_s
    method += [_probe("during", one, stack) for one in scenario.during if one.live]
    method += [_probe("after", one, stack) for one in scenario.after if one.live]
    steady = [one for one in (scenario.before or scenario.after) if one.live]
    experiment: dict[str, Any] = {
        "version": "1.0.0",
        "title": scenario.title,
        "description": " ".join(scenario.expected.split()),
        "tags": list(scenario.rows),
        "method": method,
        "rollbacks": [_activity("action", "end every fault", "panic", {"stack": stack})],
    }
    if steady:
        experiment["steady-state-hypothesis"] = {
            "title": "The steady state",
            "probes": [_probe("steady", one, stack) for one in steady],
        }
    return experiment


def _probe(phase: str, one: AnyLook, stack: str) -> dict[str, Any]:
    arguments = {"look": msgspec.to_builtins(one), "stack": stack}
    return {**_activity("probe", f"{phase}: {one}", "look", arguments), "tolerance": True}


def _activity(kind: str, name: str, func: str, arguments: dict[str, Any]) -> dict[str, Any]:
    provider = {"type": "python", "module": MODULE, "func": func, "arguments": arguments}
    return {"type": kind, "name": name, "provider": provider}


def _stage(stack: str) -> Stage:
    from infra.project import deployed_environment

    return Stage(deployed_environment(stack))


def _enter(stack: str) -> Session:
    from infra.project import deployed_environment

    with _lock:
        session, users = _sessions.get(stack, (None, 0))
        if session is None:
            session = Session.open(deployed_environment(stack), purpose="Chaos Toolkit")
        _sessions[stack] = (session, users + 1)
        return session


def _leave(stack: str) -> None:
    with _lock:
        session, users = _sessions.pop(stack)
        if users > 1:
            _sessions[stack] = (session, users - 1)
        else:
            session.close()
