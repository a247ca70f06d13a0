"""Hosts are lost, frozen and come back, with real servers: who serves, what was acknowledged, no overlap."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from infra.topology import AgentSpec, Criticality, HealthCheck, HealthKind
from services.agent.wire import Failure, FrameDecoder, Request, encode, pack
from services.registry.domains import DomainStore, NotPerformed, Performed
from services.registry.etcd import EtcdClient
from services.registry.etcd_types import Endpoint
from services.registry.keys import Keys
from tests.hostd.mini import MiniHost, MiniStack, etcd_path, free_port, wait_for

pytestmark = pytest.mark.live
REMEMBER, RECALL = "remember", "recall"


def memory(name: str = "alpha", home: str = "mainpc", standby: str = "pc2", **more: object) -> AgentSpec:
    return AgentSpec(
        name=name,
        home=home,
        standby=standby,
        category="test",
        handler="services.agent.reference:MemoryAgent",
        **more,  # type: ignore[arg-type]
    )


@pytest.fixture
def owned() -> Iterator[MiniStack]:
    """Two hosts with ownership on, running."""
    if etcd_path() is None:
        pytest.skip("no etcd here; `make setup` brings it")
    with MiniStack(("mainpc", "pc2"), more={"ownership": True}) as stack:
        try:
            stack.start()
            yield stack
        except BaseException:
            print(*stack.logs(), sep="\n")
            raise


def processes(host: MiniHost) -> list[int]:
    """Everything of a host: its servers, its agents, its watchdog."""
    pids = [process.pid for process in host.processes.values()]
    for path in (*(host.run / "agents").glob("*.pid"), host.run / "watchdog.lock"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid, ticks = path.read_text().split()[:2]
            if Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19].decode() == ticks:
                pids.append(int(pid))
    return pids


def signal_all(host: MiniHost, number: signal.Signals) -> None:
    for pid in processes(host):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def lose(host: MiniHost) -> None:
    """The host is gone, at once."""
    signal_all(host, signal.SIGKILL)
    for process in host.processes.values():
        process.wait(10)
    host.processes.clear()


def primary(host: MiniHost, agent: str) -> str | None:
    """Who serves an agent, by that host's answers."""
    status, answer = host.get(f"/v1/resolve/{agent}")
    return answer["instances"][0]["host"] if status == 200 and answer["instances"] else None


def call(host: MiniHost, agent: str, method: str, body: object, timeout_s: float = 8.0) -> tuple[int, Any]:
    return host.ask("POST", f"/v1/call/{agent}/{method}?timeout_s={timeout_s}", body)


def words(host: MiniHost) -> list[str]:
    return [event["event"] for event in host.events()]


def test_a_lost_host_s_agents_serve_on_their_standby_with_all_that_was_acknowledged(owned: MiniStack) -> None:
    mainpc, pc2 = owned.hosts["mainpc"], owned.hosts["pc2"]
    mainpc.put(memory())
    mainpc.put(memory("beta", criticality=Criticality.UTILITY, depends_on=("alpha",)))
    wait_for("served at home", lambda: primary(mainpc, "alpha") == primary(mainpc, "beta") == "mainpc")
    wait_for("seen by the other", lambda: primary(pc2, "alpha") == "mainpc")
    wait_for("a warm standby", (pc2.run / "agents" / "alpha.pid").exists)
    assert not (pc2.run / "agents" / "beta.pid").exists(), "a utility stands by cold"
    assert call(mainpc, "alpha", REMEMBER, {"key": "k", "value": "v1"})[0] == 200
    epoch = mainpc.get("/v1/domains")[1]["domains"][0]["epoch"]

    lose(mainpc)
    wait_for("served by the other", lambda: primary(pc2, "alpha") == primary(pc2, "beta") == "pc2")
    assert call(pc2, "alpha", RECALL, {"key": "k"}) == (200, {"key": "k", "value": "v1"})
    assert pc2.get("/v1/domains")[1]["domains"][0]["epoch"] > epoch
    assert "takeover" in words(pc2)
    promoted = [event["agent"] for event in pc2.events() if event["event"] == "promoted"]
    assert promoted.index("alpha") < promoted.index("beta"), "dependencies first"
    assert call(pc2, "alpha", REMEMBER, {"key": "k", "value": "v2"})[0] == 200

    mainpc.start("zygote")
    mainpc.start("hostd")
    mainpc.ready()
    wait_for("a standby at home", lambda: primary(mainpc, "alpha") == "pc2")
    wait_for(
        "its process up",
        lambda: any(
            one["host"] == "mainpc" and one["state"] == "standby"
            for one in mainpc.get("/v1/agents/alpha")[1]["instances"]
        ),
    )
    assert mainpc.get("/v1/domains")[1]["domains"][0]["holder"] == "pc2"

    status, answer = pc2.ask("POST", "/v1/switchover", {"home": "mainpc", "to": "mainpc"})
    assert status == 200, (answer, [(event["event"], event["detail"]) for event in pc2.events()[-12:]])
    wait_for("served at home again", lambda: primary(mainpc, "alpha") == "mainpc")
    assert call(mainpc, "alpha", RECALL, {"key": "k"}) == (200, {"key": "k", "value": "v2"})


