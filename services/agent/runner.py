"""The life of one agent process: serve, register, drain on SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from pathlib import Path
from typing import Final

from infra.topology import AgentSpec
from services.agent.client import Client
from services.agent.connection import Scratch
from services.agent.hostd_link import HostdLink, registration
from services.agent.log import configure
from services.agent.loop import new_event_loop
from services.agent.pace import HURRY_S, settle
from services.agent.sdk import AgentDefinitionError, load_agent
from services.agent.server import AgentServer
from services.agent.standing import open_standing

EXIT_CANNOT_START: Final = 78
"""The agent's definition is wrong (EX_CONFIG of sysexits.h): starting it again will not help."""

log = logging.getLogger("threenines.agent")


def run_agent(
    spec: AgentSpec,
    incarnation: int,
    run: Path,
    host: str | None,
    *,
    hurried: bool = False,
) -> int:
    """Serves until SIGTERM or SIGINT; the exit status of the process. `hurried`: to be settled a while after
    the start (services.agent.pace)."""
    configure(spec.name)
    try:
        cls = load_agent(spec.handler or "")
    except AgentDefinitionError as error:
        log.error("cannot start: %s", error)
        return EXIT_CANNOT_START
    agent = cls(spec, incarnation=incarnation)
    standing = open_standing(spec, incarnation, run, Scratch())
    if standing is not None:
        agent.state = standing.state
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        server = AgentServer(agent, run / "agents" / f"{spec.name}.sock", standing=standing)
        return runner.run(_serve(server, run, host, hurried=hurried))


async def _serve(server: AgentServer, run: Path, host: str | None, *, hurried: bool) -> int:
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    caller = Client(run, host)
    server.agent.connect(caller if server.standing is None else server.standing.guarded(caller))
    try:
        await server.start()
    except Exception:
        log.exception("cannot start")
        await caller.close()
        return 1
    link = HostdLink(run / "hostd.sock", registration(server.describe(), os.getpid()), server.scratch)
    link.start()
    if hurried:
        loop.call_later(HURRY_S, settle)
    await stop.wait()
    await link.stop()
    await server.stop()
    await caller.close()
    if server.standing is not None:
        server.standing.close()
    return 0
