"""The zygote as a process: forks, adoption, exits, bad requests."""

from __future__ import annotations

import asyncio
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from services.agent import pidfile
from services.agent.blocking import BlockingClient
from services.agent.channel import open_unix
from services.agent.connection import Scratch
from services.agent.errors import CallError, Code
from services.agent.wire import Request, encode, pack, unpack
from services.agent.zygote_client import Child, ZygoteClient
from tests.agent.kit import FakeView, instance, run_folder, spec, until

ECHO = "services.agent.reference:MemoryAgent"


@contextmanager
def zygote(run: Path) -> Iterator[subprocess.Popen[bytes]]:
    environment = {**os.environ, "THREENINES_RUN": str(run), "THREENINES_HOST": "mainpc"}
    environment["PYTHONPATH"] = str(run)  # where a test may put a module of its own
    process = subprocess.Popen([sys.executable, "-m", "services.agent.zygote"], env=environment)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


async def listening(run: Path) -> ZygoteClient:
    async def once() -> bool:
        try:
            (await open_unix(run / "zygote.sock", Scratch(), timeout_s=1)).close()
        except CallError:
            return False
        return True

    async with asyncio.timeout(20):
        while not await once():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    return ZygoteClient(run / "zygote.sock")


class Nest:
    """A run folder with a zygote, and every agent that came from it."""

    def __init__(self, run: Path, client: ZygoteClient) -> None:
        self.run = run
        self.client = client
        self.children: list[Child] = []

    async def fork(self, name: str, incarnation: int = 1, **changes: object) -> Child:
        changes = {"handler": ECHO, **changes}
        child = await self.client.fork(
            spec(name, **changes), incarnation, {"THREENINES_LOG": str(self.run / f"{name}.log")}
        )
        self.children.append(child)
        return child

    async def ready(self, name: str) -> None:
        await until((self.run / "agents" / f"{name}.sock").exists)

    def log(self, name: str) -> str:
        return (self.run / f"{name}.log").read_text()


@pytest.fixture
async def nest() -> AsyncIterator[Nest]:
    with run_folder() as run, zygote(run):
        nest = Nest(run, await listening(run))
        try:
            yield nest
        finally:
            for child in nest.children:
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
                await ended(child)
                os.close(child.pidfd)


def text(path: str) -> str:
    return Path(path).read_text()


async def ended(child: Child) -> None:
    await until(lambda: bool(select.select([child.pidfd], [], [], 0)[0]))


def ask(run: Path, name: str, method: str, body: object = None) -> Any:
    view = FakeView()
    view.put(instance(name))
    with BlockingClient(run, "mainpc", open_view=view) as client:
        return client.call(name, method, body)


async def test_a_fork_serves_as_a_process_of_its_own(nest: Nest) -> None:
    child = await nest.fork("alpha", 7, settings={"work_us": 1})
    await nest.ready("alpha")
    answer = await asyncio.to_thread(ask, nest.run, "alpha", "ask", {"text": "hello"})
    assert answer["chain"] == ["alpha"]
    assert answer["incarnation"] == 7
    assert child.forked_ns > 0
    assert text(f"/proc/{child.pid}/comm") == "alpha\n"
    assert os.getsid(child.pid) == child.pid
    assert pidfile.read(nest.run / "agents" / "alpha.pid") == pidfile.PidFile(
        child.pid, pidfile.start_ticks(child.pid), 7
    )
    files = [os.readlink(f"/proc/{child.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{child.pid}/fd")]
    assert sum(file.startswith("socket:") for file in files) <= 4  # listener, self-pipe: none of the zygote's
    assert not any("pidfd" in file for file in files)
    assert str(nest.run / "alpha.log") in files


async def test_siblings_do_not_share_their_randomness(nest: Nest) -> None:
    (nest.run / "dice.py").write_text(
        "import random\nfrom services.agent.sdk import Agent, method\n"
        "class Dice(Agent):\n    @method()\n    def roll(self) -> float:\n        return random.random()\n"
    )
    rolls = set()
    for name in ("one", "two"):
        await nest.fork(name, handler="dice:Dice")
        await nest.ready(name)
        rolls.add(await asyncio.to_thread(ask, nest.run, name, "roll"))
    assert len(rolls) == 2


async def test_a_repeated_fork_makes_no_second_child(nest: Nest) -> None:
    first = await nest.fork("alpha", 1)
    again = await nest.fork("alpha", 1)
    newer = await nest.fork("alpha", 2)
    assert first.pid == again.pid != newer.pid
    assert sorted((c.name, c.pid, c.incarnation) for c in await listed(nest)) == sorted(
        [("alpha", first.pid, 1), ("alpha", newer.pid, 2)]
    )


async def listed(nest: Nest) -> list[Child]:
    children = await nest.client.list()
    for child in children:
        os.close(child.pidfd)
    return children


async def test_an_exit_is_told_and_its_pid_file_removed(nest: Nest) -> None:
    killed, stopped = await nest.fork("killed"), await nest.fork("stopped")
    await nest.ready("stopped")
    os.kill(killed.pid, signal.SIGKILL)
    os.kill(stopped.pid, signal.SIGTERM)
    await ended(killed)
    await ended(stopped)
    await until(lambda: not list((nest.run / "agents").glob("*.pid")))
    assert {(one.name, one.pid, one.status) for one in await nest.client.exits()} == {
        ("killed", killed.pid, -signal.SIGKILL),
        ("stopped", stopped.pid, 0),
    }
    assert await listed(nest) == []
    assert not (nest.run / "agents" / "stopped.sock").exists()


