"""Small transactions on their way to etcd: at once while few are under way, many in one when there are more.

A transaction costs etcd a write to its disks and hostd half a millisecond of CPU, however small it is. Each
part keeps its own comparisons. One that fails refuses them all; then each is sent by itself, so that each
gets the answer that it would have got alone. Silence is silence for all of them.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Generic, TypeVar

from services.registry.etcd_types import EtcdError

AT_ONCE: Final = 2
"""Transactions under way before parts are gathered."""

Part = TypeVar("Part")
Answer = TypeVar("Answer")


class Gathering(Generic[Part, Answer]):
    """`send(parts)` is one transaction; `fits(parts)`: how many of those first in the queue go together, at
    least one; `refused(answer)`: a comparison failed, nothing was done.
    """

    def __init__(
        self,
        send: Callable[[Sequence[Part]], Awaitable[Answer]],
        *,
        fits: Callable[[Sequence[Part]], int],
        refused: Callable[[Answer], bool],
    ) -> None:
        self._send = send
        self._fits = fits
        self._refused = refused
        self._under_way = 0
        self._waiting: deque[tuple[Part, asyncio.Future[Answer]]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def idle(self) -> bool:
        """Whether nothing waits or is under way."""
        return not self._waiting and self._under_way == 0

    async def perform(self, part: Part) -> Answer:
        """The answer to a part. Raises EtcdError."""
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((part, answer))
        if self._under_way < AT_ONCE:
            self._next()
        return await answer

    def _next(self) -> None:
        count = self._fits([part for part, _ in self._waiting])
        group = [self._waiting.popleft() for _ in range(count)]
        self._under_way += 1
        task = asyncio.get_running_loop().create_task(self._perform(group))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _perform(self, group: list[tuple[Part, asyncio.Future[Answer]]]) -> None:
        try:
            if not await self._together(group, last=len(group) == 1):
                await asyncio.gather(*(self._together([one], last=True) for one in group))
        finally:
            for _, answer in group:
                answer.cancel()  # of those that have none: this task was ended
            self._under_way -= 1
            if self._waiting:
                self._next()

    async def _together(self, group: list[tuple[Part, asyncio.Future[Answer]]], *, last: bool) -> bool:
        """One transaction. False: refused, and nobody has been told."""
        outcome: Answer | EtcdError
        try:
            outcome = await self._send([part for part, _ in group])
        except EtcdError as error:
            outcome = error
        if not isinstance(outcome, EtcdError) and self._refused(outcome) and not last:
            return False
        for _, answer in group:
            if answer.done():
                continue  # whoever waited for it went away
            if isinstance(outcome, EtcdError):
                answer.set_exception(outcome)
            else:
                answer.set_result(outcome)
        return True