class Register(threading.Thread):
    """Writes rising numbers to one key through a host, and keeps the history."""

    def __init__(self, host: MiniHost, agent: str) -> None:
        super().__init__(daemon=True)
        self._host = host
        self._agent = agent
        self.stop = threading.Event()
        self.history: list[tuple[int, str]] = []

    def run(self) -> None:
        number = 0
        while not self.stop.is_set():
            number += 1
            body = {"key": "n", "value": str(number)}
            try:
                status, answer = call(self._host, self._agent, REMEMBER, body, 5.0)
                outcome = "ok" if status == 200 else str(answer["error"]["code"])
            except OSError as error:
                outcome = type(error).__name__
            self.history.append((number, outcome))
            self.stop.wait(0.01)

    def acknowledged(self) -> int:
        return max((number for number, outcome in self.history if outcome == "ok"), default=0)


def overlap(*hosts: MiniHost) -> list[str]:
    """Events of both hosts in one order (one machine, one clock): who was promoted while who still served."""
    told = [
        event
        for host in hosts
        for event in host.events()
        if event["event"] in ("promoted", "fenced", "lost", "handover", "hostd-started")
    ]
    serving: set[str] = set()
    wrong = []
    for event in sorted(told, key=lambda event: event["time_ns"]):
        if event["event"] == "promoted":
            serving.add(event["host"])
            if len(serving) > 1:
                wrong.append(f"{event['host']} was promoted while {serving} served")
        else:
            serving.discard(event["host"])
    return wrong


def test_a_frozen_host_that_thaws_refuses_calls_and_its_old_epoch_writes_nothing(owned: MiniStack) -> None:
    mainpc, pc2 = owned.hosts["mainpc"], owned.hosts["pc2"]
    mainpc.put(memory())
    wait_for("served at home", lambda: primary(mainpc, "alpha") == "mainpc")
    wait_for("seen by the other", lambda: primary(pc2, "alpha") == "mainpc")
    assert call(mainpc, "alpha", REMEMBER, {"key": "k", "value": "old"})[0] == 200
    frozen = processes(mainpc)  # the watchdog with it: nobody is left who could kill anything
    signal_all(mainpc, signal.SIGSTOP)
    # Written to the frozen agent's socket, to be read by it the moment that it thaws.
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as late:
        late.connect(str(mainpc.run / "agents" / "alpha.sock"))
        late.sendall(encode(Request(1, "alpha", REMEMBER, 60_000, pack({"key": "k", "value": "late"}))))
        wait_for("served by the other", lambda: primary(pc2, "alpha") == "pc2")
        assert call(pc2, "alpha", RECALL, {"key": "k"}) == (200, {"key": "k", "value": "old"})
        assert call(pc2, "alpha", REMEMBER, {"key": "k", "value": "new"})[0] == 200
        for pid in frozen:
            os.kill(pid, signal.SIGCONT)
        late.settimeout(10)
        decoder = FrameDecoder()
        answers: list[object] = []
        while not answers:
            try:
                received = late.recv(4096)
            except ConnectionResetError:
                received = b""
            if not received:
                break  # it was killed before it could answer
            answers += decoder.feed(received)
    assert not answers or (isinstance(answers[0], Failure) and answers[0].code == "fenced"), answers
    wait_for("the fence fell", lambda: "fenced" in words(mainpc))
    wait_for("the old owner knows", lambda: primary(mainpc, "alpha") == "pc2")
    assert call(pc2, "alpha", RECALL, {"key": "k"}) == (200, {"key": "k", "value": "new"})
    assert mainpc.get("/v1/domains")[1]["domains"][0]["acting"] is False


