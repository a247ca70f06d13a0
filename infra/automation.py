"""Brings a stack up and down through Pulumi's Automation API, with the program of `infra.program` inline.

result = up(load_environment(), on_event=print)
"""

from __future__ import annotations

import contextlib
import re
import signal
import threading
import time
from collections.abc import Callable, Iterator
from enum import StrEnum
from typing import Any

import msgspec
from pulumi import automation
from pulumi.automation.events import EngineEvent, StepEventMetadata

from infra import substrates
from infra.plan import Environment, StackPlan, plan
from infra.program import program
from infra.project import (
    Layout,
    ProjectError,
    StackBusy,
    exclusive,
    pending_operations,
    prepare,
    recorded_resources,
    variables,
)
from infra.tools.paths import tool_path
from infra.topology import Problem, TopologyError, load_fleet

PARALLEL = 16


class StepKind(StrEnum):
    """What happened to a resource."""

    STARTED = "started"
    DONE = "done"
    FAILED = "failed"


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """One step of a deployment. `total` is the number of resources, `done` how many are finished."""

    resource: str
    step: str
    kind: StepKind
    done: int
    total: int
    detail: str = ""


class UpResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment did: names of resources by step ("create", "update", …), and where things are."""

    changed: dict[str, tuple[str, ...]]
    same: int
    hosts: dict[str, str]
    prometheus: dict[str, str]
    hostd: dict[str, str]
    duration_s: float

    @property
    def unchanged(self) -> bool:
        """Whether there was nothing to do."""
        return not self.changed


class PreviewResult(msgspec.Struct, frozen=True, kw_only=True):
    """What a deployment would do."""

    changed: dict[str, tuple[str, ...]]
    same: int


class DeploymentError(Exception):
    """A deployment that did not come to its end; `problems` names each resource that failed and why."""

    exit_status = 3

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class DeploymentInterrupted(ProjectError):
    """Ctrl-C: the engine has written down what it had done."""

    exit_status = 130

    def __init__(self) -> None:
        super().__init__(
            "stack",
            "interrupted, part of the change is done",
            "`threenines up` goes on from there, `threenines down` takes it all down",
        )


OnEvent = Callable[[Progress], None]


def planned(environment: Environment) -> StackPlan:
    """The plan of the environment's fleet. Raises TopologyError."""
    return plan(load_fleet(environment.fleet), environment)


def up(environment: Environment, on_event: OnEvent | None = None) -> UpResult:
    """Makes the stack what its fleet and configuration say; mends what has drifted.

    Raises TopologyError, StackBusy, ProjectError, DeploymentError.
    """
    stack_plan = planned(environment)
    watcher = _Watcher(on_event, _size(stack_plan))
    started = time.monotonic()
    with _stack(environment) as stack:
        _look(stack, environment)
        with _told(watcher):
            result = stack.up(parallel=PARALLEL, color="never", on_event=watcher)
        outputs = {key: output.value for key, output in result.outputs.items()}
    return UpResult(
        changed=watcher.changed,
        same=watcher.same,
        hosts=outputs.get("hosts", {}),
        prometheus=outputs.get("prometheus", {}),
        hostd=outputs.get("hostd", {}),
        duration_s=time.monotonic() - started,
    )


def preview(environment: Environment, on_event: OnEvent | None = None) -> PreviewResult:
    """What `up` would do; changes nothing but the record of what is there. Raises as `up`."""
    watcher = _Watcher(on_event, _size(planned(environment)))
    with _stack(environment) as stack:
        _look(stack, environment)
        with _told(watcher):
            stack.preview(parallel=PARALLEL, color="never", on_event=watcher)
    return PreviewResult(changed=watcher.changed, same=watcher.same)


def _look(stack: automation.Stack, environment: Environment) -> None:
    """Records what is there, so that drift is planned for.

    An operation of its own: with `up --refresh` the engine (3.259.0) has two instances of the provider and
    was seen to end one that was still being asked.
    """
    if recorded_resources(Layout(environment)):
        watcher = _Watcher(None, 0)
        with _told(watcher):
            stack.refresh(parallel=PARALLEL, color="never", on_event=watcher)


