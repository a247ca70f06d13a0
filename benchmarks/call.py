"""`call`: CPU and latency of a call with a body of about 1.9 KB on one host, against HTTP.

CPU counts client and server together (user and system). All sides take turns in short rounds, and every side
decodes into the same type with the same library, so what differs is the way. On a busy machine every figure
grows: between two calls others empty the caches.
"""

from __future__ import annotations

import asyncio
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import aiohttp
import msgspec

from benchmarks.call_agent import Document, document
from benchmarks.fleet import HOST, fleet
from benchmarks.harness import Figure, figure, main, precise_cpu_s, quantile
from infra.topology import AgentSpec
from services.agent.client import Client
from services.agent.loop import new_event_loop

ROUNDS = 40
OURS, KEPT, FRESH = 480, 96, 16
AT_ONCE = 16


@dataclass
class Side:
    """One way of calling: how often per round, and what it cost."""

    call: Callable[[], Awaitable[object]]
    server_pid: int
    per_round: int
    at_once: int = 1
    cpu_per_call_s: list[float] = field(default_factory=list)
    latencies_s: list[float] = field(default_factory=list)

    async def round(self) -> None:
        """`per_round` calls, `at_once` of them in flight."""
        before = time.process_time() + precise_cpu_s(self.server_pid)
        await asyncio.gather(*(self._some(self.per_round // self.at_once) for _ in range(self.at_once)))
        spent_s = time.process_time() + precise_cpu_s(self.server_pid) - before
        self.cpu_per_call_s.append(spent_s / (self.per_round // self.at_once * self.at_once))

    async def _some(self, number: int) -> None:
        for _ in range(number):
            began = time.perf_counter()
            await self.call()
            self.latencies_s.append(time.perf_counter() - began)

    @property
    def cpu_us(self) -> float:
        """CPU per call, both processes: the median of the rounds."""
        return statistics.median(self.cpu_per_call_s) * 1e6

    @property
    def least_cpu_us(self) -> float:
        """CPU per call in the round that was disturbed least."""
        return min(self.cpu_per_call_s) * 1e6

    def latency_us(self, q: float) -> float:
        """A quantile of the latency."""
        return quantile(self.latencies_s, q) * 1e6


def measure() -> Sequence[Figure]:
    """The figures."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(_measure())


async def _measure() -> Sequence[Figure]:
    echo = AgentSpec(name="echo", home=HOST, category="bench", handler="benchmarks.call_agent:EchoAgent")
    body = document()
    async with fleet(zygote=True) as running:
        with _http_server() as (port, http_pid):
            await running.fork([echo])
            await running.ready(["echo"])
            running.publish([echo])
            async with Client(running.run, HOST) as client, aiohttp.ClientSession() as session:
                url = f"http://127.0.0.1:{port}/echo"

                async def ours() -> object:
                    return msgspec.convert(await client.call("echo", "echo", body), Document)

                async def short() -> object:
                    return msgspec.convert(await client.call("echo", "echo_short", body), Document)

                async def kept() -> object:
                    return await _post(session, url, body)

                async def fresh() -> object:
                    async with aiohttp.ClientSession() as once:
                        return await _post(once, url, body)

                agent_pid = running.pids["echo"]
                sides = [
                    Side(ours, agent_pid, OURS),
                    Side(kept, http_pid, KEPT),
                    Side(fresh, http_pid, FRESH),
                    Side(short, agent_pid, OURS),
                    Side(ours, agent_pid, OURS, AT_ONCE),
                    Side(kept, http_pid, KEPT, AT_ONCE),
                ]
                for call in (ours, short, kept, fresh):
                    for _ in range(50):
                        assert await call() == body
                for _ in range(ROUNDS):
                    for side in sides:
                        await side.round()
    mine, alive, new, brief, mine_many, alive_many = sides
    kept_name, fresh_name = "aiohttp, kept alive", "aiohttp, new client per call"
    size = len(msgspec.msgpack.encode(body))
    return (
        figure("call", f"CPU, client and server ({size} B body)", "µs", mine.cpu_us, new.cpu_us, fresh_name),
        figure("call", f"CPU, client and server ({size} B body)", "µs", mine.cpu_us, alive.cpu_us, kept_name),
        figure("call", "CPU, quietest round", "µs", mine.least_cpu_us, alive.least_cpu_us, kept_name),
        figure("call", "CPU, handler without a task", "µs", brief.cpu_us, alive.cpu_us, kept_name),
        figure("call", f"CPU, {AT_ONCE} in flight", "µs", mine_many.cpu_us, alive_many.cpu_us, kept_name),
        figure("call", "latency p50", "µs", mine.latency_us(0.5), new.latency_us(0.5), fresh_name),
        figure("call", "latency p50", "µs", mine.latency_us(0.5), alive.latency_us(0.5), kept_name),
        figure("call", "latency p99", "µs", mine.latency_us(0.99), alive.latency_us(0.99), kept_name),
    )


async def _post(session: aiohttp.ClientSession, url: str, body: Document) -> object:
    async with session.post(url, data=msgspec.json.encode(body)) as response:
        return msgspec.json.decode(await response.read(), type=Document)


@contextmanager
def _http_server() -> Iterator[tuple[int, int]]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.call_agent", str(port)], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    try:
        process.stdout.readline()
        # "ready" comes just before the socket listens.
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.01)
        yield port, process.pid
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    sys.exit(main("call", measure))
