"""Ours: the product's own units of two hosts and a witness, with failover on, and five agents.

Left out is what the peers have nothing like here: Prometheus and Alertmanager. A lost home is not gone back
to while the comparison lasts, so that every fault meets a system at rest, as with the peers.
"""

from __future__ import annotations

import json
import signal
from pathlib import Path

import msgspec

from benchmarks.peers.site import HOSTS, WITNESS, WORKERS, Site
from benchmarks.peers.summary import OURS
from benchmarks.peers.systems import ClientOrder, await_whole, workers_setting
from infra.hostd_api import AgentsView, HostdApi, HostdError
from infra.plan import UnitSpec, plan
from infra.substrates.base import SubstrateError
from infra.substrates.census import identify, send, wait_gone
from infra.topology import Port, load_fleet

AGENT = "register"
LEFT_OUT = frozenset({"prometheus", "alertmanager", "toxiproxy"})
PRELOAD = "services.agent.reference,benchmarks.peers.register_agent"
HOLD_DOWN_MS = 24 * 3600 * 1000


class Ours:
    """The whole protocol: leases in etcd, epochs, fences, the agents' state behind them."""

    name = OURS

    def __init__(self, site: Site) -> None:
        self._site = site
        fleet = load_fleet(site.environment.fleet)
        made = plan(fleet, site.environment)
        self._units = tuple(_adapted(unit) for unit in made.units if unit.name not in LEFT_OUT)
        self._agents = made.agents

    def start(self) -> None:
        for unit in self._units:
            self._site.substrate.create_unit(unit)
        for agent in self._agents:
            with self._api(agent.home) as api:
                api.put_agent(agent)
        await_whole(self)

    def client(self, host: str) -> ClientOrder:
        if host != WITNESS:
            return ClientOrder("python", "agent", {"agent": AGENT})
        keys = self._site.substrate.credentials()
        settings = {
            "agent": AGENT,
            "hosts": workers_setting(self._site),
            "port": str(int(Port.HOSTD)),
            "ca": str(keys.ca),
            "cert": str(keys.cert),
            "key": str(keys.key),
        }
        return ClientOrder("python", "hostd", settings)

    def kill_process(self, host: str) -> None:
        path = Path(self._site.substrate.run_folder(host)) / "agents" / f"{AGENT}.pid"
        process = identify(int(path.read_text().split()[0]))
        if process is None or not send(process, signal.SIGKILL) or not wait_gone((process,), 5.0):
            raise SubstrateError(f"{host}/{AGENT}", "it could not be killed", "see its log")

    def forget_power(self, host: str) -> None:
        """Nothing outlives its processes."""

    def revive(self, host: str) -> None:
        """The host's supervisor starts its units by itself."""

    def whole(self) -> bool:
        try:
            return all(self._agrees(host) for host in WORKERS) and all(
                state is not None and state.running
                for state in (self._site.substrate.inspect_unit(host, "etcd") for host in HOSTS)
            )
        except HostdError as error:
            raise OSError(str(error)) from error

    def _agrees(self, host: str) -> bool:
        """Whether this host knows one primary and one standby of each agent."""
        with self._api(host) as api:
            view = api.agents()
        return all(_covered(view, agent.name) for agent in self._agents)

    def _api(self, host: str) -> HostdApi:
        keys = self._site.substrate.credentials()
        return HostdApi(host, self._site.address(host), keys, timeout_s=15.0)


def _covered(view: AgentsView, agent: str) -> bool:
    states = sorted(one.state for one in view.agents if one.name == agent)
    return states == ["standby", "up"]


def _adapted(unit: UnitSpec) -> UnitSpec:
    """The product's unit, with the measured agent's module preloaded and no fail-back."""
    if unit.name == "zygote":
        return msgspec.structs.replace(unit, env={**unit.env, "THREENINES_PRELOAD": PRELOAD})
    if unit.name == "hostd":
        document = json.loads(unit.files["hostd.json"])
        document["failover"] = {"hold_down_ms": HOLD_DOWN_MS}
        return msgspec.structs.replace(unit, files={**unit.files, "hostd.json": json.dumps(document)})
    return unit
