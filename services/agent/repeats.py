"""When a call that failed is sent again: the rules of both clients, without a clock or a network.

A call that was held back (who serves it is being changed) is sent again for as long as it has time. One that
was refused as `overloaded` did nothing and is sent again a few times; of all calls to an agent only a share,
so that its callers do not keep it overloaded (a retry budget, as gRPC's retry throttling has it), and each
after another pause (full jitter: Brooker, *Exponential Backoff and Jitter*, 2015).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from services.agent.errors import CallError, Code

HELD_BACK: Final = frozenset({Code.UNAVAILABLE, Code.DRAINING, Code.FENCED})
"""Definite: nothing was done, and another instance may serve the call."""
FIRST_PAUSE_S: Final = 0.01
LAST_PAUSE_S: Final = 0.1
FIRST_BACK_OFF_S: Final = 0.05
LAST_BACK_OFF_S: Final = 1.0
MAX_REFUSALS: Final = 4
"""Repeats of one call that was only ever refused as `overloaded`."""
ALLOWED: Final = 10.0
"""Repeats of refused calls to one agent before any of its calls went well."""
EARNED: Final = 0.1
"""What a call that went well adds to them."""


class Budget:
    """What is left of the repeats to agents that refused calls of late. Others are not remembered."""

    __slots__ = ("spent",)

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        """By agent. Empty, which is cheap to ask, for as long as nobody is overloaded."""

    def take(self, agent: str) -> bool:
        """One repeat; False: there is none left."""
        spent = self.spent.get(agent, 0.0) + 1.0
        if spent > ALLOWED:
            return False
        self.spent[agent] = spent
        return True

    def earn(self, agent: str) -> None:
        """A call to it went well."""
        spent = self.spent.get(agent)
        if spent is None:
            return
        if spent <= EARNED:
            del self.spent[agent]
        else:
            self.spent[agent] = spent - EARNED


class Repeats:
    """The repeats of one call.

    `moves` tells whether another host may take the agent over; `draw` gives numbers from 0 to 1.
    """

    __slots__ = ("_agent", "_budget", "_draw", "_held_back", "_moves", "_pause_s", "_refusals", "_repeated")

    def __init__(
        self, agent: str, budget: Budget, draw: Callable[[], float], moves: Callable[[], bool]
    ) -> None:
        self._agent = agent
        self._budget = budget
        self._draw = draw
        self._moves = moves
        self._repeated = False
        self._held_back = False
        self._pause_s = FIRST_PAUSE_S
        self._refusals = 0

    def pause_s(self, error: CallError, *, idempotent: bool) -> float | None:
        """How long to wait before the call is sent once more after `error`; None: it is not.

        `idempotent`: running it twice is the same as once.
        """
        if error.code == Code.OVERLOADED:
            return self._after_refusal()
        if not self._repeated:
            if error.code not in HELD_BACK and not (error.code == Code.INDETERMINATE and idempotent):
                return None
            self._repeated = True
            self._held_back = error.code == Code.FENCED or self._moves()
            return 0.0
        if not self._held_back or error.code not in HELD_BACK:
            return None
        pause_s, self._pause_s = self._pause_s, min(2 * self._pause_s, LAST_PAUSE_S)
        return pause_s * (0.5 + self._draw())  # not in step with all the others that are held back

    def _after_refusal(self) -> float | None:
        number, self._refusals = self._refusals, self._refusals + 1
        # Who was held back comes together with all others that were: there are only so many of them.
        if not self._held_back and (number >= MAX_REFUSALS or not self._budget.take(self._agent)):
            return None
        return self._draw() * min(FIRST_BACK_OFF_S * 2.0 ** min(number, 16), LAST_BACK_OFF_S)
