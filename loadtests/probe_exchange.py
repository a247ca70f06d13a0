"""Signs of life between hosts: a kept connection to the other host's gateway, asked again and again."""

from __future__ import annotations

import asyncio
import os
import ssl
from pathlib import Path

from loadtests.probe_output import Output
from loadtests.protocol import Exchange, Trouble
from loadtests.record import Kind, now_ns
from services.agent.channel import Channel
from services.agent.connection import Scratch
from services.agent.errors import CallError
from services.agent.wire import NIL


async def exchange(output: Output, command: Exchange) -> None:
    """Asks `n` times over one connection of mutual TLS. Raises OSError when there is none to be had."""
    process, f = f"exchange-{output.host}", "exchange"
    pki = Path(os.environ["THREENINES_PKI"])
    context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
    context.load_cert_chain(str(pki / "host.pem"), str(pki / "host.key"))
    loop, timeout_s = asyncio.get_running_loop(), command.timeout_ms / 1000.0
    async with asyncio.timeout(timeout_s + 2.0):
        _, channel = await loop.create_connection(
            lambda: Channel(Scratch(), loop, peer=f"gateway of {command.peer}"),
            command.address,
            command.port,
            ssl=context,
            server_hostname=command.peer,
        )
    try:
        for _ in range(command.n):
            begin_ns = now_ns()
            output.invoke(process, f, command.peer, time_ns=begin_ns)
            try:
                await channel.request("gateway", "_ping", NIL, timeout_s=timeout_s)
            except CallError as error:
                told = Trouble(error=error.message, code=error.code)
                output.end(process, Kind.FAIL, f, command.peer, told)
            else:
                output.end(process, Kind.OK, f, command.peer)
            await asyncio.sleep(max(0.0, command.interval_ms / 1000.0 - (now_ns() - begin_ns) / 1e9))
    finally:
        channel.close()
