"""The supervisor against a zygote that fails as it is told; processes and sockets are real."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import cast

import aiohttp
import pytest
import pytest_asyncio

from infra.topology import AgentSpec, HealthCheck
from services.agent import pidfile
from services.agent.errors import CallError, Code
from services.agent.hostd_link import Registration
from services.agent.server import AgentServer
from services.agent.standing import StandingAnswer
from services.agent.zygote_client import Child
from services.control.agent_table import Phase
from services.hostd.agents import Supervisor
from services.hostd.config import EtcdEndpoint, HostConfig, StackHost, Supervision
from services.hostd.events import EventLog
from services.hostd.freezing import Freezer
from services.hostd.runner import AgentRunner
from services.hostd.zygote_client import Zygote
from tests.hostd.subjects import Subject


def sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sleep", "600"])


def hold(process: subprocess.Popen[bytes]) -> None:
    """By a signal, and it stands still when this returns."""
    process.send_signal(signal.SIGSTOP)
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WNOWAIT)


def deaf_sleeper() -> subprocess.Popen[bytes]:
    return subprocess.Popen(["sh", "-c", "trap '' TERM; exec sleep 600"])


def changed(process: subprocess.Popen[bytes]) -> str:
    """As what a process stopped or ended: its state in /proc."""
    os.waitid(os.P_PID, process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
    return Path(f"/proc/{process.pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()


class FakeZygote:
    """Makes `sleep` processes, and lets this test's event loop be the agent that they pretend to be."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.errors: list[CallError | None] = []
        self.made: dict[tuple[str, int], subprocess.Popen[bytes]] = {}
        self.servers: dict[str, AgentServer] = {}
        self.serving = True
        self.reachable = True

    async def fork(self, spec: AgentSpec, incarnation: int, env: dict[str, str]) -> Child:
        error = self.errors.pop(0) if self.errors else None
        if error is not None and error.definite:
            raise error
        process = self.made.get((spec.name, incarnation)) or sleeper()
        self.made[spec.name, incarnation] = process
        if self.serving:
            await self.serve(spec, incarnation)
        if error is not None:
            raise error
        return Child(spec.name, process.pid, incarnation, 1, os.pidfd_open(process.pid))

    async def serve(self, spec: AgentSpec, incarnation: int) -> AgentServer:
        server = AgentServer(
            Subject(spec, incarnation=incarnation), self.run / "agents" / f"{spec.name}.sock"
        )
        await server.start()
        self.servers[spec.name] = server
        return server

    async def find(self, name: str, incarnation: int) -> Child | None:
        process = self.made.get((name, incarnation))
        if process is None or process.poll() is not None:
            return None
        return Child(name, process.pid, incarnation, 0, os.pidfd_open(process.pid))

    async def exit_status(self, name: str, incarnation: int) -> int | None:
        return None

    def end(self) -> None:
        for process in self.made.values():
            process.kill()
            process.wait()


class Ground:
    def __init__(self, folder: Path, http: aiohttp.ClientSession, **supervision: int) -> None:
        (folder / "agents").mkdir(exist_ok=True)
        self.zygote = FakeZygote(folder)
        self.changes: list[str] = []
        self.events = EventLog("mainpc", None)
        config = HostConfig(
            stack="test",
            host="mainpc",
            address="127.0.0.1",
            run=str(folder),
            data=str(folder / "data"),
            pki=str(folder),
            hosts=(StackHost(name="mainpc", address="127.0.0.1"),),
            etcd=(EtcdEndpoint(host="mainpc", url="http://127.0.0.1:1"),),
            supervision=Supervision(**supervision),
        )
        self.supervisor = Supervisor(
            config,
            events=self.events,
            zygote=cast(Zygote, self.zygote),
            http=http,
            floor=1,
            on_change=self.changes.append,
            on_incarnation=lambda incarnation: None,
        )

    def names(self) -> list[str]:
        return [event.event for event in self.events.since(0)]

    async def up(self, name: str = "alpha", above: int = 0) -> int:
        runner = self.supervisor.runners[name]
        state = await runner.wait_for(lambda s: s.phase is Phase.UP and s.incarnation > above, 10)
        return state.incarnation


@pytest_asyncio.fixture
async def ground(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Ground]:
    async with aiohttp.ClientSession() as http:
        made = Ground(tmp_path_factory.mktemp("h"), http)
        try:
            yield made
        finally:
            made.supervisor.release()
            made.zygote.end()
            for server in made.zygote.servers.values():
                await server.stop()


def spec(name: str = "alpha", **more: object) -> AgentSpec:
    return AgentSpec(name=name, home="mainpc", category="c", handler="m:A", **more)  # type: ignore[arg-type]


def register(ground: Ground, name: str = "alpha") -> Registration:
    process = ground.supervisor.runners[name].process
    assert process is not None
    return Registration(name, process.incarnation, process.pid, (), (), {})


