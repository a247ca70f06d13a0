"""What the tests of agents, clients and gateway share: a short run folder, a fake view, a small agent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from infra.topology import AgentSpec
from services.agent.errors import AgentError
from services.agent.line import Patience
from services.agent.sdk import Agent, method
from services.agent.server import AgentServer
from services.registry.model import (
    Instance,
    InstanceState,
    Resolution,
    Role,
    SnapshotError,
    Transport,
    UnknownAgent,
)


@contextmanager
def run_folder() -> Iterator[Path]:
    """A folder with a path short enough for sockets, gone afterwards."""
    with TemporaryDirectory(prefix="3n", dir="/tmp") as name:
        yield Path(name)


def spec(name: str = "worker", **changes: object) -> AgentSpec:
    values: dict[str, object] = {"name": name, "home": "mainpc", "category": "test", **changes}
    return msgspec.convert(values, AgentSpec)


def instance(name: str = "worker", **changes: object) -> Instance:
    values: dict[str, object] = {
        "name": name,
        "host": "mainpc",
        "incarnation": 1,
        "state": InstanceState.UP,
        "role": Role.PRIMARY,
        "transport": Transport.UNIX,
        "methods": ("work", "add"),
        "idempotent": ("work",),
        **changes,
    }
    return msgspec.convert(values, Instance)


class FakeView:
    """A discovery snapshot as the test wants it: `instances` by name, or broken."""

    def __init__(self) -> None:
        self.instances: dict[str, tuple[Instance, ...]] = {}
        self.broken = False
        self.last: dict[str, Resolution] = {}

    def __call__(self, path: Path, host: str | None) -> FakeView:
        return self

    def put(self, *instances: Instance) -> None:
        self.instances[instances[0].name] = instances

    def resolve(self, name: str) -> Resolution:
        if self.broken:
            raise SnapshotError("discovery.snap", "cut short", "restart hostd")
        if name not in self.instances:
            raise UnknownAgent(name)
        self.last[name] = Resolution(
            name=name, revision=1, generation=1, stale=False, age_ms=0.0, instances=self.instances[name]
        )
        return self.last[name]

    def last_good(self, name: str) -> Resolution | None:
        last = self.last.get(name)
        return None if last is None else msgspec.structs.replace(last, stale=True)

    def close(self) -> None:
        pass


class Sum(msgspec.Struct):
    numbers: list[int]


class Worker(Agent):
    """An agent that does on request whatever a test needs, and tells when."""

    concurrency = 4

    def __init__(self, *arguments: object, **named: object) -> None:
        super().__init__(*arguments, **named)  # type: ignore[arg-type]
        self.total = 0
        self.entered = asyncio.Event()
        self.release = asyncio.Event()
        self.cancelled = 0
        self.events: list[str] = []

    async def on_start(self) -> None:
        self.events.append("start")

    async def on_stop(self) -> None:
        self.events.append("stop")

    @method(idempotent=True)
    async def work(self, request: Sum) -> int:
        return sum(request.numbers)

    @method()
    async def add(self, request: int) -> int:
        self.total += request
        return self.total

    @method(idempotent=True)
    def quick(self) -> str:
        return "at once"

    @method()
    async def block(self) -> str:
        self.entered.set()
        try:
            await self.release.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        return "released"

    @method()
    async def stubborn(self) -> None:
        self.entered.set()
        while not self.release.is_set():
            try:
                await self.release.wait()
            except asyncio.CancelledError:
                self.cancelled += 1

    @method()
    async def boom(self) -> None:
        raise RuntimeError("the reason\nand a second line")

    @method()
    def sync_boom(self) -> None:
        raise KeyError("missing")

    @method()
    async def refuse(self) -> None:
        raise AgentError("not today")

    @method()
    async def unspeakable(self) -> object:
        return object()

    @method()
    async def huge(self) -> bytes:
        return bytes(2 << 20)

    @method()
    async def chain(self, request: float) -> object:
        return await self.call("other", "block", timeout_s=request)


async def until(true: Callable[[], bool]) -> None:
    """Waits for what no event tells, at most 20 s."""
    async with asyncio.timeout(20):
        while not true():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


@asynccontextmanager
async def serving(
    run: Path,
    name: str = "worker",
    cls: type[Agent] = Worker,
    incarnation: int = 1,
    drain_limit_s: float = 5.0,
    patience: Patience | None = None,
) -> AsyncIterator[AgentServer]:
    """An agent's server in this loop."""
    agent = cls(spec(name), incarnation=incarnation)
    path = run / "agents" / f"{name}.sock"
    server = AgentServer(agent, path, drain_limit_s=drain_limit_s, patience=patience)
    await server.start()
    try:
        yield server
    finally:
        if isinstance(agent, Worker):
            agent.release.set()
        await server.stop()