def refresh(environment: Environment, on_event: OnEvent | None = None) -> PreviewResult:
    """Looks at what is there and records it; `changed` is what has drifted. Raises as `up`."""
    watcher = _Watcher(on_event, _size(planned(environment)))
    with _stack(environment) as stack, _told(watcher):
        stack.refresh(parallel=PARALLEL, color="never", on_event=watcher)
    return PreviewResult(changed=watcher.changed, same=watcher.same)


def down(environment: Environment, on_event: OnEvent | None = None) -> tuple[str, ...]:
    """Removes the stack with everything on it; only the state directory stays.

    Answers with what had to be removed beside the engine's own resources (leftovers of a crash).
    Raises StackBusy, ProjectError, DeploymentError, SubstrateError.
    """
    layout = Layout(environment)
    if layout.root.is_dir():
        watcher = _Watcher(on_event, recorded_resources(layout))
        with _stack(environment) as stack, _told(watcher):
            stack.destroy(parallel=PARALLEL, color="never", refresh=False, on_event=watcher)
        layout.deployed.unlink(missing_ok=True)
    return _sweep(environment)


def _size(stack_plan: StackPlan) -> int:
    return len(stack_plan.hosts) + len(stack_plan.units) + 1 + len(stack_plan.agents)  # 1: the roster


def _sweep(environment: Environment) -> tuple[str, ...]:
    """Removes what the engine has no record of (its state was lost, or it was killed too early to write)."""
    substrate = substrates.open_substrate(environment)
    try:
        found = []
        for host in _known_hosts(environment):
            if substrate.inspect_host(host) is not None:
                substrate.delete_host(host)
                found.append(f"host {host}")
        return (*found, *substrate.sweep())
    finally:
        substrate.close()


def _known_hosts(environment: Environment) -> tuple[str, ...]:
    try:
        return tuple(host.name for host in load_fleet(environment.fleet).hosts)
    except TopologyError:
        return ()  # the manifest is gone or broken: `down` must work all the same


@contextlib.contextmanager
def _stack(environment: Environment) -> Iterator[automation.Stack]:
    """The stack, held exclusively, with what a killed engine left behind cleared."""
    layout = prepare(environment)
    with exclusive(layout):
        workspace = automation.LocalWorkspace(
            work_dir=str(layout.inline),
            program=program,
            env_vars=variables(layout),
            pulumi_command=_command(),
        )
        stack = automation.Stack.create_or_select(environment.stack, workspace)
        if pending_operations(layout):
            # Every create of ours adopts what is there, so an operation cut short is simply repeated.
            deployment = stack.export_stack()
            content: dict[str, Any] = dict(deployment.deployment or {})
            content.pop("pending_operations", None)
            stack.import_stack(automation.Deployment(deployment.version, content))
        yield stack


def _command() -> automation.PulumiCommand:
    """The engine's program, found by us: never one that the API would download."""
    found = tool_path("pulumi")
    return automation.PulumiCommand(root=str(found.parent.parent) if found.parent.name == "bin" else None)


@contextlib.contextmanager
def _told(watcher: _Watcher) -> Iterator[None]:
    """Turns the engine's failures into ours."""
    try:
        with _patience() as stopped:
            yield
    except automation.ConcurrentUpdateError as error:
        raise StackBusy("stack", f"is locked by another engine ({error.name})", "wait for it") from None
    except automation.CommandError as error:
        if stopped.is_set():
            raise DeploymentInterrupted() from None
        problems = watcher.problems or (_unexplained(str(error)),)
        raise DeploymentError(problems) from None


