"""hostd with real servers: restarts, a zygote or etcd that is away, two hosts, the API's doors."""

from __future__ import annotations

import asyncio
import http.client
import os
import signal
import ssl
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest

from infra.tools.paths import ToolMissing, tool_path
from services.hostd.disk import CachedView
from services.registry.distributed import DistributedTier, RedisAddress, connect
from services.registry.snapshot import SnapshotReader
from tests.hostd.mini import MiniHost, MiniStack, free_port, wait_for
from tests.hostd.test_live_agents import newer, subject

pytestmark = pytest.mark.live


def restart(host: MiniHost, number: signal.Signals) -> None:
    host.stop("hostd", number)
    host.start("hostd")
    host.ready()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_restarted_hostd_adopts_what_runs(two_hosts: MiniStack, number: signal.Signals) -> None:
    host, other = two_hosts.hosts["mainpc"], two_hosts.hosts["pc2"]
    first = host.put(subject())["incarnation"]
    pid = host.pid("alpha")
    wait_for("seen by the other", lambda: other.up("alpha"))
    epoch = host.get("/v1/status")[1]["epoch"]
    restart(host, number)
    # A restart that took longer than the lease had made the host's instances leave the answers.
    wait_for("in its answers", lambda: host.up("alpha") == first)
    assert host.pid("alpha") == pid
    assert [one["event"] for one in host.events("alpha")].count("adopted") == 1
    assert "forked" not in [one["event"] for one in host.events("alpha")]
    wait_for("a higher epoch", lambda: host.get("/v1/status")[1]["epoch"] > epoch)
    wait_for("still in the other's answers", lambda: other.up("alpha") == first)
    os.kill(pid, signal.SIGKILL)
    assert newer(host, "alpha", first) > first


