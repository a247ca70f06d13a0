"""The event loop of agents and gateway: uvloop (docs/decisions/0005-event-loop.md has the figures)."""

from __future__ import annotations

import asyncio

import uvloop


def new_event_loop() -> asyncio.AbstractEventLoop:
    """For `asyncio.Runner(loop_factory=…)`."""
    return uvloop.new_event_loop()