@contextlib.contextmanager
def _patience() -> Iterator[threading.Event]:
    """A first Ctrl-C is left to the engine, which has it from the terminal too: it ends what is under way and
    writes down what stands. A second one ends the wait. Answers with whether there was one.
    """
    stopped = threading.Event()

    def first(_number: int, _frame: object) -> None:
        stopped.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    ours = threading.current_thread() is threading.main_thread()
    if not ours or signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        yield stopped
        return
    signal.signal(signal.SIGINT, first)
    try:
        yield stopped
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _unexplained(text: str) -> Problem:
    lines = [line.strip() for line in text.splitlines() if "error:" in line]
    what = lines[-1].partition("error:")[2].strip() if lines else " ".join(text.split())[-300:]
    return Problem("pulumi", what or "failed", "see the text before this line")


class _Watcher:
    """Listens to the engine: counts, collects errors, tells the caller in typed events."""

    def __init__(self, on_event: OnEvent | None, total: int) -> None:
        self._on_event = on_event
        self._total = total
        self._done: set[str] = set()
        self._changed: dict[str, set[str]] = {}
        self._problems: dict[str, Problem] = {}
        self.same = 0

    @property
    def changed(self) -> dict[str, tuple[str, ...]]:
        """Names of the resources that a step other than "same" finished, by step."""
        return {step: tuple(sorted(names)) for step, names in sorted(self._changed.items())}

    @property
    def problems(self) -> tuple[Problem, ...]:
        """Why it failed, resource by resource."""
        return tuple(self._problems.values())

    def __call__(self, event: EngineEvent) -> None:
        """Takes an event from the engine's stream."""
        if event.resource_pre_event is not None:
            self._tell(event.resource_pre_event.metadata, StepKind.STARTED)
        elif event.res_outputs_event is not None:
            self._finished(event.res_outputs_event.metadata)
        elif event.res_op_failed_event is not None:
            self._tell(event.res_op_failed_event.metadata, StepKind.FAILED)
        elif event.diagnostic_event is not None and event.diagnostic_event.severity == "error":
            self._failed(event.diagnostic_event.urn or "", event.diagnostic_event.message)

    def _finished(self, metadata: StepEventMetadata) -> None:
        name, step = _name(metadata.urn), str(metadata.op.value)
        if _is_internal(metadata) or step == "refresh":
            return
        if step in ("same", "read"):
            self.same += 1
        else:
            self._changed.setdefault(step, set()).add(name)
        self._done.add(name)
        self._tell(metadata, StepKind.DONE)

    def _tell(self, metadata: StepEventMetadata, kind: StepKind) -> None:
        if self._on_event is None or _is_internal(metadata):
            return
        done = len(self._done)
        self._on_event(
            Progress(
                resource=_name(metadata.urn),
                step=str(metadata.op.value),
                kind=kind,
                done=done,
                total=max(self._total, done),
            )
        )

    def _failed(self, urn: str, message: str) -> None:
        text = " ".join(re.sub(r"<\{%[^%]*%\}>", "", message).split())
        name = _name(urn) if urn else "stack"
        if "Exception calling application: " in text:
            text = text.partition("Exception calling application: ")[2]
        elif text in ("update failed", "preview failed", "destroy failed") or "resource plugin" in text:
            return
        text = re.sub(r"^threenines: ", "", text)
        self._problems.setdefault(text, _problem(name, text))  # one cause is told once


def _problem(name: str, text: str) -> Problem:
    """An error of ours again as its three parts: it crossed the engine as one line."""
    where, colon, rest = text.partition(": ")
    what, semicolon, mend = rest.rpartition("; ")
    if colon and semicolon and len(where) < 200:
        return Problem(where, what, mend)
    return Problem(name, text[:1000], "see the log of that unit, then run it again")


def _is_internal(metadata: StepEventMetadata) -> bool:
    """Whether it is one of the engine's own resources: the stack, the provider."""
    return metadata.type.startswith("pulumi:")


def _name(urn: str) -> str:
    return urn.rpartition("::")[2]


__all__ = [
    "DeploymentError",
    "DeploymentInterrupted",
    "PreviewResult",
    "Progress",
    "ProjectError",
    "StackBusy",
    "StepKind",
    "UpResult",
    "down",
    "planned",
    "preview",
    "refresh",
    "up",
]
