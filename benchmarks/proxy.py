"""`python -m benchmarks.proxy [STACK]`: what Toxiproxy costs on a way, on a stack that stands.

A TLS handshake through the proxied way beside one without it, one after the other, as the host's programs do.
"""

from __future__ import annotations

import sys

from benchmarks.harness import Figure, figure, quantile, report
from chaos.stage import Stage
from infra.environment import load_environment
from infra.topology import Port

ROUNDS = 200
SERVICES = {"etcd": Port.ETCD_CLIENT, "gateway": Port.GATEWAY, "redis": Port.REDIS}


def measure(stack: str) -> list[Figure]:
    """Median and p99 of both, in ms."""
    stage = Stage(load_environment(stack))
    figures: list[Figure] = []
    try:
        here, there = (host.name for host in stage.fleet.workers[:2])
        for service, port in SERVICES.items():
            way = stage.way(here, f"{service}-{there}")
            through: list[float] = []
            direct: list[float] = []
            for _ in range(ROUNDS):
                through.append(stage.handshake(here, way).took_ms)
                direct.append(stage.handshake(here, there=there, port=int(port)).took_ms)
            for name, share in (("median", 0.5), ("p99", 0.99)):
                ours, baseline = quantile(through, share), quantile(direct, share)
                figures.append(
                    figure("proxy", f"{service} handshake, {name}", "ms", ours, baseline, "without Toxiproxy")
                )
    finally:
        stage.close()
    return figures


if __name__ == "__main__":
    report(measure(sys.argv[1] if len(sys.argv) > 1 else "local"))
