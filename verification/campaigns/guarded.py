"""Every fault of the campaigns with its undo on disk: one session of chaos for all of them.

    async with guarded.covered("host-kill pc2", ("host/pc2",), undo) as cover:
        ...  # inject, watch, heal
        cover.healed()

The campaigns go on making, proving and healing their faults themselves. A harness that is killed or stands
still in between has them undone by the guard of `chaos`; a trial during which its lease was lost is void.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable

from chaos.cover import Cover
from chaos.errors import LeaseLost
from chaos.ledger import Opened
from chaos.session import Session
from chaos.undo import AnyUndo
from infra.plan import Environment
from infra.topology import Fleet

PURPOSE = "verify"


class Guarded:
    """The session of a run's campaigns, opened when first needed. For one event loop; close it after that."""

    def __init__(self, environment: Environment, fleet: Fleet) -> None:
        self.say: Callable[[str], None] = lambda _line: None
        """Gets what the session found, and why another one was opened."""
        self._environment = environment
        self._fleet = fleet
        self._session: Session | None = None
        self._alone = asyncio.Lock()
        self._on = 0
        self._none_on = asyncio.Event()
        self._none_on.set()

    async def stand(self) -> Session:
        """Sees that faults can be covered: a session whose lease was lost makes way for a new one.

        Called before a trial looks at the stack: a guard takes a moment to start. Raises ChaosError,
        SubstrateError.
        """
        async with self._alone:
            while self._session is not None and self._session.lost and self._on:
                await self._none_on.wait()  # nobody closes a session under somebody's trial
            if self._session is None or self._session.lost:
                found = await asyncio.to_thread(self._open)
                for line in found:
                    self.say(line)
            assert self._session is not None
            return self._session

    @contextlib.asynccontextmanager
    async def covered(
        self, label: str, targets: tuple[str, ...], undo: tuple[AnyUndo, ...]
    ) -> AsyncIterator[Cover]:
        """Around a fault, from before its injection until after its healing. No undo: it ends by itself.

        Raises LeaseLost before the block, when nothing may begin, or after it, when nothing of it counts;
        NotHealed when something is left; what `stand` raises.
        """
        if not undo:
            yield Cover(Opened(id="", fault=label, targets=targets, undo=(), time_ns=0), lambda _cover: None)
            return
        session = await self.stand()
        self._on += 1
        self._none_on.clear()
        try:
            # Cancelled meanwhile: what was written down is undone when the session is closed.
            cover = await asyncio.to_thread(session.cover, label, targets, undo)
            try:
                yield cover
            except BaseException:
                with contextlib.suppress(LeaseLost):
                    await asyncio.shield(asyncio.to_thread(cover.end))
                raise
            await asyncio.shield(asyncio.to_thread(cover.end))
        finally:
            self._on -= 1
            if not self._on:
                self._none_on.set()

    def close(self) -> None:
        """Ends the session, if there is one, and every fault that is still on. Raises NotHealed."""
        session, self._session = self._session, None
        if session is not None:
            session.close()

    def _open(self) -> tuple[str, ...]:
        lost = self._session is not None
        self.close()
        self._session = Session.open(self._environment, purpose=PURPOSE, lock=False, fleet=self._fleet)
        told = ("the lease had been lost: a new session was opened",) if lost else ()
        return (*told, *self._session.swept)
