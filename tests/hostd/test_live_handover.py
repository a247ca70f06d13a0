"""Handing over on purpose, with callers on both hosts all the while: nobody sees an error."""

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from collections.abc import Iterator

import pytest

from infra.topology import AgentSpec, Criticality
from services.agent.client import Client
from services.agent.errors import CallError
from tests.hostd.mini import MiniHost, MiniStack, etcd_path, wait_for

pytestmark = pytest.mark.live
METHODS = {"fetch": {"key": "k"}, "store": {"key": "k", "value": "v"}}
"""One that may be repeated, and one that may not."""


class Callers(threading.Thread):
    """Calls agents through one host without a pause, and keeps the outcomes."""

    def __init__(self, host: MiniHost, agents: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        self._host = host
        self._agents = agents
        self._end = threading.Event()
        self.outcomes: Counter[str] = Counter()

    def run(self) -> None:
        asyncio.run(self._call_all())

    async def _call_all(self) -> None:
        async with Client(self._host.run, self._host.name) as client:
            pairs = [(agent, method) for agent in self._agents for method in METHODS]
            await asyncio.gather(*(self._call(client, *pair) for pair in pairs))

    async def _call(self, client: Client, agent: str, method: str) -> None:
        while not self._end.is_set():
            try:
                await client.call(agent, method, METHODS[method], timeout_s=15.0)
                outcome = "ok"
            except CallError as error:
                outcome = f"{agent}.{method}: {error}"
            self.outcomes[outcome] += 1
            await asyncio.sleep(0.002)

    def some_more(self, number: int = 50) -> None:
        """Returns when this many more calls have ended."""
        wanted = self.outcomes.total() + number
        wait_for("more calls", lambda: self.outcomes.total() >= wanted)

    def finish(self) -> Counter[str]:
        self._end.set()
        self.join(20)
        assert not self.is_alive()
        return self.outcomes


@pytest.fixture
def linked() -> Iterator[MiniStack]:
    """Two hosts with ownership and gateways; what is away goes home after 0.3 s."""
    if etcd_path() is None:
        pytest.skip("no etcd here; `make setup` brings it")
    # A lease so long that no host looks lost, however slow this machine is.
    more = {"ownership": True, "failover": {"hold_down_ms": 300}, "lease": {"lease_ms": 60_000}}
    with MiniStack(("mainpc", "pc2"), more=more) as stack:
        try:
            stack.start()
            for host in stack.hosts.values():
                host.start("gateway")
            yield stack
        except BaseException:
            print(*stack.logs(), sep="\n")
            raise


def spec(name: str, home: str, standby: str, criticality: Criticality = Criticality.STANDARD) -> AgentSpec:
    return AgentSpec(
        name=name,
        home=home,
        standby=standby,
        category="test",
        criticality=criticality,
        handler="services.agent.reference:MemoryAgent",
    )


def primaries(host: MiniHost, *agents: str) -> list[str | None]:
    """Who serves each agent, by that host's answers."""
    found: list[str | None] = []
    for agent in agents:
        status, answer = host.get(f"/v1/resolve/{agent}")
        up = answer["instances"] if status == 200 else []
        found.append(up[0]["host"] if up else None)
    return found


def wait_until_served(what: str, host: MiniHost, by: dict[str, str]) -> None:
    wait_for(f"{what}, as {host.name} sees it", lambda: primaries(host, *by) == list(by.values()))


def domain(host: MiniHost, home: str) -> dict[str, object]:
    rows = host.get("/v1/domains")[1]["domains"]
    return next(row for row in rows if row["home"] == home)


def test_no_caller_on_either_host_sees_a_switch_over_or_a_drain(linked: MiniStack) -> None:
    mainpc, pc2 = linked.hosts["mainpc"], linked.hosts["pc2"]
    names = ("alpha", "beta", "gamma")
    mainpc.put(spec("alpha", "mainpc", "pc2"))
    mainpc.put(spec("beta", "mainpc", "pc2", Criticality.UTILITY))  # stands by cold
    pc2.put(spec("gamma", "pc2", "mainpc"))
    for host in (mainpc, pc2):
        wait_until_served("all at home", host, dict(zip(names, ["mainpc", "mainpc", "pc2"], strict=True)))
    wait_for("a warm standby", (pc2.run / "agents" / "alpha.pid").exists)
    callers = [Callers(host, names) for host in (mainpc, pc2)]
    for one in callers:
        one.start()
        one.some_more()

    order = {"home": "mainpc", "to": "pc2", "stay": True}
    status, answer = mainpc.ask("POST", "/v1/switchover", order)
    assert (status, answer["holder"], answer["stays"]) == (200, "pc2", "operator"), answer
    for host in (mainpc, pc2):
        wait_until_served("served by the other", host, dict(zip(names, ["pc2"] * 3, strict=True)))
    for one in callers:
        one.some_more()

    status, answer = pc2.ask("POST", "/v1/drain")
    assert status == 200, answer
    assert answer == {"draining": True, "handed_over": ["mainpc", "pc2"], "stopped": []}
    assert not list((pc2.run / "agents").glob("*.pid")), "a drained host runs no agents"
    for host in (mainpc, pc2):
        wait_until_served(
            "served by the one that is left", host, dict(zip(names, ["mainpc"] * 3, strict=True))
        )
    for one in callers:
        one.some_more()
    status, answer = mainpc.ask("POST", "/v1/switchover", {"home": "mainpc", "to": "pc2"})
    assert (status, answer["error"]["code"]) == (409, "conflict"), "nothing goes to a host that is drained"

    assert pc2.ask("DELETE", "/v1/drain")[0] == 200
    wait_for("its domain goes home by itself", lambda: primaries(mainpc, "gamma") == ["pc2"])
    for one in callers:
        one.some_more()
        assert set(one.finish()) == {"ok"}, one.outcomes


def test_a_switch_over_that_is_to_stay_stays_until_the_next_one(linked: MiniStack) -> None:
    mainpc, pc2 = linked.hosts["mainpc"], linked.hosts["pc2"]
    mainpc.put(spec("alpha", "mainpc", "pc2"))
    wait_for("served at home", lambda: primaries(pc2, "alpha") == ["mainpc"])
    assert mainpc.ask("POST", "/v1/switchover", {"home": "mainpc", "to": "pc2", "stay": True})[0] == 200
    wait_for("served by the other", lambda: primaries(mainpc, "alpha") == ["pc2"])
    pc2.stop("hostd")  # the wish outlives the daemon that holds the domain
    pc2.start("hostd")
    pc2.ready()
    wait_for("claimed anew", lambda: domain(pc2, "mainpc")["acting"])
    seen = wait_for("asked, and told to stay", lambda: "stays" in [event["event"] for event in pc2.events()])
    assert seen
    assert domain(pc2, "mainpc") | {"epoch": 0} == {
        "home": "mainpc",
        "holder": "pc2",
        "epoch": 0,
        "acting": True,
        "exceptions": {},
        "stays": "operator",
    }
    status, answer = pc2.ask("POST", "/v1/switchover", {"home": "mainpc", "to": "pc2"})
    assert (status, answer["stays"]) == (200, ""), "told where it is: it may go home now"
    wait_for("home again", lambda: primaries(pc2, "alpha") == ["mainpc"], timeout_s=30)
