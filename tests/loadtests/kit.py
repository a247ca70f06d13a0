"""A client that answers as it is told, and the records that a probe wrote."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import msgspec

from infra.topology import Criticality
from loadtests.probe_output import Output
from loadtests.record import Record
from services.agent.errors import CallError
from services.registry.model import Instance, InstanceState, Resolution


def instance(
    name: str, host: str = "mainpc", incarnation: int = 1, methods: tuple[str, ...] = ("ask",)
) -> Instance:
    return Instance(
        name=name,
        host=host,
        incarnation=incarnation,
        state=InstanceState.UP,
        criticality=Criticality.STANDARD,
        methods=methods,
    )


class FakeClient:
    """`answers`: name to instances, or an error to raise. `on_call` decides about calls."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[Instance, ...] | CallError] = {}
        self.calls: list[tuple[str, str, Any]] = []
        self.on_call: Callable[[], Any] = lambda: None

    def resolve(self, agent: str) -> Resolution:
        answer = self.answers.get(agent, CallError("not-found", f"no agent {agent}"))
        if isinstance(answer, CallError):
            raise answer
        return Resolution(name=agent, revision=1, generation=1, stale=False, age_ms=0.0, instances=answer)

    async def call(self, agent: str, method: str, body: object = None, *, timeout_s: float = 5.0) -> Any:
        self.calls.append((agent, method, body))
        result = self.on_call()
        if asyncio.iscoroutine(result):
            result = await result
        return result


class Pipe:
    """An `Output` and what came out of it."""

    def __init__(self) -> None:
        self.read, write = os.pipe()
        os.set_blocking(self.read, False)
        self.write = write
        self.output = Output(write, "mainpc")
        self._seen = b""

    def records(self) -> list[Record]:
        """All records so far."""
        self.output.flush()
        try:
            while chunk := os.read(self.read, 1 << 20):
                self._seen += chunk
        except BlockingIOError:
            pass
        return [msgspec.json.decode(line, type=Record) for line in self._seen.splitlines()]

    async def until(self, enough: Callable[[list[Record]], bool]) -> list[Record]:
        """Waits until the records are enough."""
        async with asyncio.timeout(20):
            while not enough(self.records()):  # noqa: ASYNC110  a pipe without a reader task
                await asyncio.sleep(0.001)
        return self.records()