async def forked(ground: Ground, name: str = "alpha") -> Registration:
    runner = ground.supervisor.runners[name]
    await runner.wait_for(lambda state: state.phase is Phase.STARTING, 10)
    return register(ground, name)


async def test_it_is_up_once_it_registered_and_answered(ground: Ground) -> None:
    runner = ground.supervisor.apply(spec())
    registration = await forked(ground)
    assert runner.state.phase is Phase.STARTING
    await ground.supervisor.register(registration, registration.pid)
    assert await ground.up() == 1
    assert runner.instance().methods == ("block", "echo", "never", "read")
    assert ground.names() == ["forked", "registered", "validated"]


async def test_one_whose_registration_got_lost_is_asked(ground: Ground) -> None:
    ground.supervisor.apply(spec())
    assert await ground.up() == 1
    assert "registered" not in ground.names()


@pytest.mark.parametrize(
    ("code", "made"), [(Code.UNAVAILABLE, False), (Code.HANDLER_ERROR, False), (Code.INDETERMINATE, True)]
)
async def test_forks_that_fail_or_lose_their_answer(ground: Ground, code: Code, made: bool) -> None:
    ground.zygote.errors = [CallError(code, "as told")]
    ground.supervisor.apply(spec())
    assert await ground.up() == 1
    assert list(ground.zygote.made) == [("alpha", 1)], "exactly one process"
    assert ("fork-unknown" if made else "fork-failed") in ground.names()


async def test_one_fork_that_works_wakes_those_that_wait(ground: Ground) -> None:
    ground.zygote.errors = [CallError(Code.UNAVAILABLE, "as told")] * 6
    waiting = ground.supervisor.apply(spec())
    await waiting.wait_for(lambda state: state.fork_failures == 6, 10)
    ground.supervisor.apply(spec("beta"))
    await ground.up("beta")
    assert waiting.state.phase is not Phase.BACKOFF


async def test_an_exit_is_published_and_forked_in_the_same_turn(ground: Ground) -> None:
    runner = ground.supervisor.apply(spec())
    await ground.up()
    ground.changes.clear()
    ground.zygote.made["alpha", 1].kill()
    await runner.wait_for(lambda state: state.phase is Phase.FORKING, 10)
    assert ground.changes == ["alpha"]
    assert runner.instance().state == "down"
    assert await ground.up(above=1) == 2
    assert ground.supervisor.restarts == {("alpha", "crash"): 1}


async def test_a_silent_socket_makes_it_unhealthy_then_killed_then_new(ground: Ground) -> None:
    health = HealthCheck(interval_ms=40, timeout_ms=20, unhealthy_after=2)
    runner = ground.supervisor.apply(spec(health=health))
    await ground.up()
    await ground.zygote.servers["alpha"].stop()  # the process lives on, nobody answers
    await runner.wait_for(lambda state: state.phase is Phase.UNHEALTHY, 10)
    assert runner.instance().state == "unhealthy"
    assert await ground.up(above=1) == 2
    said = [name for name in ground.names() if name in ("unhealthy", "killed", "exited")]
    assert said == ["unhealthy", "killed", "exited"]
    assert ground.supervisor.restarts == {("alpha", "hang"): 1}


async def test_a_connection_that_breaks_is_made_again_without_a_miss(ground: Ground) -> None:
    runner = ground.supervisor.apply(spec(health=HealthCheck(interval_ms=40, timeout_ms=500)))
    await ground.up()
    for connection in list(ground.zygote.servers["alpha"]._connections):
        connection.close()
    link = runner.check.link  # type: ignore[union-attr]
    async with asyncio.timeout(10):
        while runner.check.link is link:  # type: ignore[union-attr]  # noqa: ASYNC110 - no event tells it
            await asyncio.sleep(0.01)
    assert (runner.state.phase, runner.state.missed) == (Phase.UP, 0)


async def test_strangers_are_refused(ground: Ground) -> None:
    ground.supervisor.apply(spec())
    real = await forked(ground)
    for registration, pid in (
        (Registration("nobody", 1, real.pid, (), (), {}), real.pid),
        (Registration("alpha", 7, real.pid, (), (), {}), real.pid),
        (Registration("alpha", 0, real.pid, (), (), {}), real.pid),
        (real, os.getpid()),
    ):
        with pytest.raises(CallError):
            await ground.supervisor.register(registration, pid)
    with pytest.raises(CallError):
        ground.supervisor.deregister("alpha", 1, os.getpid())
    assert "registered" not in ground.names()


async def test_an_impostor_behind_the_socket_is_not_validated(ground: Ground) -> None:
    ground.zygote.serving = False
    await ground.zygote.serve(spec(), incarnation=99)
    runner = ground.supervisor.apply(spec())
    registration = await forked(ground)
    await ground.supervisor.register(registration, registration.pid)
    with pytest.raises(TimeoutError):
        await runner.wait_for(lambda state: state.phase is Phase.UP, 0.5)


