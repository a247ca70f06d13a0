"""What `open_loop` calls, and the host that it stands on: an agent that answers what it was sent."""

from __future__ import annotations

import http.server
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from benchmarks.fleet import HOST, Fleet, fleet
from infra.topology import AgentSpec, Port
from services.agent.sdk import Agent, method

NAME = "echo"
LOCAL = "127.83.40.1"
"""The address of the host's API: its port is fixed, so it needs an address of its own."""
TASKS = f"tasks: [{{operation: call, share: 1, size_bytes: 100, bodies: {{{NAME}: {{text: '{{pad}}'}}}}}}]"


class Text(msgspec.Struct):
    """A body of any size."""

    text: str


class TextAgent(Agent):
    """Answers at once."""

    @method(idempotent=True)
    def echo(self, request: Text) -> Text:
        """The request."""
        return request


@asynccontextmanager
async def bench_host() -> AsyncIterator[Fleet]:
    """One agent from a zygote, its snapshot, and the list of agents by HTTP."""
    spec = AgentSpec(name=NAME, home=HOST, category="bench", handler="benchmarks.open_loop_agent:TextAgent")
    listing = http.server.ThreadingHTTPServer((LOCAL, int(Port.HOSTD_LOCAL)), _Listing)
    threading.Thread(target=listing.serve_forever, daemon=True).start()
    try:
        async with fleet(zygote=True) as running:
            await running.fork([spec])
            await running.ready([NAME])
            running.publish([spec])
            yield running
    finally:
        listing.shutdown()
        listing.server_close()


class _Listing(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        """`GET /v1/agents`."""
        one = {"name": NAME, "category": "bench", "methods": [NAME], "host": HOST, "role": "primary"}
        body = msgspec.json.encode({"agents": [one]})
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Says nothing."""
