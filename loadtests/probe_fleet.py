"""Watching the answers for the whole fleet: who serves how many agents, and who is served by nobody.

One cheap read tells whether the view is another one than last time; only then every name is looked up.
"""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec

from loadtests.probe_output import Output
from loadtests.protocol import Fleet, Picture
from loadtests.record import Kind, now_ns
from services.agent.client import Client
from services.agent.errors import CallError

MISSING_SHOWN = 8


class FleetWatch:
    """At most one watch of the fleet. A record's `ok` time is the end of the reads that saw the change."""

    def __init__(self, output: Output, client: Client) -> None:
        self._output = output
        self._client = client
        self._task: asyncio.Task[None] | None = None

    def watch(self, command: Fleet) -> None:
        """Begins to look at these names, or ends it when there are none."""
        self.close()
        if command.names:
            self._task = asyncio.create_task(self._run(command.names, command.interval_ms / 1000.0))

    def close(self) -> None:
        """Ends it."""
        if self._task is not None:
            self._task.cancel()
            self._task = None

    async def _run(self, names: tuple[str, ...], interval_s: float) -> None:
        mark: tuple[int, bool] | None = None
        seen: tuple[dict[str, int], int, bool] | None = None
        last_ns = gap_ns = reads = 0
        while True:
            begin_ns = now_ns()
            found = self._mark(names[0])
            if found != mark or found is None:
                mark = found
                picture = self._look(names, stale=found is None or found[1])
                end_ns = now_ns()
                told = (picture.serving, picture.unserved, picture.stale)
                if told != seen:
                    seen = told
                    self._record(picture, begin_ns, end_ns, reads + 1, gap_ns)
                    reads = gap_ns = 0
            end_ns = now_ns()
            reads += 1
            if last_ns:
                gap_ns = max(gap_ns, end_ns - last_ns)
            last_ns = end_ns
            await asyncio.sleep(interval_s)

    def _mark(self, name: str) -> tuple[int, bool] | None:
        try:
            found = self._client.resolve(name)
        except CallError:
            return None
        return found.generation, found.stale

    def _look(self, names: tuple[str, ...], *, stale: bool) -> Picture:
        serving: Counter[str] = Counter()
        missing: list[str] = []
        for name in names:
            try:
                instances = self._client.resolve(name).instances
            except CallError:
                instances = ()
            if instances:
                serving[instances[0].host] += 1
            else:
                missing.append(name)
        return Picture(
            serving=dict(sorted(serving.items())),
            unserved=len(missing),
            missing=tuple(missing[:MISSING_SHOWN]),
            stale=stale,
        )

    def _record(self, picture: Picture, begin_ns: int, end_ns: int, reads: int, gap_ns: int) -> None:
        process = f"fleet-{self._output.host}"
        told = msgspec.structs.replace(picture, reads=reads, longest_gap_ms=gap_ns / 1e6)
        self._output.invoke(process, "fleet", None, time_ns=begin_ns)
        self._output.end(process, Kind.OK, "fleet", None, told, end_ns)