async def test_removed_and_defined_again_the_number_goes_on(ground: Ground) -> None:
    ground.supervisor.apply(spec())
    first = await ground.up()
    await ground.supervisor.remove("alpha")
    assert "alpha" not in ground.supervisor.runners
    assert ground.zygote.made["alpha", first].wait(5) is not None
    ground.supervisor.apply(spec())
    assert await ground.up() > first


async def test_what_runs_is_adopted_and_what_nobody_wants_is_ended(ground: Ground) -> None:
    folder = ground.zygote.run / "agents"
    for name, incarnation in (("alpha", 41), ("orphan", 5)):
        process = sleeper()
        ground.zygote.made[name, incarnation] = process
        pidfile.write(folder / f"{name}.pid", process.pid, incarnation)
    (folder / "dead.pid").write_text(f"{os.getpid()} 1 3\n")  # a number that has changed hands
    await ground.zygote.serve(spec(), incarnation=41)
    ground.supervisor.find_running()
    assert not ground.supervisor.runs("dead")
    runner = ground.supervisor.apply(spec())
    assert runner.state.phase is Phase.STARTING
    assert await ground.up() == 41
    assert ground.supervisor.kill_unclaimed() == ("orphan",)
    assert ground.zygote.made["orphan", 5].wait(5) == -9
    assert "forked" not in ground.names()


async def test_one_that_a_signal_holds_still_is_ended_at_once_when_it_is_not_wanted(ground: Ground) -> None:
    ground.supervisor.apply(spec())
    await ground.up()
    process = ground.zygote.made["alpha", 1]
    hold(process)
    await ground.supervisor.remove("alpha")
    assert process.wait() == -signal.SIGKILL
    assert "killed" not in ground.names(), "nobody waited for it"


async def test_one_that_a_signal_holds_still_while_it_ends_is_ended(ground: Ground) -> None:
    patient = deaf_sleeper()
    ground.zygote.made["alpha", 1] = patient
    ground.supervisor.apply(spec())
    await ground.up()
    removal = asyncio.create_task(ground.supervisor.remove("alpha"))
    await ground.supervisor.runners["alpha"].wait_for(lambda state: state.phase is Phase.DRAINING, 10)
    assert patient.poll() is None
    hold(patient)
    await removal
    assert patient.wait() == -signal.SIGKILL
    assert "killed" not in ground.names(), "nobody waited for it"


@pytest.mark.parametrize(
    ("acting", "lost", "ends_as"),
    [(None, False, "T"), (True, False, "T"), (None, True, "Z"), (True, True, "Z"), (False, True, "S")],
)
async def test_who_does_not_stop_at_the_deadline_is_held_still_or_ended_if_it_was_lost_meanwhile(
    ground: Ground, acting: bool | None, lost: bool, ends_as: str
) -> None:
    runner = ground.supervisor.apply(spec())
    await ground.up()
    process = ground.zygote.made["alpha", 1]

    async def answer(runner: AgentRunner) -> StandingAnswer | None:
        return None if acting is None else StandingAnswer(1, acting, 1)

    await Freezer(ground.events, answer, lambda: False, lambda runner: lost).freeze_unless_fenced(runner)
    if ends_as == "S":
        assert process.poll() is None
        return
    assert changed(process) == ends_as


@pytest.mark.parametrize("held", [True, False])
async def test_one_that_is_held_still_is_ended_when_another_host_serves_it(
    ground: Ground, held: bool
) -> None:
    runner = ground.supervisor.apply(spec())
    await ground.up()
    process = ground.zygote.made["alpha", 1]

    async def silent(runner: AgentRunner) -> None:
        return None

    if held:  # by the watchdog, say: not by the freezer itself
        hold(process)
    Freezer(ground.events, silent, lambda: False, lambda runner: True).end(runner)
    if held:
        await ground.up(above=1)
        assert process.wait() == -signal.SIGKILL
    else:
        assert process.poll() is None


async def test_it_has_what_is_wanted_or_lacks_or_holds_something(ground: Ground) -> None:
    wanted = {"alpha": spec()}
    assert not ground.supervisor.has(wanted), "nothing runs yet"
    ground.supervisor.apply(wanted["alpha"])
    assert ground.supervisor.has(wanted)
    assert ground.supervisor.has({"alpha": spec()}), "the same definition, read again"
    assert not ground.supervisor.has({"alpha": spec(memory_mb=99)}), "another definition"
    assert not ground.supervisor.has({}), "too many"
    assert not ground.supervisor.has({**wanted, "beta": spec("beta")}), "too few"
    ground.supervisor.runners["alpha"].stop()
    assert not ground.supervisor.has(wanted), "it is on its way out"