def test_a_stalled_hostd_s_agents_are_ended_by_the_watchdog_and_serve_elsewhere(owned: MiniStack) -> None:
    mainpc, pc2 = owned.hosts["mainpc"], owned.hosts["pc2"]
    mainpc.put(memory())
    wait_for("served at home", lambda: primary(mainpc, "alpha") == "mainpc")
    wait_for("seen by the other", lambda: primary(pc2, "alpha") == "mainpc")
    wait_for("a watchdog", (mainpc.run / "watchdog.lock").read_text)
    pid = mainpc.pid("alpha")
    mainpc.processes["hostd"].send_signal(signal.SIGSTOP)
    wait_for("killed by the watchdog", lambda: not alive(pid))
    wait_for("served by the other", lambda: primary(pc2, "alpha") == "pc2")
    mainpc.processes["hostd"].send_signal(signal.SIGCONT)
    wait_for("the old owner knows", lambda: primary(mainpc, "alpha") == "pc2")
    assert call(pc2, "alpha", RECALL, {"key": "k"})[0] == 200


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def test_without_etcd_the_host_fences_itself_and_resumes_when_it_is_back(owned: MiniStack) -> None:
    mainpc, pc2 = owned.hosts["mainpc"], owned.hosts["pc2"]
    mainpc.put(memory())
    wait_for("served at home", lambda: primary(mainpc, "alpha") == "mainpc")
    assert call(mainpc, "alpha", REMEMBER, {"key": "k", "value": "v"})[0] == 200
    owned.etcd.stop()
    wait_for("fenced", lambda: "fenced" in words(mainpc))
    status, answer = call(mainpc, "alpha", RECALL, {"key": "k"}, 0.3)
    assert status != 200
    assert answer["error"]["code"] in ("fenced", "unavailable"), answer
    owned.etcd.start()
    wait_for("served again", lambda: call(mainpc, "alpha", RECALL, {"key": "k"})[0] == 200)
    assert primary(mainpc, "alpha") in ("mainpc", "pc2")
    assert not overlap(mainpc, pc2)


def test_a_planned_switch_over_fails_no_call_at_the_host_that_hands_over(owned: MiniStack) -> None:
    mainpc, pc2 = owned.hosts["mainpc"], owned.hosts["pc2"]
    mainpc.put(memory())
    wait_for("served at home", lambda: primary(mainpc, "alpha") == "mainpc")
    wait_for("seen by the other", lambda: primary(pc2, "alpha") == "mainpc")
    assert pc2.ask("POST", "/v1/switchover", {"home": "mainpc", "to": "pc2"})[0] == 421
    assert mainpc.ask("POST", "/v1/switchover", {"home": "mainpc", "to": "nowhere"})[0] == 422
    writer = Register(mainpc, "alpha")
    writer.start()
    wait_for("some writes", lambda: writer.acknowledged() > 5)
    status, answer = mainpc.ask("POST", "/v1/switchover", {"home": "mainpc", "to": "pc2"})
    assert (status, answer["holder"]) == (200, "pc2"), answer
    wait_for("served by the other", lambda: primary(pc2, "alpha") == "pc2")
    writer.stop.set()
    writer.join(10)
    status, answer = call(pc2, "alpha", RECALL, {"key": "n"})
    assert status == 200
    assert int(answer["value"]) >= writer.acknowledged() > 5
    # No gateway stands here: what this host's clients send after the handover is not delivered, definitely.
    assert {outcome for _, outcome in writer.history} <= {"ok", "unavailable"}, writer.history
    assert not overlap(mainpc, pc2)


