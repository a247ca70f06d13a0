"""The real servers of a stack, in both networks: certificates, quorum, replication, loss of a host."""

from __future__ import annotations

import base64
import http.client
import json
import socket
import ssl
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from infra.plan import Environment
from infra.substrates.base import Credentials
from infra.substrates.process import ProcessSubstrate
from infra.tools.paths import ToolMissing, tool_path
from infra.topology import Fleet, HostRole, HostSpec
from infra.units import START_ORDER, units_for
from tests.substrate import traces
from tests.substrate.conftest import MakeEnvironment

pytestmark = [pytest.mark.live, pytest.mark.slow]

SERVERS = ("etcd", "redis", "alertmanager", "prometheus", "toxiproxy")
FLEET = Fleet(
    name="live",
    hosts=(
        HostSpec(name="mainpc"),
        HostSpec(name="pc2"),
        HostSpec(name="witness", role=HostRole.WITNESS),
    ),
    agents=(),
)


def ask(
    credentials: Credentials,
    address: str,
    host: str,
    port: int,
    path: str,
    body: object = None,
    *,
    known: bool = True,
) -> object:
    """A request with (or without) the operator's certificate; the server's name is checked."""
    context = ssl.create_default_context(cafile=str(credentials.ca))
    if known:
        context.load_cert_chain(str(credentials.cert), str(credentials.key))
    with (
        socket.create_connection((address, port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        connection = http.client.HTTPConnection(address, port, timeout=10)
        connection.sock = secure
        connection.request(
            "POST" if body is not None else "GET", path, None if body is None else json.dumps(body)
        )
        answer = connection.getresponse()
        text = answer.read()
    assert answer.status == 200, text
    return json.loads(text)


def until(look: Callable[[], bool], what: str, within_s: float = 40.0) -> None:
    end = time.monotonic() + within_s
    while not look():
        if time.monotonic() > end:
            pytest.fail(f"{what}: not within {within_s:g} s")
        time.sleep(0.2)


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.timeout(240)
def test_the_servers_of_a_stack(
    network: str, make_environment: MakeEnvironment, opened: Callable[[Environment], ProcessSubstrate]
) -> None:
    for name in ("etcd", "redis-server", "alertmanager", "prometheus", "toxiproxy-server"):
        try:
            tool_path(name)
        except ToolMissing as missing:
            pytest.skip(str(missing))
    environment = make_environment(network)
    substrate = opened(environment)
    for host in FLEET.hosts:
        substrate.create_host(host)
    wanted = [u for host in FLEET.hosts for u in units_for(host, FLEET, environment) if u.name in SERVERS]
    wanted.sort(key=lambda unit: START_ORDER.index(unit.name))
    first = [substrate.create_unit(unit) for unit in wanted]
    assert [substrate.create_unit(unit) for unit in wanted] == first

    credentials = substrate.credentials()
    at = {host.name: substrate.address(host.name) for host in FLEET.hosts}

    # etcd: written through one member, read through another; nobody without a certificate.
    pair = {"key": encoded("k"), "value": encoded("v")}
    ask(credentials, at["mainpc"], "mainpc", 2379, "/v3/kv/put", pair)
    found = ask(credentials, at["witness"], "witness", 2379, "/v3/kv/range", {"key": encoded("k")})
    assert isinstance(found, dict)
    assert found["kvs"][0]["value"] == encoded("v")
    for port in (2379, 6379, 9090, 9093):
        with pytest.raises((OSError, http.client.HTTPException)):
            ask(credentials, at["pc2"], "pc2", port, "/", known=False)

    # Redis: written to the primary, replicated over TLS.
    def client(host: str) -> redis.Redis:
        return redis.Redis(
            host=at[host],
            ssl=True,
            ssl_ca_certs=str(credentials.ca),
            ssl_certfile=str(credentials.cert),
            ssl_keyfile=str(credentials.key),
            decode_responses=True,
        )

    with client("mainpc") as primary, client("pc2") as replica:
        primary.set("k", "v")
        until(lambda: replica.get("k") == "v", "replication")

    # Prometheus scrapes every member of etcd and its own pair; the Alertmanagers meet.
    def up() -> bool:
        answer = ask(credentials, at["pc2"], "pc2", 9090, "/api/v1/query?query=up==1")
        assert isinstance(answer, dict)
        jobs = [series["metric"]["job"] for series in answer["data"]["result"]]
        return all(
            jobs.count(job) == count for job, count in (("etcd", 3), ("prometheus", 2), ("alertmanager", 2))
        )

    def met() -> bool:
        answer = ask(credentials, at["mainpc"], "mainpc", 9093, "/api/v2/status")
        assert isinstance(answer, dict)
        return len(answer["cluster"]["peers"]) == 2

    until(up, "scrapes")
    until(met, "the cluster of alertmanagers")

    # The loss of a host: the others keep the quorum; it comes back with its data.
    substrate.kill_host("pc2")
    lost = substrate.inspect_unit("pc2", "etcd")
    assert lost is not None
    assert not lost.running

    def written() -> bool:  # not before the others have elected a leader, should it have been on pc2
        pair = {"key": encoded("k2"), "value": encoded("v2")}
        try:
            ask(credentials, at["mainpc"], "mainpc", 2379, "/v3/kv/put", pair)
        except (AssertionError, TimeoutError):
            return False
        return True

    until(written, "a write without pc2")
    substrate.restart_host("pc2")
    for unit in wanted:
        if unit.host == "pc2":
            assert substrate.create_unit(unit).running

    def caught_up() -> bool:
        answer = ask(
            credentials, at["pc2"], "pc2", 2379, "/v3/kv/range", {"key": encoded("k2"), "serializable": True}
        )
        return isinstance(answer, dict) and bool(answer.get("kvs"))

    until(caught_up, "the returned member")
    assert substrate.logs("pc2", "redis")

    for host in FLEET.hosts:
        substrate.delete_host(host.name)
    assert traces.of(environment.stack) == {}
    assert {path.name for path in Path(environment.state_dir).iterdir()} == {"stacks"}

    # Down and up again: what was acknowledged is still there.
    for host in FLEET.hosts:
        substrate.create_host(host)
    for unit in wanted:
        if unit.name == "etcd":
            substrate.create_unit(unit)
    found = ask(credentials, at["mainpc"], "mainpc", 2379, "/v3/kv/range", {"key": encoded("k2")})
    assert isinstance(found, dict)
    assert found["kvs"][0]["value"] == encoded("v2")
