"""Asks every Prometheus server which agents it scrapes."""

from __future__ import annotations

import asyncio
import ssl

import aiohttp
import msgspec

from infra.topology import Port
from loadtests.protocol import Targets
from loadtests.record import Kind, Record, now_ns, raw
from verification.campaigns.bench import Bench

DEADLINE_S = 45.0
PAUSE_S = 2.0
REQUEST_TIMEOUT_S = 10.0


class _Target(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    labels: dict[str, str] = {}
    health: str = "unknown"
    last_error: str = ""


class _Active(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    active_targets: tuple[_Target, ...] = ()


class _Answer(msgspec.Struct, frozen=True, kw_only=True):
    status: str
    data: _Active


async def targets(bench: Bench) -> None:
    """Asks until every agent is an up target of every server, at most for `DEADLINE_S`."""
    names = {agent.name for agent in bench.plan.agents}
    bench.progress.phase("targets of Prometheus", len(names))
    credentials = bench.substrate.credentials()
    context = ssl.create_default_context(cafile=str(credentials.ca))
    context.load_cert_chain(str(credentials.cert), str(credentials.key))
    loop = asyncio.get_running_loop()
    end = loop.time() + DEADLINE_S
    timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        while True:
            up = await asyncio.gather(*(_ask(bench, session, context, host) for host in bench.plan.hosts))
            least = min(len(names & one) for one in up)
            bench.progress.tick(least, f"{least} of {len(names)} up on every server")
            if least == len(names) or loop.time() >= end:
                return
            await asyncio.sleep(PAUSE_S)


async def _ask(
    bench: Bench, session: aiohttp.ClientSession, context: ssl.SSLContext, host: str
) -> frozenset[str]:
    process = f"prometheus-{host}"

    def write(kind: Kind, value: object) -> None:
        bench.prometheus.record(
            Record(
                process=process,
                type=kind,
                f="targets",
                key=host,
                value=raw(value),
                time_ns=now_ns(),
                host=host,
            )
        )

    url = f"https://{bench.substrate.address(host)}:{int(Port.PROMETHEUS)}/api/v1/targets"
    write(Kind.INVOKE, None)
    try:
        async with session.get(
            url, params={"state": "active"}, ssl=context, server_hostname=host
        ) as response:
            response.raise_for_status()
            answer = msgspec.json.decode(await response.read(), type=_Answer)
    except (aiohttp.ClientError, TimeoutError, msgspec.MsgspecError) as error:
        write(Kind.FAIL, {"error": f"{type(error).__name__}: {error}"})
        return frozenset()
    agents = [one for one in answer.data.active_targets if "agent" in one.labels]
    up = frozenset(one.labels["agent"] for one in agents if one.health == "up")
    down = {one.labels["agent"]: one.last_error or one.health for one in agents if one.health != "up"}
    told = Targets(up=tuple(sorted(up)), down={name: why for name, why in down.items() if name not in up})
    write(Kind.OK, told)
    return up
