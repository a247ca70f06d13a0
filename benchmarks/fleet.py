"""A fleet without hosts: agents on this machine, from a zygote or as interpreters of their own."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from infra.topology import AgentSpec, load_fleet
from services.agent.channel import open_unix
from services.agent.connection import Scratch
from services.agent.errors import CallError
from services.agent.sdk import load_agent, methods_of
from services.agent.wire import NIL
from services.agent.zygote_client import ZygoteClient
from services.registry.model import Entry, Instance, InstanceState
from services.registry.snapshot import SnapshotWriter

HOST = "bench"
READY_LIMIT_S = 120.0
ROOT = Path(__file__).parent.parent


def reference_specs() -> list[AgentSpec]:
    """The SDK agents of the reference fleet, all on one host; programs (`command:`) are left out."""
    fleet = load_fleet(ROOT / "fleet.yaml")
    ours = [agent for agent in fleet.agents if agent.handler is not None]
    names = {agent.name for agent in ours}
    return [
        msgspec.structs.replace(
            agent, home=HOST, standby=None, depends_on=tuple(n for n in agent.depends_on if n in names)
        )
        for agent in ours
    ]


class Fleet:
    """Running agents: `pids` by name. Publishes a snapshot of them in `run`."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.pids: dict[str, int] = {}
        self.zygote_pid: int | None = None
        self._writer: SnapshotWriter | None = None

    def environment(self) -> dict[str, str]:
        """What the programs of this fleet are started with."""
        return {**os.environ, "THREENINES_RUN": str(self.run), "THREENINES_HOST": HOST}

    def start_zygote(self) -> subprocess.Popen[bytes]:
        """The zygote; it listens soon."""
        return subprocess.Popen(
            [sys.executable, "-m", "services.agent.zygote"], env=self.environment(), cwd=ROOT
        )

    async def fork(self, specs: Iterable[AgentSpec]) -> None:
        """All agents from the zygote, as fast as it goes."""
        client = ZygoteClient(self.run / "zygote.sock")
        for spec in specs:
            log = {"THREENINES_LOG": str(self.run / "agents.log")}
            child = await client.fork(spec, 1, log)
            os.close(child.pidfd)
            self.pids[spec.name] = child.pid

    def spawn(self, specs: Iterable[AgentSpec]) -> list[subprocess.Popen[bytes]]:
        """Each agent in an interpreter of its own."""
        processes = []
        with (self.run / "agents.log").open("ab") as log:
            for spec in specs:
                path = self.run / f"{spec.name}.json"
                path.write_bytes(msgspec.json.encode(spec))
                process = subprocess.Popen(
                    [sys.executable, "-m", "services.agent", str(path)],
                    env=self.environment(),
                    stdout=log,
                    stderr=log,
                )
                processes.append(process)
                self.pids[spec.name] = process.pid
        return processes

    async def ready(self, names: Iterable[str]) -> None:
        """Until every agent has answered a ping."""
        async with asyncio.timeout(READY_LIMIT_S):
            for name in names:
                while not await self._answers(name):  # noqa: ASYNC110
                    await asyncio.sleep(0.005)

    async def _answers(self, name: str) -> bool:
        try:
            channel = await open_unix(self.run / "agents" / f"{name}.sock", Scratch(), timeout_s=5)
        except CallError:
            return False
        try:
            await channel.request(name, "_ping", NIL, timeout_s=5)
        except CallError:
            return False
        finally:
            channel.close()
        return True

    def publish(self, specs: Iterable[AgentSpec]) -> None:
        """Makes the agents resolvable."""
        self._writer = SnapshotWriter(self.run / "discovery.snap")
        self._writer.publish({spec.name: _entry(spec) for spec in specs}, revision=1, fresh_for_ms=3_600_000)

    def close(self) -> None:
        """Ends every agent."""
        for pid in self.pids.values():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self._writer is not None:
            self._writer.close()


def _entry(spec: AgentSpec) -> Entry:
    methods = methods_of(load_agent(spec.handler or ""))
    one = Instance(
        name=spec.name,
        host=HOST,
        incarnation=1,
        state=InstanceState.UP,
        category=spec.category,
        criticality=spec.criticality,
        methods=tuple(methods),
        idempotent=tuple(name for name, method in methods.items() if method.idempotent),
    )
    return Entry(name=spec.name, instances=(one,))


@asynccontextmanager
async def fleet(*, zygote: bool) -> AsyncIterator[Fleet]:
    """A fleet to be filled; everything ends with the block."""
    with TemporaryDirectory(prefix="3nb", dir="/tmp") as name:
        made = Fleet(Path(name))
        (made.run / "agents").mkdir()
        process: subprocess.Popen[bytes] | None = None
        try:
            if zygote:
                process = made.start_zygote()
                made.zygote_pid = process.pid
                async with asyncio.timeout(READY_LIMIT_S):
                    while not (made.run / "zygote.sock").exists():  # noqa: ASYNC110
                        await asyncio.sleep(0.005)
            yield made
        finally:
            made.close()
            if process is not None:
                process.kill()
                process.wait()