@pytest.mark.parametrize(
    "handler", ["nowhere.module:Agent", "services.agent.reference:Nobody", "services.agent.sdk"]
)
async def test_a_handler_that_cannot_be_had_exits_78_with_a_line(nest: Nest, handler: str) -> None:
    child = await nest.fork("broken", handler=handler)
    await ended(child)
    await until(lambda: bool(nest.log("broken")))
    assert handler in nest.log("broken")
    assert "Traceback" not in nest.log("broken")
    assert [one.status for one in await nest.client.exits()] == [78]


async def test_agents_outlive_their_zygote_and_are_adopted_by_the_next() -> None:
    with run_folder() as run:
        with zygote(run):
            old = Nest(run, await listening(run))
            child = await old.fork("alpha", 5)
            gone = await old.fork("gone", 1)
            await old.ready("alpha")
        os.kill(gone.pid, signal.SIGKILL)
        await ended(gone)
        try:
            assert (run / "agents" / "gone.pid").exists()
            with zygote(run):
                client = await listening(run)
                (adopted,) = await client.list()
                assert (adopted.name, adopted.pid, adopted.incarnation) == ("alpha", child.pid, 5)
                answer = await asyncio.to_thread(ask, run, "alpha", "_ping")
                assert answer == {"incarnation": 5, "state": "up"}
                again = await client.fork(spec("alpha", handler=ECHO), 5, {})
                assert again.pid == child.pid
                signal.pidfd_send_signal(adopted.pidfd, signal.SIGTERM)
                await ended(adopted)
                await until(lambda: not list((run / "agents").glob("*.pid")))
                assert await client.list() == []
                for pidfd in (again.pidfd, adopted.pidfd):
                    os.close(pidfd)
        finally:
            for one in (child, gone):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(one.pidfd, signal.SIGKILL)
                os.close(one.pidfd)


async def test_a_second_zygote_refuses_to_start(nest: Nest) -> None:
    environment = {**os.environ, "THREENINES_RUN": str(nest.run)}
    second = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "services.agent.zygote"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert second.returncode == 3
    assert second.stderr.count("\n") == 1
    assert second.stderr.startswith("threenines: zygote:")
    await nest.fork("alpha")


BAD = [
    ("fork", b"\xc1", Code.BAD_REQUEST),
    ("fork", pack({"spec": 1}), Code.BAD_REQUEST),
    ("fork", pack({"spec": {"name": "x", "home": "a", "category": "c"}, "incarnation": 1}), Code.BAD_REQUEST),
    ("nothing", pack(None), Code.NO_METHOD),
]


@pytest.mark.parametrize(("method", "body", "code"), BAD)
async def test_bad_requests_are_survived(nest: Nest, method: str, body: object, code: Code) -> None:
    import msgspec

    channel = await open_unix(nest.run / "zygote.sock", Scratch(), timeout_s=5)
    with pytest.raises(CallError) as caught:
        await channel.request("zygote", method, msgspec.Raw(body), timeout_s=5)  # type: ignore[call-overload]
    # A body that is no msgpack breaks the frame that it is part of.
    assert caught.value.code == (Code.INDETERMINATE if body == b"\xc1" else code)
    channel.close()
    await nest.fork("alpha")


async def test_hostile_connections_are_survived(nest: Nest) -> None:
    connections = []
    for payload in (
        b"\xff\xff\xff\xff",
        b"\x00\x00",
        b"",
        encode(Request(1, "zygote", "list", 1000, pack(None))),
    ):
        for _ in range(20):
            connection = socket.socket(socket.AF_UNIX)
            connection.connect(str(nest.run / "zygote.sock"))
            with suppress(BrokenPipeError):
                connection.send(payload)
            connections.append(connection)
    await nest.fork("alpha")
    for connection in connections:
        connection.close()
    assert [child.name for child in await listed(nest)] == ["alpha"]


async def test_a_list_longer_than_one_message_of_descriptors(nest: Nest) -> None:
    names = [f"s{number}" for number in range(260)]
    for name in names:
        child = await nest.client.fork(spec(name, command=("sleep", "60"), port=1), 1, {})
        nest.children.append(child)
    children = await nest.client.list()
    assert sorted(child.name for child in children) == sorted(names)
    for child in children:
        assert f"Pid:\t{child.pid}\n" in text(f"/proc/self/fdinfo/{child.pidfd}")
        os.close(child.pidfd)


async def test_a_program_gets_host_and_port(nest: Nest) -> None:
    code = (
        "import os, json; e = os.environ\n"
        "print(json.dumps([e['HOST'], e['PORT'], os.getsid(0) == os.getpid()]))"
    )
    child = await nest.fork("program", handler=None, command=("python", "-c", code), port=8123)
    await ended(child)
    await until(lambda: nest.log("program").endswith("\n"))
    assert json.loads(nest.log("program")) == ["127.0.0.1", "8123", True]


async def test_a_program_that_is_not_there_exits_78_with_a_line(nest: Nest) -> None:
    child = await nest.fork("program", handler=None, command=("no-such-program",), port=8123)
    await ended(child)
    await until(lambda: nest.log("program").endswith("\n"))
    assert nest.log("program") == "program: cannot execute no-such-program: No such file or directory\n"


async def test_its_metrics(nest: Nest) -> None:
    await nest.fork("alpha")
    channel = await open_unix(nest.run / "zygote.sock", Scratch(), timeout_s=5)
    answer = unpack(await channel.request("zygote", "_metrics", pack(None), timeout_s=5))
    assert "threenines_zygote_children 1\n" in answer
    channel.close()
