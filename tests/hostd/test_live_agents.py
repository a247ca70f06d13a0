"""hostd with a real etcd and a real zygote: agents crash, hang, leave and are replaced."""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
import threading
from pathlib import Path

import pytest

from infra.topology import AgentSpec, HealthCheck, HealthKind
from services.agent.wire import FrameDecoder, Reply, Request, encode, pack
from tests.hostd.mini import MiniHost, MiniStack, free_port, wait_for

pytestmark = pytest.mark.live


def subject(name: str = "alpha", home: str = "mainpc", **more: object) -> AgentSpec:
    return AgentSpec(name=name, home=home, category="test", handler="tests.hostd.subjects:Subject", **more)  # type: ignore[arg-type]


def program(name: str, port: int, *, kind: HealthKind = HealthKind.HTTP) -> AgentSpec:
    command = (sys.executable, "-m", "http.server", "--bind", "127.77.91.1", str(port))
    health = HealthCheck(kind=kind, path="/", interval_ms=200, timeout_ms=200)
    return AgentSpec(name=name, home="mainpc", category="test", command=command, port=port, health=health)


def newer(host: MiniHost, agent: str, than: int) -> int:
    return wait_for(f"{agent} up again", lambda: (now := host.up(agent) or 0) > than and now)


def names(host: MiniHost, agent: str) -> list[str]:
    return [event["event"] for event in host.events(agent)]