def test_an_old_epoch_s_write_is_refused_by_etcd_itself(owned: MiniStack) -> None:
    """Past the fence and past hostd: the comparison alone keeps a late write out."""
    mainpc, pc2 = owned.hosts["mainpc"], owned.hosts["pc2"]
    mainpc.put(memory())
    wait_for("served at home", lambda: primary(mainpc, "alpha") == "mainpc")
    wait_for("seen by the other", lambda: primary(pc2, "alpha") == "mainpc")

    async def attempt(revision: int | None) -> tuple[int, object]:
        client = EtcdClient([Endpoint("mainpc", owned.etcd.url)])
        try:
            store = DomainStore(client, Keys("mini"), stack="mini", host="x", address="", boot_id="x")
            known = await store.read_domain("mainpc", timeout_s=2)
            assert known is not None
            used = known.revision if revision is None else revision
            return known.revision, await store.write_state(
                "alpha", "mainpc", domain_revision=used, puts={"k": b"\x01"}, replaces={}, timeout_s=2
            )
        finally:
            await client.close()

    revision, answer = asyncio.run(attempt(None))
    assert isinstance(answer, Performed)
    lose(mainpc)
    wait_for("served by the other", lambda: primary(pc2, "alpha") == "pc2")
    assert asyncio.run(attempt(revision))[1] == NotPerformed()


def test_a_program_and_an_agent_without_a_standby_follow_their_rules(owned: MiniStack) -> None:
    """A program runs only where it serves; who has no standby is served at home, wherever the rest is."""
    mainpc, pc2 = owned.hosts["mainpc"], owned.hosts["pc2"]
    port = free_port(mainpc.local)
    command = ("python", "-m", "services.agent.examples.http_echo")
    check = HealthCheck(kind=HealthKind.TCP, interval_ms=200, timeout_ms=200)
    spec = AgentSpec(
        name="program", home="mainpc", standby="pc2", category="t", command=command, port=port, health=check
    )
    mainpc.put(spec)
    mainpc.put(msgspec.structs.replace(memory("alone"), standby=None))
    wait_for("served at home", lambda: primary(mainpc, "program") == primary(mainpc, "alone") == "mainpc")
    wait_for("seen by the other", lambda: primary(pc2, "program") == "mainpc")
    assert not (pc2.run / "agents" / "program.pid").exists(), "it knows no fence, so it never stands by"
    pid = mainpc.pid("program")

    assert mainpc.ask("POST", "/v1/switchover", {"home": "mainpc", "to": "pc2"})[0] == 200
    wait_for("served by the other", lambda: primary(pc2, "program") == "pc2")
    assert not alive(pid), "it ended before the other one began"
    wait_for("handed back to its only host", lambda: primary(pc2, "alone") == "mainpc")
    assert mainpc.get("/v1/domains")[1]["domains"][0]["exceptions"] == {"alone": "mainpc"}


@pytest.fixture
def lonely() -> Iterator[MiniStack]:
    """One host with ownership on: nobody follows it, however slow it is."""
    if etcd_path() is None:
        pytest.skip("no etcd here; `make setup` brings it")
    with MiniStack(("mainpc",), more={"ownership": True}) as stack:
        try:
            stack.start()
            yield stack
        except BaseException:
            print(*stack.logs(), sep="\n")
            raise


