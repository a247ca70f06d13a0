"""Signs of life between the hosts, both ways at once, with nothing broken."""

from __future__ import annotations

import asyncio

from infra.topology import Port
from loadtests.protocol import Exchange
from verification.campaigns.bench import Bench, obeyed


async def signs_of_life(bench: Bench, n: int) -> None:
    """`n` from each worker to another one."""
    bench.progress.phase("signs of life between hosts", n)
    hosts = bench.plan.hosts
    pairs = [(host, hosts[(at + 1) % len(hosts)]) for at, host in enumerate(hosts) if len(hosts) > 1]

    async def one(host: str, peer: str) -> None:
        address = bench.substrate.address(peer)
        told = Exchange(peer=peer, address=address, port=int(Port.GATEWAY), n=n)
        await obeyed(bench.probes[host], told)  # it fails only before the first of them

    await asyncio.gather(*(one(host, peer) for host, peer in pairs))
    bench.progress.tick(n)