def test_agents_outlive_the_zygote_and_a_new_one_forks(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    first = host.put(subject())["incarnation"]
    host.stop("zygote", signal.SIGKILL)
    assert host.up("alpha") == first
    os.kill(host.pid("alpha"), signal.SIGKILL)
    wait_for("a fork that failed", lambda: "fork-failed" in [e["event"] for e in host.events("alpha")])
    host.start("zygote")
    newer(host, "alpha", first)


def test_a_frozen_zygote_is_ended_and_its_successor_forks(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    first = host.put(subject())["incarnation"]
    zygote = host.processes["zygote"]
    zygote.send_signal(signal.SIGSTOP)
    os.kill(host.pid("alpha"), signal.SIGKILL)
    assert zygote.wait(20) == -signal.SIGKILL
    host.start("zygote")
    second = newer(host, "alpha", first)
    assert host.get("/v1/resolve/alpha")[1]["instances"][0]["incarnation"] == second


def test_agents_run_on_while_etcd_is_away_and_the_news_is_written_when_it_is_back(
    two_hosts: MiniStack,
) -> None:
    host, other = two_hosts.hosts["mainpc"], two_hosts.hosts["pc2"]
    first = host.put(subject())["incarnation"]
    wait_for("seen by the other", lambda: other.up("alpha") == first)
    two_hosts.etcd.stop()
    wait_for("marked stale", lambda: host.get("/v1/resolve/alpha")[1]["stale"])
    wait_for("said", lambda: host.get("/v1/ready") == (200, {"degraded": "etcd unreachable"}))
    os.kill(host.pid("alpha"), signal.SIGKILL)
    second = newer(host, "alpha", first)
    status, answer = host.ask("PUT", "/v1/agents/beta", subject("beta"))
    assert status in (503, 504), answer
    assert other.up("alpha") == first, "the other host keeps its last view"
    two_hosts.etcd.start()
    wait_for("the other host has heard", lambda: other.up("alpha") == second)
    wait_for("fresh again", lambda: not host.get("/v1/resolve/alpha")[1]["stale"])
    wait_for("well again", lambda: host.get("/v1/ready") == (200, {}))


def test_without_etcd_a_host_starts_from_its_disk(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    first = host.put(subject())["incarnation"]

    def cached() -> bool:
        view = msgspec.json.decode((host.data / "view.json").read_bytes(), type=CachedView)
        return any(one.incarnation == first and one.state == "up" for one in view.instances)

    wait_for("the view on disk", cached)
    one_host.etcd.stop()
    host.stop("hostd", signal.SIGKILL)
    os.kill(host.pid("alpha"), signal.SIGKILL)
    (host.run / "discovery.snap").unlink()
    host.start("hostd")
    host.ready()
    assert host.get("/v1/ready")[1]["degraded"]
    second = newer(host, "alpha", first)
    answer = host.get("/v1/resolve/alpha")[1]
    assert answer["stale"]
    assert second > first
    one_host.etcd.start()
    wait_for("fresh again", lambda: not host.get("/v1/resolve/alpha")[1]["stale"])
    assert host.up("alpha") == second


def test_with_neither_etcd_nor_disk_a_host_says_that_it_is_not_ready() -> None:
    with MiniStack() as stack:
        host = stack.hosts["mainpc"]
        host.start("hostd")
        status, answer = wait_for("an answer", lambda: host.get("/v1/ready"))
        assert status == 503
        assert "etcd" in answer["error"]["message"] or "taking hold" in answer["error"]["message"]
        stack.etcd.start()
        host.ready()


def test_a_host_with_an_empty_disk_begins_with_what_another_one_saved() -> None:
    try:
        tool_path("redis-server")
    except ToolMissing:
        pytest.skip("no redis-server here; `make setup` brings it")
    with MiniStack(("mainpc", "pc2")) as stack:
        stack.add_redis("mainpc")
        stack.start()
        host, other = stack.hosts["mainpc"], stack.hosts["pc2"]
        host.put(subject())
        wait_for("seen by the other", lambda: other.up("alpha"))

        async def saved() -> bool:
            assert stack.redis is not None
            address = RedisAddress("127.0.0.1", stack.redis.port)
            tier = DistributedTier(
                [connect(address, pki=host.pki, timeout_s=1)], stack="mini", host="mainpc", timeout_s=2
            )
            try:
                view = await tier.load()
            finally:
                await tier.close()
            return view is not None and any(i.state == "up" for i in view.entries["alpha"].instances)

        wait_for("the view in Redis", lambda: asyncio.run(saved()))
        stack.etcd.stop()
        other.stop("hostd", signal.SIGKILL)
        for path in (other.run / "discovery.snap", other.data / "view.json"):
            path.unlink(missing_ok=True)
        other.start("hostd")
        wait_for("an old answer", lambda: other.up("alpha"))
        assert other.get("/v1/resolve/alpha")[1]["stale"]
        assert other.get("/v1/ready")[1] == {"degraded": "etcd unreachable"}


def test_a_change_is_in_the_snapshot_of_the_other_host(two_hosts: MiniStack) -> None:
    host, other = two_hosts.hosts["mainpc"], two_hosts.hosts["pc2"]
    first = host.put(subject(tags={"lang": "de"}))["incarnation"]
    reader = SnapshotReader(other.run / "discovery.snap", host="pc2")
    wait_for("resolved", lambda: "alpha" in reader.names() and bool(reader.resolve("alpha").instances))
    assert reader.resolve("alpha").instances[0].incarnation == first
    os.kill(host.pid("alpha"), signal.SIGSTOP)
    wait_for("out of the other's answers", lambda: not reader.resolve("alpha").instances)
    reader.close()
    assert other.get("/v1/resolve/alpha?tag=lang:fr")[1]["instances"] == []


def test_a_host_that_is_gone_leaves_the_answers_of_the_other(two_hosts: MiniStack) -> None:
    host, other = two_hosts.hosts["mainpc"], two_hosts.hosts["pc2"]
    other.put(subject("beta", home="pc2"))
    wait_for("seen", lambda: host.up("beta"))
    for unit in ("hostd", "zygote"):
        other.stop(unit, signal.SIGKILL)
    other.kill_agents()
    wait_for("gone", lambda: host.up("beta") is None)
    targets = host.get("/v1/prometheus/targets")[1]
    assert [one["labels"]["agent"] for one in targets] == ["beta"], "a dead agent stays a target"


def test_a_second_hostd_of_the_same_host_is_refused(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    first = host.processes["hostd"]
    host.start("hostd")
    second, host.processes["hostd"] = host.processes["hostd"], first
    assert second.wait(10) == 3
    assert "threenines: " in (host.data / "hostd.log").read_text()
    assert host.get("/v1/ready")[0] == 200


def test_roles_of_certificates(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    host.put(subject())
    body = msgspec.json.encode(subject("beta"))
    for role, method, path, status in (
        ("monitor", "GET", "/v1/metrics", 200),
        ("monitor", "GET", "/v1/agents/alpha/metrics", 200),
        ("monitor", "POST", "/v1/call/alpha/echo", 403),
        ("monitor", "PUT", "/v1/agents/beta", 403),
        ("host:pc2", "PUT", "/v1/agents/beta", 403),
        ("host:pc2", "GET", "/v1/agents", 200),
        ("stranger", "GET", "/v1/ready", 403),
        ("operator", "POST", "/v1/registrations", 403),
        ("operator", "GET", "/v1/status", 200),
    ):
        answer = host.ask(method, path, body if method == "PUT" else b'"x"', role=role)
        assert answer[0] == status, (role, method, path, answer)
    context = ssl.create_default_context(cafile=str(one_host.folder / "ca" / "ca.pem"))
    bare = http.client.HTTPSConnection(host.address, host.ports["hostd"], timeout=5, context=context)

    def without_certificate() -> None:
        bare.request("GET", "/v1/ready")
        bare.getresponse()

    with pytest.raises((ssl.SSLError, http.client.RemoteDisconnected, ConnectionError)):
        without_certificate()
    bare.close()


def test_wrong_requests_get_one_clear_line(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    host.put(subject())
    spec = msgspec.to_builtins(subject("beta"))
    for method, path, body, status in (
        ("PUT", "/v1/agents/beta", b"{", 422),
        ("PUT", "/v1/agents/beta", b"\xff\xfe", 422),
        ("PUT", "/v1/agents/beta", b"[" * 100_000, 422),
        ("PUT", "/v1/agents/beta", msgspec.json.encode({**spec, "colour": "red"}), 422),
        ("PUT", "/v1/agents/gamma", msgspec.json.encode(spec), 422),
        ("PUT", "/v1/agents/beta", msgspec.json.encode({**spec, "home": "elsewhere"}), 422),
        ("PUT", "/v1/agents/beta", msgspec.json.encode({**spec, "handler": None}), 422),
        ("PUT", "/v1/agents/beta?wait_s=nan", msgspec.json.encode(spec), 422),
        ("PUT", "/v1/agents/beta", b"x" * 300_000, 413),
        ("GET", "/v1/resolve/nobody", None, 404),
        ("GET", "/v1/agents?state=sleepy", None, 422),
        ("GET", "/v1/agents?tag=lang", None, 422),
        ("GET", "/v1/events?since=x", None, 422),
        ("GET", "/nowhere", None, 404),
        ("PATCH", "/v1/agents/alpha", None, 405),
        ("POST", "/v1/call/alpha/nothing", b"", 404),
        ("POST", "/v1/call/nobody/echo", b"", 404),
        ("POST", "/v1/call/alpha/echo", b"{", 422),
        ("POST", "/v1/call/alpha/echo", b"17", 422),
    ):
        got, answer = host.ask(method, path, body)
        assert got == status, (method, path, got, answer)
        assert answer["error"]["message"], (method, path)
        assert "\n" not in answer["error"]["message"]
    assert host.up("beta") is None


class _Well(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Quiet."""


def test_a_program_that_hostd_did_not_start_registers_and_leaves(two_hosts: MiniStack) -> None:
    host, other = two_hosts.hosts["mainpc"], two_hosts.hosts["pc2"]
    port = free_port(host.local)
    server = HTTPServer((host.local, port), _Well)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        body = msgspec.json.encode(
            {"name": "guest", "port": port, "tags": {"kind": "own"}, "health": {"kind": "http", "path": "/"}}
        )
        connection = http.client.HTTPConnection(host.local, host.ports["hostd_local"], timeout=5)
        connection.request("POST", "/v1/registrations", body)
        assert connection.getresponse().status == 201
        connection.close()
        wait_for("resolvable on the other host", lambda: other.up("guest"))
        assert host.get("/v1/agents?tag=kind:own")[1]["agents"][0]["transport"] == "http"
        restart(host, signal.SIGKILL)
        wait_for("known after a restart of hostd", lambda: host.up("guest"))
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    wait_for("unhealthy", lambda: other.up("guest") is None)
    connection = http.client.HTTPConnection(host.local, host.ports["hostd_local"], timeout=5)
    connection.request("DELETE", "/v1/registrations/guest")
    assert connection.getresponse().status == 200
    connection.close()
    wait_for("gone", lambda: other.get("/v1/resolve/guest")[0] == 404)


def test_draining_a_host_stops_its_agents_until_it_is_resumed(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    first = host.put(subject())["incarnation"]
    pid = host.pid("alpha")
    assert host.ask("POST", "/v1/drain")[0] == 200
    assert host.up("alpha") is None
    assert not Path(f"/proc/{pid}/fd").exists()
    assert host.ask("DELETE", "/v1/drain")[0] == 200
    newer(host, "alpha", first)


def test_a_full_disk_stops_neither_agents_nor_answers(one_host: MiniStack) -> None:
    host = one_host.hosts["mainpc"]
    first = host.put(subject())["incarnation"]
    # What a disk that takes nothing looks like, also to root: a folder where the files should go.
    for name in ("events.jsonl", "view.json"):
        wait_for(name, lambda name=name: (host.data / name).exists())
        (host.data / name).unlink()
        (host.data / name).mkdir()
    os.kill(host.pid("alpha"), signal.SIGKILL)
    newer(host, "alpha", first)
    wait_for("it is said", lambda: len(host.get("/v1/status")[1]["trouble"]) >= 2)
    assert host.up("alpha")
