"""Brings every agent back to its home host between two pieces of a night."""

from __future__ import annotations

import asyncio
import threading
import time

from infra.substrates.base import Substrate
from verification.campaigns.stack_view import AskError, StackView

SETTLE_LIMIT_S = 60.0
SWITCH_LIMIT_S = 10.0
TRIES = 5
POLL_S = 0.5


async def bring_home(
    substrate: Substrate, workers: tuple[str, ...], homed: dict[str, int], stop: threading.Event
) -> str | None:
    """Waits for `homed` instances on each worker and hands every domain back; what lacks, None: nothing.

    Once `stop` is set, nothing more is asked for.
    """
    view = StackView(substrate, workers)
    view.usual = dict(homed)
    try:
        end = time.monotonic() + SETTLE_LIMIT_S
        while (lacks := await view.whole(homed)) is not None and time.monotonic() < end:
            if stop.is_set():
                return lacks
            await asyncio.sleep(POLL_S)
        for home in workers:
            told = await _domain_home(view, home, stop)
            lacks = lacks or told
        return lacks
    finally:
        await view.close()


async def _domain_home(view: StackView, home: str, stop: threading.Event) -> str | None:
    why: str | None = None
    for _ in range(TRIES):
        if stop.is_set():
            break
        try:
            domain = (await view.domains(home)).get(home)
        except AskError as error:
            why = f"{home}: {error}"
        else:
            if domain is None or domain.holder == home:
                return None
            why = await view.switch_over(domain.holder, home, home, SWITCH_LIMIT_S)
            if why is None:
                return None
        await asyncio.sleep(POLL_S)
    return f"the agents of {home} are not at home ({why})"