def test_a_crashed_agent_is_up_again_with_a_newer_incarnation(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    first = host.put(subject())["incarnation"]
    os.kill(host.pid("alpha"), signal.SIGKILL)
    second = newer(host, "alpha", first)
    assert second == first + 1
    wait_for("the exit status", lambda: "exit-status" in names(host, "alpha"))
    said = [event for event in host.events("alpha") if event["incarnation"] == second]
    assert [event["event"] for event in said] == ["forked", "registered", "validated"]
    instants = [event["time_ns"] for event in said]
    assert instants == sorted(instants)
    assert host.ask("POST", "/v1/call/alpha/echo", "again") == (200, "again")


def test_a_stopped_agent_leaves_the_answers_and_is_started_anew(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    first = host.put(subject())["incarnation"]
    pid = host.pid("alpha")
    os.kill(pid, signal.SIGSTOP)
    wait_for("out of the answers", lambda: host.up("alpha") is None)
    newer(host, "alpha", first)
    said = [name for name in names(host, "alpha") if name in ("unhealthy", "killed", "exited")]
    assert said == ["killed", "exited"]  # no grace: the kernel says that it is stopped
    assert not Path(f"/proc/{pid}/fd").exists()


def test_an_agent_that_blocks_for_a_while_comes_back_without_a_restart(
    one_host: MiniStack, tmp_path: Path
) -> None:
    host = one_host.hosts["mainpc"]
    first = host.put(subject())["incarnation"]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    calling = threading.Thread(target=host.ask, args=("POST", "/v1/call/alpha/read?timeout_s=5", str(pipe)))
    calling.start()
    wait_for("out of the answers", lambda: host.up("alpha") is None)
    pipe.write_text("go on")
    calling.join()
    assert wait_for("back", lambda: host.up("alpha")) == first
    assert "recovered" in names(host, "alpha")


def test_a_handler_that_never_returns_does_not_make_its_agent_unhealthy(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    host.put(subject())
    status, answer = host.ask("POST", "/v1/call/alpha/never?timeout_s=1.5")
    assert (status, answer["error"]["code"]) == (504, "deadline")
    assert "unhealthy" not in names(host, "alpha")


def test_crash_after_crash_backs_off_and_a_new_definition_is_tried_at_once(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    incarnation = host.put(subject())["incarnation"]
    for _ in range(3):
        os.kill(host.pid("alpha"), signal.SIGKILL)
        incarnation = newer(host, "alpha", incarnation)
    assert "backoff" in names(host, "alpha")
    broken = AgentSpec(name="beta", home="mainpc", category="test", handler="no.such.module:Agent")
    status, answer = host.ask("PUT", "/v1/agents/beta?wait_s=30", broken)
    assert (status, answer["error"]["code"]) == (422, "bad-request")
    assert answer["error"]["message"].startswith("beta cannot start: handler 'no.such.module:Agent'")
    wait_for("it is tried ever more rarely", lambda: "backoff" in names(host, "beta"))
    assert "exit-status" in names(host, "beta")
    assert any(event["detail"] == "78" for event in host.events("beta"))
    assert host.put(subject("beta"))["state"] == "up"


def test_an_unchanged_definition_restarts_nothing_and_a_changed_one_replaces_that_agent(
    one_host: MiniStack,
) -> None:
    host = one_host.hosts["mainpc"]
    alpha, beta = host.put(subject()), host.put(subject("beta"))
    assert host.put(subject()) == alpha
    changed = host.put(subject(settings={"speed": 2}))
    assert changed["incarnation"] > alpha["incarnation"]
    assert host.up("beta") == beta["incarnation"]
    assert "replaced" in names(host, "alpha")


def test_a_deleted_agent_is_gone_everywhere(two_hosts: MiniStack) -> None:
    host, other = two_hosts.hosts["mainpc"], two_hosts.hosts["pc2"]
    host.put(subject())
    pid = host.pid("alpha")
    wait_for("seen by the other", lambda: other.up("alpha"))
    assert host.ask("DELETE", "/v1/agents/alpha")[0] == 200
    assert host.get("/v1/agents/alpha")[0] == 404
    wait_for("unknown to the other", lambda: other.get("/v1/resolve/alpha")[0] == 404)
    assert not Path(f"/proc/{pid}/fd").exists()
    assert host.ask("DELETE", "/v1/agents/alpha")[0] == 404


def test_an_agent_that_leaves_on_its_own_is_started_again(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    first = host.put(subject())["incarnation"]
    os.kill(host.pid("alpha"), signal.SIGTERM)
    newer(host, "alpha", first)
    assert "leaving" in names(host, "alpha")


def test_a_program_is_started_checked_and_started_again(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    port = free_port("127.77.91.1")
    first = host.put(program("web", port))["incarnation"]
    _, answer = host.get("/v1/resolve/web")
    assert (answer["instances"][0]["transport"], answer["instances"][0]["port"]) == ("http", port)
    status, text = host.get("/v1/agents/web/metrics")
    assert status == 200
    assert "threenines_agent_up 1.0" in text
    assert "threenines_agent_resident_bytes" in text
    os.kill(host.pid("web"), signal.SIGKILL)
    newer(host, "web", first)


def test_a_program_that_never_answers_never_counts_as_up(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    spec = AgentSpec(
        name="mute",
        home="mainpc",
        category="test",
        command=("sleep", "600"),
        port=free_port("127.77.91.1"),
        health=HealthCheck(kind=HealthKind.TCP),
    )
    status, answer = host.ask("PUT", "/v1/agents/mute?wait_s=1", spec)
    assert (status, answer["error"]["code"]) == (504, "deadline")
    assert host.up("mute") is None


def test_a_stranger_cannot_register(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    first = host.put(subject())["incarnation"]

    def register(name: str, incarnation: int) -> object:
        body = {
            "name": name,
            "incarnation": incarnation,
            "pid": os.getpid(),
            "methods": [],
            "idempotent": [],
            "tags": {},
        }
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
            caller.settimeout(5)
            caller.connect(str(host.run / "hostd.sock"))
            caller.sendall(encode(Request(1, "hostd", "register", 1000, pack(body))))
            decoder = FrameDecoder()
            while True:
                messages = decoder.feed(caller.recv(65536))
                if messages:
                    return messages[0]

    for name, incarnation in (("alpha", first), ("alpha", first + 1), ("nobody", 1)):
        answer = register(name, incarnation)
        assert not isinstance(answer, Reply), answer
    assert host.up("alpha") == first


def test_a_lying_length_costs_that_connection_alone(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    first = host.put(subject())["incarnation"]
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as caller:
        caller.settimeout(5)
        caller.connect(str(host.run / "hostd.sock"))
        caller.sendall(struct.pack(">I", 0xFFFFFFF0) + b"x" * 100)
        assert caller.recv(1) == b""
    assert host.up("alpha") == first
    assert host.get("/v1/status")[1]["agents"]["up"] == 1