def test_a_program_outlives_hostd_and_ends_before_its_host_may_not_act_any_more(lonely: MiniStack) -> None:
    mainpc = lonely.hosts["mainpc"]
    command = ("python", "-m", "services.agent.examples.http_echo")
    check = HealthCheck(kind=HealthKind.TCP, interval_ms=200, timeout_ms=200)
    mainpc.put(
        AgentSpec(
            name="program",
            home="mainpc",
            standby=None,
            category="t",
            command=command,
            port=free_port(mainpc.local),
            health=check,
        )
    )
    wait_for("served at home", lambda: primary(mainpc, "program") == "mainpc")
    pid = mainpc.pid("program")
    mainpc.stop("hostd")
    mainpc.start("hostd")
    mainpc.ready()
    wait_for("served by the new life", lambda: primary(mainpc, "program") == "mainpc")
    adopted = [event for event in mainpc.events("program") if event["event"] == "adopted"]
    # On a slow machine the earlier life's word may have run out meanwhile: then it was ended, rightly.
    since_ns = adopted[-1]["time_ns"] if adopted else 0
    ended = any(e["event"] == "killed" and e["time_ns"] > since_ns for e in mainpc.events("program"))
    assert (mainpc.pid("program") == pid) is (bool(adopted) and not ended)

    pid = mainpc.pid("program")
    lonely.etcd.stop()
    wait_for("ended", lambda: not alive(pid))
    wait_for("fenced", lambda: "fenced" in words(mainpc))
    ends = [event for event in mainpc.events("program") if event["event"] == "killed"]
    fenced = next(event for event in mainpc.events() if event["event"] == "fenced")
    assert "lease runs out" in ends[-1]["detail"], ends
    assert ends[-1]["time_ns"] < fenced["time_ns"]
    lonely.etcd.start()
    wait_for("served again", lambda: primary(mainpc, "program") == "mainpc")


def test_an_agent_that_cannot_say_that_it_stopped_is_frozen_until_its_host_may_act_again(
    lonely: MiniStack,
) -> None:
    mainpc = lonely.hosts["mainpc"]
    spec = memory(standby=None, health=HealthCheck(interval_ms=60_000, timeout_ms=30_000))
    mainpc.put(msgspec.structs.replace(spec, handler="tests.hostd.subjects:Subject"))
    wait_for("served", lambda: primary(mainpc, "alpha") == "mainpc")
    pid = mainpc.pid("alpha")
    blocked = threading.Thread(target=call, args=(mainpc, "alpha", "block", 3.0, 20.0))
    blocked.start()
    lonely.etcd.stop()
    wait_for("frozen", lambda: "frozen" in words(mainpc))
    wait_for("stopped by the kernel", lambda: state_of(pid) == "T")
    lonely.etcd.start()
    wait_for("resumed", lambda: "resumed" in words(mainpc))
    wait_for("let go", lambda: state_of(pid) != "T")
    blocked.join(20)
    assert call(mainpc, "alpha", "echo", "still there") == (200, "still there")
    assert mainpc.pid("alpha") == pid


def state_of(pid: int) -> str:
    """How the kernel calls the state of a process; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0].decode()
    except OSError:
        return ""


def test_an_agent_that_crashes_again_and_again_is_served_by_its_standby(owned: MiniStack) -> None:
    mainpc, pc2 = owned.hosts["mainpc"], owned.hosts["pc2"]
    mainpc.put(memory())
    mainpc.put(memory("steady"))
    wait_for("served at home", lambda: primary(mainpc, "alpha") == primary(mainpc, "steady") == "mainpc")
    wait_for("a warm standby", lambda: any(one["host"] == "pc2" for one in instances(mainpc, "alpha")))
    assert call(mainpc, "alpha", REMEMBER, {"key": "k", "value": "v"})[0] == 200
    for _ in range(3):
        pid = wait_for("a process", lambda: alive(mainpc.pid("alpha")) and mainpc.pid("alpha"))
        os.kill(pid, signal.SIGKILL)
        wait_for("its end", lambda pid=pid: not alive(pid))
    wait_for("served by the other", lambda: primary(pc2, "alpha") == "pc2")
    assert call(pc2, "alpha", RECALL, {"key": "k"}) == (200, {"key": "k", "value": "v"})
    assert primary(mainpc, "steady") == "mainpc", "the rest of the domain stays"


def instances(host: MiniHost, agent: str) -> list[dict[str, Any]]:
    return list(host.get(f"/v1/agents/{agent}")[1]["instances"])
