"""The base units of a host, as specifications with placeholders: one template a server.

    worker:  etcd, redis, prometheus, alertmanager, toxiproxy (where chaos is allowed), hostd, gateway, zygote
    witness: etcd

Everything that listens on a host's address speaks TLS and asks for a client certificate of the stack.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable

from infra.monitoring_units import alertmanager, prometheus
from infra.plan import Environment, ReadyCheck, ReadyKind, UnitSpec
from infra.topology import Fleet, HostRole, HostSpec, Port, ProxiedPort

START_ORDER = ("etcd", "redis", "alertmanager", "prometheus", "toxiproxy", "zygote", "gateway", "hostd")
"""The order in which a stack starts: first this unit on every host, then the next."""

LEASE_MS, MARGIN_MS, RENEW_MS, DEADLINE_MS = 1200, 100, 200, 150
"""Ownership (DESIGN.md): a lease, what a challenger waits on top, its renewal, the deadline of one."""

REDIS_MEMORY_MB = 1024
"""Cap of the distributed discovery tier (SD-5: 1–2 GB)."""


def units_for(host: HostSpec, fleet: Fleet, environment: Environment) -> tuple[UnitSpec, ...]:
    """The units of `host`, in start order: pure, but for the rules files that it reads."""
    if host.role is HostRole.WITNESS:
        return (_etcd(host, fleet, environment),)
    makers: dict[str, Callable[[HostSpec, Fleet, Environment], UnitSpec | None]] = {
        "etcd": _etcd,
        "redis": _redis,
        "alertmanager": alertmanager,
        "prometheus": prometheus,
        "toxiproxy": _toxiproxy,
        "zygote": _zygote,
        "gateway": _gateway,
        "hostd": _hostd,
    }
    made = (makers[name](host, fleet, environment) for name in START_ORDER)
    return tuple(unit for unit in made if unit is not None)


def _etcd(host: HostSpec, fleet: Fleet, environment: Environment) -> UnitSpec:
    """A member. Other hosts or addresses make another cluster, so the data folder is named after them."""
    members = ",".join(f"{h.name}=https://{{address:{h.name}}}:{Port.ETCD_PEER}" for h in fleet.hosts)
    token = f"{environment.stack}-{_digest(*(h.name for h in fleet.hosts))}"
    last = host.name == fleet.hosts[-1].name
    # A member answers for its health only with a quorum, so the last one is asked for the cluster's.
    ready = (
        ReadyCheck(kind=ReadyKind.HTTPS, port=Port.ETCD_CLIENT, path="/health", timeout_s=30.0)
        if last
        else ReadyCheck(kind=ReadyKind.TCP, port=Port.ETCD_PEER, timeout_s=20.0)
    )
    return UnitSpec(
        host=host.name,
        name="etcd",
        program="etcd",
        args=(
            f"--name={host.name}",
            f"--data-dir={{data}}/{token}-{{address}}",
            f"--listen-peer-urls=https://{{address}}:{Port.ETCD_PEER}",
            f"--initial-advertise-peer-urls=https://{{address}}:{Port.ETCD_PEER}",
            f"--listen-client-urls=https://{{address}}:{Port.ETCD_CLIENT}",
            f"--advertise-client-urls=https://{{address}}:{Port.ETCD_CLIENT}",
            f"--initial-cluster={members}",
            f"--initial-cluster-token={token}",
            "--initial-cluster-state=new",
            "--heartbeat-interval=50",
            "--election-timeout=500",
            "--pre-vote=true",
            "--auto-compaction-mode=periodic",
            "--auto-compaction-retention=10m",
            f"--quota-backend-bytes={1 << 30}",
            "--max-snapshots=3",
            "--max-wals=3",
            "--log-level=error",  # at "warn" the JSON gateway writes a line for every request
            "--log-outputs=stderr",
            *_etcd_tls("", "client-cert-auth"),
            *_etcd_tls("peer-", "peer-client-cert-auth"),
        ),
        ready=ready,
    )


def _etcd_tls(prefix: str, asks: str) -> tuple[str, ...]:
    return (
        f"--{prefix}cert-file={{pki}}/host.pem",
        f"--{prefix}key-file={{pki}}/host.key",
        f"--{prefix}trusted-ca-file={{pki}}/ca.pem",
        f"--{asks}=true",
    )


def _redis(host: HostSpec, fleet: Fleet, environment: Environment) -> UnitSpec:
    """The first worker's is the primary, the others' replicate it. A cache: nothing is kept on disk."""
    primary = fleet.workers[0].name
    lines = [
        "bind {address}",
        "bind-source-addr {address}",
        "port 0",
        f"tls-port {Port.REDIS}",
        "tls-cert-file {pki}/host.pem",
        "tls-key-file {pki}/host.key",
        "tls-ca-cert-file {pki}/ca.pem",
        "tls-auth-clients yes",
        "tls-replication yes",
        'tls-protocols "TLSv1.2 TLSv1.3"',
        "dir {data}",
        "protected-mode no",
        "daemonize no",
        'logfile ""',
        "loglevel notice",
        'save ""',
        "appendonly no",
        f"maxmemory {REDIS_MEMORY_MB}mb",
        "maxmemory-policy allkeys-lru",
        "maxclients 1000",
        "repl-diskless-sync yes",
        "repl-diskless-sync-delay 0",
        "repl-diskless-load on-empty-db",
        "repl-timeout 5",
        "repl-ping-replica-period 1",
    ]
    if host.name != primary:
        lines.append(f"replicaof {{address:{primary}}} {Port.REDIS}")
    return UnitSpec(
        host=host.name,
        name="redis",
        program="redis-server",
        args=("{config}/redis.conf",),
        files={"redis.conf": "\n".join(lines) + "\n"},
        ready=ReadyCheck(kind=ReadyKind.TCP, port=Port.REDIS),
    )


def _toxiproxy(host: HostSpec, fleet: Fleet, environment: Environment) -> UnitSpec | None:
    """The ways to other hosts and to what may be taken away, where they may be disturbed.

    Proxies are named `<service>-<host>`. A host's own etcd member is reached directly.
    """
    if not environment.chaos:
        return None
    others = tuple(h for h in fleet.hosts if h.name != host.name)
    ways = (
        *((ProxiedPort.GATEWAY, Port.GATEWAY, h) for h in fleet.workers if h.name != host.name),
        *((ProxiedPort.ETCD, Port.ETCD_CLIENT, h) for h in others),
        *((ProxiedPort.REDIS, Port.REDIS, h) for h in fleet.workers),
        *((ProxiedPort.PROMETHEUS, Port.PROMETHEUS, h) for h in fleet.workers),
    )
    proxies = [
        {
            "name": f"{service.name.lower()}-{there.name}",
            "listen": f"{{local}}:{fleet.proxied_port(service, there.name)}",
            "upstream": f"{{address:{there.name}}}:{port}",
            "enabled": True,
        }
        for service, port, there in ways
    ]
    return UnitSpec(
        host=host.name,
        name="toxiproxy",
        program="toxiproxy-server",
        args=("-host={local}", f"-port={Port.TOXIPROXY}", "-config={config}/toxiproxy.json"),
        env={"LOG_LEVEL": "warn"},
        files={"toxiproxy.json": _json(proxies)},
        ready=ReadyCheck(kind=ReadyKind.TCP, port=Port.TOXIPROXY),
    )


def _hostd(host: HostSpec, fleet: Fleet, environment: Environment) -> UnitSpec:
    return UnitSpec(
        host=host.name,
        name="hostd",
        program="python",
        args=("-m", "services.hostd"),
        env={"THREENINES_CONFIG": "{config}/hostd.json", **_LEAN},
        files={"hostd.json": _json(host_configuration(host, fleet, environment))},
        ready=ReadyCheck(kind=ReadyKind.HTTPS, port=Port.HOSTD, path="/v1/ready", timeout_s=30.0),
        stop_timeout_s=10.0,
    )


def _gateway(host: HostSpec, fleet: Fleet, environment: Environment) -> UnitSpec:
    return UnitSpec(
        host=host.name,
        name="gateway",
        program="python",
        args=("-m", "services.gateway"),
        env={"THREENINES_CONFIG": "{config}/gateway.json", **_LEAN},
        files={"gateway.json": _json(host_configuration(host, fleet, environment))},
        ready=ReadyCheck(kind=ReadyKind.TCP, port=Port.GATEWAY, timeout_s=20.0),
    )


def _zygote(host: HostSpec, fleet: Fleet, environment: Environment) -> UnitSpec:
    """The process that agents are forked from; they outlive it."""
    return UnitSpec(
        host=host.name,
        name="zygote",
        program="python",
        args=("-m", "services.agent.zygote"),
        env=dict(_LEAN),
        ready=ReadyCheck(kind=ReadyKind.UNIX, path="{run}/zygote.sock", timeout_s=30.0),
        keeps_children=True,
    )


_LEAN = {
    "OPENBLAS_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "MALLOC_ARENA_MAX": "2",
}
"""No thread pools of numerical libraries, few arenas: a fork needs one thread, 77 agents little memory."""


def host_configuration(host: HostSpec, fleet: Fleet, environment: Environment) -> dict[str, object]:
    """What hostd and the gateway of `host` read (contracts.md, Host configuration), with placeholders."""
    index = {h.name: number for number, h in enumerate(fleet.hosts)}
    # In the order in which they are asked. Who watches at a peer's member learns of that peer's loss only
    # when the watch has been silent for long enough: rather at the witness's where the own one is not well.
    members = sorted(fleet.hosts, key=lambda h: (h.name != host.name, h.role is not HostRole.WITNESS))
    primary = fleet.workers[0].name

    def way(proxied: ProxiedPort, port: Port, there: HostSpec) -> tuple[str, int]:
        """Where this host dials a service of another: through Toxiproxy where chaos is allowed."""
        if environment.chaos:
            return "{local}", fleet.proxied_port(proxied, there.name)
        return f"{{address:{there.name}}}", int(port)

    def etcd_url(member: HostSpec) -> str:
        if member.name == host.name:
            return f"https://{{address}}:{Port.ETCD_CLIENT}"
        address, port = way(ProxiedPort.ETCD, Port.ETCD_CLIENT, member)
        return f"https://{address}:{port}"

    peers = [
        {
            "host": peer.name,
            "connect_host": way(ProxiedPort.GATEWAY, Port.GATEWAY, peer)[0],
            "connect_port": way(ProxiedPort.GATEWAY, Port.GATEWAY, peer)[1],
        }
        for peer in fleet.workers
        if peer.name != host.name
    ]
    # Left out where it is off: the configuration of such a stack is what it was before there was failover.
    ownership = {"ownership": True} if environment.failover else {}
    return {
        "schema": "threenines.host/1",
        "stack": environment.stack,
        "host": host.name,
        "role": host.role.value,
        "index": index[host.name],
        "address": "{address}",
        "local": "{local}",
        "run": "{run}",
        "data": "{data}",
        "pki": "{pki}",
        "chaos": environment.chaos,
        "hosts": [
            {"name": h.name, "role": h.role.value, "index": index[h.name], "address": f"{{address:{h.name}}}"}
            for h in fleet.hosts
        ],
        "etcd": [{"host": member.name, "url": etcd_url(member)} for member in members],
        "redis": [
            {
                "host": h.name,
                "address": way(ProxiedPort.REDIS, Port.REDIS, h)[0],
                "port": way(ProxiedPort.REDIS, Port.REDIS, h)[1],
                "role": "primary" if h.name == primary else "replica",
            }
            for h in fleet.workers
        ],
        "prometheus": [
            {
                "host": h.name,
                "address": way(ProxiedPort.PROMETHEUS, Port.PROMETHEUS, h)[0],
                "port": way(ProxiedPort.PROMETHEUS, Port.PROMETHEUS, h)[1],
            }
            for h in fleet.workers
        ],
        "peers": peers,
        **ownership,
        "ports": {
            "hostd": int(Port.HOSTD),
            "hostd_local": int(Port.HOSTD_LOCAL),
            "gateway": int(Port.GATEWAY),
        },
        "lease": {
            "lease_ms": LEASE_MS,
            "margin_ms": MARGIN_MS,
            "renew_ms": RENEW_MS,
            "deadline_ms": DEADLINE_MS,
        },
    }


def _json(document: object) -> str:
    return json.dumps(document, indent=1) + "\n"


def _digest(*parts: str) -> str:
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:8]
