"""Redis with Sentinel: a master, a replica, and three Sentinels that vote (quorum 2)."""

from __future__ import annotations

from typing import Any

import redis

from benchmarks.peers.site import HOSTS, MAIN, WITNESS, WORKERS, Site
from benchmarks.peers.systems import ClientOrder, await_whole, workers_setting
from benchmarks.peers.systems.programs import Program, Programs
from infra.tools.paths import tool_path

PORT, SENTINEL_PORT = 6379, 26379
MASTER = "register"
DOWN_AFTER_MS = 300
"""Half a second is the usual lower end; this is less, and no false failover was seen with it."""
FAILOVER_TIMEOUT_MS = 2000

REDIS = """\
bind {address} 127.0.0.1
port {port}
dir {folder}
protected-mode no
save ""
appendonly no
repl-diskless-sync yes
repl-diskless-sync-delay 0
repl-diskless-load on-empty-db
repl-ping-replica-period 1
"""

SENTINEL = """\
bind {address} 127.0.0.1
port {port}
dir {folder}
protected-mode no
sentinel monitor {master} {first} {redis} 2
sentinel down-after-milliseconds {master} {down_after_ms}
sentinel failover-timeout {master} {failover_timeout_ms}
sentinel parallel-syncs {master} 1
"""


class RedisSentinel:
    """`min-replicas-to-write` stays 0: with two data hosts, 1 would refuse every write after a failover."""

    name = "redis-sentinel"

    def __init__(self, site: Site) -> None:
        self._site = site
        self._programs = Programs(site)

    def start(self) -> None:
        for host in HOSTS:
            folder = self._site.folder / f"{host}-redis"
            folder.mkdir()
            address = self._site.address(host)
            (folder / "sentinel.conf").write_text(
                SENTINEL.format(
                    address=address,
                    port=SENTINEL_PORT,
                    folder=folder,
                    master=MASTER,
                    first=self._site.address(MAIN),
                    redis=PORT,
                    down_after_ms=DOWN_AFTER_MS,
                    failover_timeout_ms=FAILOVER_TIMEOUT_MS,
                )
            )
            text = REDIS.format(address=address, port=PORT, folder=folder)
            (folder / "redis.conf").write_text(text)
        for host in WORKERS:
            self._redis(host, self._site.address(MAIN))
        for host in HOSTS:
            self._sentinel(host)
        await_whole(self)

    def client(self, host: str) -> ClientOrder:
        sentinels = ",".join(f"{self._site.address(name)}:{SENTINEL_PORT}" for name in HOSTS)
        settings = {"hosts": workers_setting(self._site), "sentinels": sentinels, "master": MASTER}
        return ClientOrder("python", "sentinel", settings)

    def kill_process(self, host: str) -> None:
        self._programs.kill(host, "redis")

    def forget_power(self, host: str) -> None:
        """Nothing outlives its processes."""

    def revive(self, host: str) -> None:
        if host in WORKERS and not self._programs.runs(host, "redis"):
            # As a replica of whoever is master now: without a copy on disk it has nothing to offer.
            self._redis(host, self._master())
        self._sentinel(host)

    def whole(self) -> bool:
        masters = set()
        for host in HOSTS:
            state = self._state(host)
            masters.add(str(state["ip"]))
            replicas: Any = self._ask(host, SENTINEL_PORT).sentinel_slaves(MASTER)
            if state["is_odown"] or state["is_sdown"] or state["num-other-sentinels"] != len(HOSTS) - 1:
                return False
            if len(replicas) != 1 or replicas[0]["is_sdown"] or replicas[0]["master-link-status"] != "ok":
                return False
        if len(masters) != 1:
            return False
        master = next(host for host in WORKERS if self._site.address(host) in masters)
        told: Any = self._ask(master, PORT).info("replication")
        return bool(told["role"] == "master" and told.get("slave0", {}).get("state") == "online")

    def _state(self, host: str) -> dict[str, Any]:
        """What the Sentinel of a host thinks of the master."""
        state: Any = self._ask(host, SENTINEL_PORT).sentinel_master(MASTER)
        assert isinstance(state, dict)
        return state

    def _master(self) -> str:
        return str(self._state(WITNESS)["ip"])

    def _redis(self, host: str, master: str) -> None:
        follow = () if master == self._site.address(host) else ("--replicaof", f"{master} {PORT}")
        conf = self._site.folder / f"{host}-redis" / "redis.conf"
        self._programs.ensure(host, Program("redis", (str(tool_path("redis-server")), str(conf), *follow)))

    def _sentinel(self, host: str) -> None:
        conf = self._site.folder / f"{host}-redis" / "sentinel.conf"
        argv = (str(tool_path("redis-server")), str(conf), "--sentinel")
        self._programs.ensure(host, Program("sentinel", argv))

    def _ask(self, host: str, port: int) -> redis.Redis:
        address = self._site.address(host)
        return redis.Redis(address, port, socket_timeout=1, socket_connect_timeout=1, decode_responses=True)
